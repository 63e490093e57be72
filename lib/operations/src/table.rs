//! The table.

use crate::{BadName, Caller, DataClass, Effect, Kind, Method};
use std::{fmt, str::FromStr};

macro_rules! operations {
    ($(
        $name:ident {
            $method:ident $path:literal, $purpose:literal;
            on $($kind:ident)+; for $($caller:ident)+; $effect:ident; sensitive $sensitive:literal;
            asks $($asked:ident)*; answers $($answered:ident)*; notes $($note:ident)*;
        }
    )*) => {
        /// An operation on a host: its name is what a token allows and what a log tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Operation { $(#[doc = $purpose] $name),* }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in tokens, logs and the rights configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Its HTTP method.
            pub const fn method(self) -> Method {
                match self { $(Self::$name => Method::$method),* }
            }

            /// Its path.
            pub const fn path(self) -> &'static str {
                match self { $(Self::$name => $path),* }
            }

            /// What it is for, one sentence.
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$name => $purpose),* }
            }

            /// What a token must name for it: of each of these kinds the resource that the request touches, if it touches one.
            pub const fn kinds(self) -> &'static [Kind] {
                match self { $(Self::$name => &[$(Kind::$kind),+]),* }
            }

            /// For whom it is made.
            pub const fn callers(self) -> &'static [Caller] {
                match self { $(Self::$name => &[$(Caller::$caller),+]),* }
            }

            /// What it does to the host.
            pub const fn effect(self) -> Effect {
                match self { $(Self::$name => Effect::$effect),* }
            }

            /// Whether a person should hear of each use: a token for it is good for one call, and a host does
            /// few of them in a time.
            pub const fn sensitive(self) -> bool {
                match self { $(Self::$name => $sensitive),* }
            }

            /// Classes of the data in a request.
            pub const fn request_classes(self) -> &'static [DataClass] {
                match self { $(Self::$name => &[$(DataClass::$asked),*]),* }
            }

            /// Classes of the data in an answer.
            pub const fn answer_classes(self) -> &'static [DataClass] {
                match self { $(Self::$name => &[$(DataClass::$answered),*]),* }
            }

            /// Parameters of the request that the record's `detail` holds, as `name=value`.
            pub const fn notes(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$(stringify!($note)),*]),* }
            }
        }
    };
}

