//! The bounded texts that messages are made of.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use operations::DataClass;

/// A text that is not what its place wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: want {least} to {most} bytes of {alphabet}")]
pub struct BadText {
    what: &'static str,
    least: usize,
    most: usize,
    alphabet: &'static str,
}

macro_rules! texts {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident : $class:ident, $what:literal, $least:literal to $most:literal,
        $pattern:literal, $alphabet:literal, $good:expr;
    )*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest text in bytes.
            pub const MAX: usize = $most;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadText;
            fn try_from(text: String) -> Result<Self, BadText> {
                let good: fn(&str) -> bool = $good;
                if ($least..=$most).contains(&text.len()) && good(&text) {
                    Ok(Self(text))
                } else {
                    Err(BadText { what: $what, least: $least, most: $most, alphabet: $alphabet })
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadText;
            fn from_str(text: &str) -> Result<Self, BadText> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl crate::datum::sealed::Sealed for $name {}
        impl crate::datum::Datum for $name {
            fn schema(
                _: &mut utoipa::openapi::schema::Components,
            ) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                crate::datum::string(DataClass::$class, ($least, $most), $pattern)
            }
        }
    )*};
}

fn all(text: &str, good: fn(u8) -> bool) -> bool {
    text.bytes().all(good)
}

fn lower_hex(text: &str) -> bool {
    all(text, |b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn printable(text: &str) -> bool {
    all(text, |b| matches!(b, b' '..=b'~'))
}

texts! {
    /// The block-device name that the tenant asked for: `/dev/sdf`, `xvdf`.
    DeviceName: Parameter, "a device name", 1 to 32, "^[!-~]+$", "printable ASCII without blanks",
        |text| all(text, |b| b.is_ascii_graphic());
    /// A 512-bit volume key sealed to one card for one host and volume, in base64.
    SealedKey: Sealed, "a sealed key", 4 to 256, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// Console bytes sealed between an instance and its tenant (`seal::console`), at most 32 KiB, in base64.
    SealedConsole: Sealed, "sealed console bytes", 0 to 43692, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// The public key (X25519) to which an instance seals its console, in base64url.
    ConsoleKey: Public, "a console key", 43 to 43, "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$", "base64url",
        |text| URL_SAFE_NO_PAD.decode(text).is_ok();
    /// The name of an instance type, as EC2 writes it: `t3.micro`; `metal` is the whole main board.
    InstanceType: Parameter, "an instance type", 1 to 32, "^[a-z0-9.-]+$", "a-z, 0-9, . and -",
        |text| all(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    /// A family of instance types: `t3`.
    Family: State, "a family", 1 to 16, "^[a-z0-9-]+$", "a-z, 0-9 and -",
        |text| all(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    /// A SHA-256 value.
    Sha256: Measurement, "a SHA-256 value", 64 to 64, "^[0-9a-f]{64}$", "lower-case hexadecimal", lower_hex;
    /// The unique id of a token.
    TokenId: Audit, "a token id", 32 to 32, "^[0-9a-f]{32}$", "lower-case hexadecimal", lower_hex;
    /// The id of one request: the single-use id of its proof of possession. The caller made it, so both
    /// sides' logs have it.
    RequestId: Audit, "a request id", 32 to 32, "^[0-9a-f]{32}$", "lower-case hexadecimal", lower_hex;
    /// A set of the token service's public keys, signed by one of the set before (`token::KeySet`), in base64.
    SignedKeys: Public, "a signed key set", 4 to 1024, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// A random number, used once, of who asks for evidence: 32 bytes in base64url.
    Nonce: Parameter, "a nonce", 43 to 43, "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$", "base64url",
        |text| URL_SAFE_NO_PAD.decode(text).is_ok();
    /// A structure that a TPM made (at most 2 KiB), in base64.
    TpmStructure: Measurement, "a TPM structure", 0 to 2732, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// A TPM's attestation key, or what certifies it (at most 2 KiB), in base64.
    AttestationKey: Public, "an attestation key", 0 to 2732, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// A signed certificate of erasure (at most 8 KiB), in base64.
    SignedStatement: State, "a signed statement", 0 to 10924, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// A release's signed manifest (at most 16 KiB), in base64.
    SignedManifest: Measurement, "a signed manifest", 0 to 21848, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// A signed configuration (at most 65 KiB), in base64.
    SignedConfiguration: Measurement, "a signed configuration", 0 to 88748, "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
        "base64", |text| STANDARD.decode(text).is_ok();
    /// X.509 certificates in PEM form (RFC 7468), the host's own first.
    Pem: Public, "a certificate", 1 to 16384, "^[\\n -~]+$", "PEM text",
        |text| all(text, |b| matches!(b, b'\n' | b' '..=b'~'));
    /// A card key certificate: COSE_Sign1 by the host identity key, in base64.
    CardCertificate: Public, "a card key certificate", 4 to 1024, "^[A-Za-z0-9+/]+=*$", "base64",
        |text| STANDARD.decode(text).is_ok();
    /// An Ed25519 signature (RFC 8032), in base64.
    Signature: Audit, "a signature", 88 to 88, "^[A-Za-z0-9+/]{85}[AQgw]==$", "base64",
        |text| STANDARD.decode(text).is_ok();
    /// A stable code, for programs: `volume.busy`.
    Code: State, "a code", 1 to 64, "^[a-z0-9.-]+$", "a-z, 0-9, . and -",
        |text| all(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    /// A sentence for people that says what to do.
    Sentence: State, "a sentence", 0 to 512, "^[ -~]*$", "printable ASCII", printable;
    /// What was measured: the name of a file or setting of the host itself.
    Label: Measurement, "a label", 1 to 128, "^[ -~]+$", "printable ASCII", printable;
    /// A moment in UTC (RFC 3339).
    Timestamp: Audit, "a time", 20 to 35, "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z$", "RFC 3339 in UTC",
        |text| text.ends_with('Z') && all(text, |b| b.is_ascii_digit() || b"-:.TZ".contains(&b));
    /// Where a request came from: `address:port`.
    PeerAddress: Audit, "a network address", 3 to 64, "^[0-9a-zA-Z.:%\\[\\]]+$", "an address and a port",
        |text| text.parse::<std::net::SocketAddr>().is_ok();
}

macro_rules! base64_texts {
    ($($name:ident),*) => {$(
        impl $name {
            /// From the bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadText> {
                STANDARD.encode(bytes).try_into()
            }

            /// The bytes.
            pub fn to_bytes(&self) -> Vec<u8> {
                STANDARD.decode(&self.0).unwrap_or_default()
            }
        }
    )*};
}
base64_texts!(
    SealedKey,
    SealedConsole,
    SignedKeys,
    CardCertificate,
    TpmStructure,
    AttestationKey,
    SignedManifest,
    SignedConfiguration,
    SignedStatement
);

impl Nonce {
    /// From the bytes.
    pub fn from_bytes(nonce: &[u8; 32]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(nonce))
    }

    /// The bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        URL_SAFE_NO_PAD.decode(&self.0).ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 32])
    }
}

impl ConsoleKey {
    /// From the public key.
    pub fn from_bytes(key: &[u8; 32]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(key))
    }

    /// The public key.
    pub fn to_bytes(&self) -> [u8; 32] {
        URL_SAFE_NO_PAD.decode(&self.0).ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 32])
    }
}

