use crate::{Error, signed};
use ids::Environment;
use serde::{Deserialize, Serialize};
use token::{Ed25519KeyPair, PublicKey};

/// Name of a configuration's file.
pub const CONFIGURATION: &str = "configuration";
/// Longest text in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
const CONTEXT: &[u8] = b"azote/configuration/1";

/// What a host is told beside its images: lines of `name=value`, for the controller to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Which hosts take it.
    pub environment: Environment,
    /// Grows with each one: a host takes no older one than it has.
    pub sequence: u64,
    /// The lines.
    pub text: String,
}

impl Configuration {
    /// Reads a signed configuration.
    pub fn open(bytes: &[u8], root_key: &PublicKey) -> Result<Self, Error> {
        let configuration: Self = signed::read("the configuration", bytes, root_key, CONTEXT)?;
        if configuration.text.len() > MAX_TEXT {
            return Err(Error::Form("the configuration"));
        }
        Ok(configuration)
    }

    /// Signs it with the root key.
    pub fn sign(&self, key: &Ed25519KeyPair) -> Result<Vec<u8>, Error> {
        if self.text.len() > MAX_TEXT {
            return Err(Error::Make(format!("a configuration has at most {MAX_TEXT} bytes of text")));
        }
        signed::write(self, key, CONTEXT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootKey;

    #[test]
    fn what_the_root_key_signed_is_read_and_nothing_else() {
        let key = RootKey::generate().unwrap();
        let configuration =
            Configuration { environment: Environment::NonProduction, sequence: 2, text: "host=h-1\n".into() };
        let bytes = configuration.sign(key.pair()).unwrap();
        assert_eq!(Configuration::open(&bytes, &key.public()).unwrap(), configuration);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Configuration::open(&bad, &key.public()).is_err(), "byte {at}");
        }
        let long = Configuration { text: "a".repeat(MAX_TEXT + 1), ..configuration };
        assert_eq!(long.sign(key.pair()).unwrap_err().code(), "release.make");
        let long = signed::write(&long, key.pair(), CONTEXT).unwrap();
        assert_eq!(Configuration::open(&long, &key.public()).unwrap_err().code(), "release.form");
    }
}
