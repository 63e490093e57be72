//! The words that the table is written in.

/// A text that names none of the things it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct BadName(pub(crate) &'static str);

/// Serde by `Display` and `FromStr`.
macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = $crate::BadName;
            fn try_from(text: String) -> Result<Self, $crate::BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

/// An enumeration of words.
macro_rules! words {
    ($(
        $(#[$doc:meta])*
        $name:ident, $what:literal { $( $(#[$word_doc:meta])* $variant:ident = $word:literal ),* $(,)? }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name { $( $(#[$word_doc])* $variant ),* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it is written.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::BadName;
            fn from_str(text: &str) -> Result<Self, $crate::BadName> {
                Self::ALL.iter().copied().find(|word| word.name() == text).ok_or($crate::BadName($what))
            }
        }

        as_text!($name);
    )*};
}

words! {
    /// What kind of thing a token can name.
    Kind, "a kind of resource: want host, volume or instance" {
        /// A host.
        Host = "host",
        /// A volume.
        Volume = "volume",
        /// An instance.
        Instance = "instance",
    }

    /// For whom an operation is made. Whom exactly it is granted to is for the rights configuration to say,
    /// within these.
    Caller, "a kind of caller: want operator, control-plane, pipeline or auditor" {
        /// A person who keeps servers alive.
        Operator = "operator",
        /// A service that acts for customers.
        ControlPlane = "control-plane",
        /// The pipeline that rolls out releases and keys.
        Pipeline = "pipeline",
        /// Who reads what was done: the audit service, an auditor.
        Auditor = "auditor",
    }

    /// What an operation does to the host.
    Effect, "an effect: want observe or change" {
        /// It changes nothing but the log.
        Observe = "observe",
        /// It changes the host.
        Change = "change",
    }

    /// The HTTP method of an operation.
    Method, "a method: want GET or POST" {
        /// Reads; its parameters are in the query.
        Get = "GET",
        /// Acts; its parameters are in a JSON body.
        Post = "POST",
    }

    /// What kind of data a value is. There is no class for customer content, so nothing in a message can
    /// be of it.
    ///
    /// ```compile_fail
    /// let class = operations::DataClass::CustomerContent;
    /// ```
    DataClass, "a data class" {
        /// The name of a host, a volume, an instance, a slot, an operation.
        Identifier = "identifier",
        /// A setting that the caller chooses.
        Parameter = "parameter",
        /// State, counters and sizes.
        State = "state",
        /// A hash of what the host runs.
        Measurement = "measurement",
        /// A certificate or public key.
        Public = "public",
        /// Ciphertext that only a card can open, or only an instance and its tenant.
        Sealed = "sealed",
        /// Who did what when.
        Audit = "audit",
    }
}

impl Method {
    /// Upper case, as on the request line.
    pub const fn as_str(self) -> &'static str {
        self.name()
    }
}