impl InstanceType {
    /// The whole main board.
    pub fn metal() -> Self {
        Self("metal".to_owned())
    }
}

impl Signature {
    /// From the 64 bytes; of fewer, the rest is zeros.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut whole = [0; 64];
        whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(STANDARD.encode(whole))
    }

    /// The 64 bytes.
    pub fn to_bytes(&self) -> [u8; 64] {
        STANDARD.decode(&self.0).ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 64])
    }
}

impl Sha256 {
    /// From the digest.
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let (halves, _) = digest.as_chunks::<16>();
        Self(halves.iter().map(|half| format!("{:032x}", u128::from_be_bytes(*half))).collect())
    }

    /// The digest.
    pub fn to_digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(self.0.as_bytes().chunks(2)) {
            *byte = str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
        }
        digest
    }
}

impl Timestamp {
    /// The earliest moment that can be written.
    pub fn earliest() -> Self {
        Self("0000-01-01T00:00:00Z".to_owned())
    }
}

impl Sentence {
    /// Keeps what fits: at most [`Sentence::MAX`] bytes, other than printable ASCII as `?`.
    pub fn from_lossy(text: &str) -> Self {
        Self(text.chars().take(Self::MAX).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Datum;
    use proptest::{prelude::*, string::string_regex, test_runner::TestRunner};
    use utoipa::openapi::{RefOr, Schema, schema::Components};

    /// What the document says about a text is what the parser takes.
    fn documented<T: Datum + TryFrom<String>>() {
        let RefOr::T(Schema::Object(schema)) = T::schema(&mut Components::new()) else { panic!() };
        let bounds = schema.min_length.unwrap()..=schema.max_length.unwrap();
        let pattern = schema.pattern.unwrap();
        let strategy = string_regex(pattern.trim_matches(['^', '$'])).unwrap();
        for hostile in ["\u{0}", "\u{1b}[2J", "\u{7f}", "\u{e9}", "\u{202e}"] {
            assert!(T::try_from(hostile.repeat((*bounds.start()).max(1))).is_err(), "{hostile:?}");
        }
        TestRunner::default()
            .run(&strategy, |text| {
                let taken = T::try_from(text.clone()).is_ok();
                prop_assert_eq!(taken, bounds.contains(&text.len()), "{}", text);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn parsers_and_documented_patterns_agree() {
        documented::<DeviceName>();
        documented::<Sha256>();
        documented::<Signature>();
        documented::<TokenId>();
        documented::<Pem>();
        documented::<Code>();
        documented::<Sentence>();
        documented::<Label>();
        documented::<SealedKey>();
        documented::<SignedKeys>();
        documented::<RequestId>();
        documented::<SealedConsole>();
        documented::<ConsoleKey>();
        documented::<InstanceType>();
        documented::<Nonce>();
        documented::<TpmStructure>();
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_sentence(text in ".{0,600}") {
            let sentence = Sentence::from_lossy(&text);
            prop_assert_eq!(Sentence::try_from(sentence.to_string()), Ok(sentence));
        }

        #[test]
        fn digests_come_back(digest: [u8; 32]) {
            prop_assert_eq!(Sha256::from_digest(&digest).to_digest(), digest);
        }

        #[test]
        fn console_keys_come_back(key: [u8; 32]) {
            let text = ConsoleKey::from_bytes(&key);
            prop_assert_eq!(text.to_bytes(), key);
            prop_assert_eq!(ConsoleKey::try_from(text.to_string()), Ok(text));
        }

        #[test]
        fn nonces_come_back(nonce: [u8; 32]) {
            prop_assert_eq!(Nonce::from_bytes(&nonce).to_bytes(), nonce);
        }

        #[test]
        fn sealed_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 1..190)) {
            prop_assert_eq!(SealedKey::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        }
    }
}
