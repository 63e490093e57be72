use crate::{Digest, Error, RootKey, sha256};
use boot_rom::header::{CONTEXT, HEADER, Header, MAX_IMAGE, field};
use ids::Environment;
use token::PublicKey;

const PRODUCER: &str = "azote";
const NAME: &str = "stage 1";

/// What the boot ROM starts: header and image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage1 {
    /// What the header says.
    pub header: Header,
    /// The whole file.
    pub bytes: Vec<u8>,
}

impl Stage1 {
    /// Puts a signed header in front of an image.
    pub fn sign(
        image: &[u8],
        environment: Environment,
        svn: u32,
        version: &str,
        key: &RootKey,
    ) -> Result<Self, Error> {
        let improper =
            || Error::Make("a version has 1 to 32 bytes of text without control characters".to_owned());
        let length = image.len() as u64;
        if !(1..=MAX_IMAGE).contains(&length) {
            return Err(Error::Make(format!("stage 1 has 1 to {MAX_IMAGE} bytes")));
        }
        let header = Header {
            producer: field(PRODUCER).ok_or_else(improper)?,
            environment: rom_environment(environment),
            svn,
            version: field(version).ok_or_else(improper)?,
            length,
            sha256: sha256(&[image]),
            root_key: key.public().0,
        };
        let signed = header.write();
        let signature = key.pair().sign(&[CONTEXT, &signed].concat());
        Ok(Self { header, bytes: [&signed, signature.as_ref(), image].concat() })
    }

    /// Reads and verifies what [`Stage1::sign`] wrote, as the boot ROM does.
    pub fn open(bytes: Vec<u8>, root_key: &PublicKey) -> Result<Self, Error> {
        let (header, image) = bytes.split_first_chunk::<HEADER>().ok_or(Error::Form(NAME))?;
        let header = Header::verify(header, &sha256(&[&root_key.0])).map_err(|refusal| match refusal {
            boot_rom::Refusal::Header => Error::Form(NAME),
            _ => Error::Signature(NAME),
        })?;
        if header.length != image.len() as u64 || header.sha256 != sha256(&[image]) {
            return Err(Error::Image(crate::Kind::Stage1));
        }
        Ok(Self { header, bytes })
    }

    /// What is measured, and what the manifest names: SHA-256 of the whole file.
    pub fn measurement(&self) -> Digest {
        sha256(&[&self.bytes])
    }
}

/// The environment as the boot ROM's formats hold it.
fn rom_environment(environment: Environment) -> boot_rom::Environment {
    match environment {
        Environment::Production => boot_rom::Environment::Production,
        Environment::NonProduction => boot_rom::Environment::NonProduction,
    }
}

/// The environment in one of the boot ROM's formats.
pub fn environment(environment: boot_rom::Environment) -> Environment {
    match environment {
        boot_rom::Environment::Production => Environment::Production,
        boot_rom::Environment::NonProduction => Environment::NonProduction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_rom_takes_what_was_signed() {
        let key = RootKey::generate().unwrap();
        let stage1 = Stage1::sign(b"image", Environment::NonProduction, 3, "1.2", &key).unwrap();
        let header = stage1.bytes.first_chunk().unwrap();
        assert_eq!(Header::verify(header, &key.fingerprint()), Ok(stage1.header));
        assert_eq!((stage1.header.version(), stage1.header.svn, stage1.header.length), ("1.2", 3, 5));
        assert_eq!(Stage1::open(stage1.bytes.clone(), &key.public()).unwrap(), stage1);
        for at in 0..stage1.bytes.len() {
            let mut bad = stage1.bytes.clone();
            bad[at] ^= 1;
            let code = Stage1::open(bad, &key.public()).unwrap_err().code();
            assert_eq!(code == "release.image", at >= HEADER, "byte {at}: {code}");
        }
        assert!(Stage1::sign(b"", Environment::Production, 3, "1.2", &key).is_err());
        assert!(Stage1::sign(b"image", Environment::Production, 3, "", &key).is_err());
    }
}
