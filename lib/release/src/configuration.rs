use crate::{MAX_SIGNED, Refused, payload};
use ciborium::Value;
use ids::Environment;
use token::{Ed25519KeyPair, PublicKey, cose};

const CONTEXT: &[u8] = b"azote/configuration/1";

/// What an operator sets and what changes what a host admits or records. Signed by the root key over
/// `[environment, sequence, text]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// What hosts it is for.
    pub environment: Environment,
    /// Grows with each configuration.
    pub sequence: u64,
    /// Lines of `name=value`.
    pub text: String,
}

impl Configuration {
    /// Signs with the root key. `None` if it is too long, or the library fails.
    pub fn sign(&self, root: &Ed25519KeyPair) -> Option<Vec<u8>> {
        let value = [self.environment.number().into(), self.sequence.into(), self.text.as_str().into()];
        let signed = cose::sign(root, cose::to_cbor(&Value::Array(value.into()))?, CONTEXT)?;
        (signed.len() <= MAX_SIGNED).then_some(signed)
    }

    /// Reads a configuration that `root` signed.
    pub fn open(bytes: &[u8], root: &PublicKey) -> Result<Self, Refused> {
        Self::decode(&payload(bytes, root, CONTEXT)?).ok_or(Refused::Malformed)
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let value = cose::from_cbor(payload)?;
        let [environment, sequence, text] = value.as_array()?.as_slice() else { return None };
        let environment = u8::try_from(environment.as_integer()?).ok()?;
        Some(Self {
            environment: Environment::from_number(environment)?,
            sequence: cose::seconds(sequence)?,
            text: text.as_text()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn configuration() -> Configuration {
        Configuration { environment: Environment::Production, sequence: 9, text: "stop-grace=8\n".to_owned() }
    }

    #[test]
    fn a_configuration_reads_back_as_written() {
        let signed = configuration().sign(&root()).unwrap();
        assert_eq!(Configuration::open(&signed, &PublicKey::of(&root())), Ok(configuration()));
        let long = Configuration { text: "x".repeat(MAX_SIGNED), ..configuration() };
        assert_eq!(long.sign(&root()), None);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_refused(at: prop::sample::Index, bit in 0..8_u32) {
            let mut signed = configuration().sign(&root()).unwrap();
            let at = at.index(signed.len());
            signed[at] ^= 1_u8 << bit;
            prop_assert!(Configuration::open(&signed, &PublicKey::of(&root())).is_err());
        }
    }
}