operations! {
    HostStatus {
        Get "/v1/status", "Tell what the host is, what it measured, and the state of its volumes and its instances.";
        on Host; for Operator ControlPlane Pipeline Auditor; Observe; sensitive false;
        asks; answers Identifier Parameter State Measurement Public; notes;
    }
    AttestHost {
        Get "/v1/attest", "Give evidence for a nonce of what the host measured: what its TPM signs, the event log, certificates and the release.";
        on Host; for Operator ControlPlane Pipeline Auditor; Observe; sensitive false;
        asks Parameter; answers State Measurement Public; notes;
    }
    ListFirmware {
        Get "/v1/firmware", "Tell which images the release has that the host runs.";
        on Host; for Operator Auditor; Observe; sensitive false;
        asks; answers State Measurement; notes;
    }
    VerifyFirmware {
        Get "/v1/firmware/verify", "Read every image in the store and the firmware in flash again, and tell which are not what the release says.";
        on Host; for Operator Auditor; Observe; sensitive false;
        asks; answers State Measurement; notes;
    }
    ReadLog {
        Get "/v1/log", "Give the next records of the host's log.";
        on Host; for Auditor; Observe; sensitive false;
        asks State; answers Identifier State Measurement Audit; notes;
    }
    AcknowledgeLog {
        Post "/v1/log/acknowledge", "Tell that the audit service holds the host's log up to a record, so that the host may let the oldest records go.";
        on Host; for Auditor; Change; sensitive false;
        asks State Measurement; answers; notes up_to checkpoint;
    }
    DrainHost {
        Post "/v1/host/drain", "Take no new volume and start no instance from now on; a running instance goes on.";
        on Host; for Operator; Change; sensitive true;
        asks; answers; notes;
    }
    ResumeHost {
        Post "/v1/host/resume", "Take new volumes and start instances again.";
        on Host; for Operator; Change; sensitive true;
        asks; answers; notes;
    }
    PowerCycleHost {
        Post "/v1/host/power-cycle", "Hold the main board in reset, verify its firmware again, and let it start afresh; not while an instance is started.";
        on Host; for Operator; Change; sensitive true;
        asks; answers; notes;
    }
    ResetHost {
        Post "/v1/host/reset", "Destroy the host's identity, its store and its keys, prove it, and go back to the first state; only a drained host without volumes and instances.";
        on Host; for Operator; Change; sensitive true;
        asks; answers State Measurement Public; notes;
    }
    OfferCertificate {
        Post "/v1/host/certificate", "Take the next certificates of the host from its environment's authority, and show them from now on.";
        on Host; for Pipeline; Change; sensitive true;
        asks Public; answers; notes;
    }
    UpdateTokenKeys {
        Post "/v1/host/token-keys", "Trust the next set of the token service's public keys, signed by a key of the present set.";
        on Host; for Pipeline; Change; sensitive true;
        asks Public; answers; notes sequence;
    }
    AttachVolume {
        Post "/v1/volumes/attach", "Show an encrypted volume to the main board, or to an instance, as an NVMe function.";
        on Volume Instance; for ControlPlane; Change; sensitive false;
        asks Identifier Parameter State Sealed; answers Identifier Parameter State; notes slot size;
    }
    DetachVolume {
        Post "/v1/volumes/detach", "Wipe the volume's key and take its function away.";
        on Volume; for ControlPlane; Change; sensitive false;
        asks Identifier State; answers; notes force;
    }
    StartInstance {
        Post "/v1/instances/start", "Start an instance from its root volume: on the main board, with its firmware verified again, or in a hypervisor of its own.";
        on Instance Volume; for ControlPlane; Change; sensitive false;
        asks Identifier Parameter Public; answers Identifier Parameter State Measurement; notes instance_type credits;
    }
    StopInstance {
        Post "/v1/instances/stop", "Press the instance's power button, then hold the main board in reset or end its hypervisor.";
        on Instance; for ControlPlane; Change; sensitive false;
        asks Identifier State; answers; notes force;
    }
    InstanceStatistics {
        Get "/v1/instances/statistics", "Tell in numbers what the processors of an instance do.";
        on Instance; for ControlPlane; Observe; sensitive false;
        asks Identifier; answers Identifier State; notes;
    }
    ReadConsole {
        Get "/v1/instances/console", "Give console output of an instance, sealed by it to its tenant.";
        on Instance; for ControlPlane; Observe; sensitive false;
        asks Identifier State; answers State Sealed; notes;
    }
    WriteConsole {
        Post "/v1/instances/console", "Pass console input to an instance, sealed to it by its tenant.";
        on Instance; for ControlPlane; Change; sensitive false;
        asks Identifier Sealed; answers; notes;
    }
}

impl Operation {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        self.name()
    }

    /// The operation with this method and path.
    pub fn find(method: &str, path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|o| o.method().name() == method && o.path() == path)
    }

    /// Everything that a record of it holds: [`crate::AUDIT_FIELDS`] and its own notes.
    pub fn audit_fields(self) -> impl Iterator<Item = &'static str> {
        crate::AUDIT_FIELDS.iter().chain(self.notes()).copied()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::ALL.iter().copied().find(|o| o.name() == text).ok_or(BadName("the name of an operation"))
    }
}

as_text!(Operation);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_operations_share_a_name_or_a_method_and_path() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(|o| o.name()).collect();
        let paths: BTreeSet<_> = Operation::ALL.iter().map(|o| (o.method(), o.path())).collect();
        assert_eq!((names.len(), paths.len()), (Operation::ALL.len(), Operation::ALL.len()));
        for operation in Operation::ALL {
            assert_eq!(Operation::find(operation.method().name(), operation.path()), Some(*operation));
            assert_eq!(operation.name().parse(), Ok(*operation));
            let text = serde_json::to_string(operation).unwrap();
            assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), *operation);
        }
        assert_eq!(Operation::find("DELETE", "/v1/status"), None);
        assert!("hoststatus".parse::<Operation>().is_err());
    }

    #[test]
    fn what_only_reads_takes_no_body_and_is_not_sensitive() {
        for operation in Operation::ALL {
            let observes = operation.effect() == Effect::Observe;
            assert_eq!(observes, operation.method() == Method::Get, "{operation}");
            assert!(!(observes && operation.sensitive()), "{operation}");
        }
    }

    #[test]
    fn people_have_nothing_on_volumes_and_instances() {
        for operation in Operation::ALL.iter().filter(|o| o.kinds() != [Kind::Host]) {
            assert_eq!(operation.callers(), [Caller::ControlPlane], "{operation}");
        }
    }
}
