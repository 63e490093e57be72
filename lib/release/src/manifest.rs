use crate::{Digest, Error, Kind, MAX_IMAGE, is_text, signed};
use ids::Environment;
use serde::{Deserialize, Serialize};
use token::{Ed25519KeyPair, PublicKey};

/// Name of the manifest's file in a release.
pub const MANIFEST: &str = "manifest";
/// Most images of a release: one of each kind.
pub const MAX_IMAGES: usize = Kind::ALL.len();
const CONTEXT: &[u8] = b"azote/release/1";
const MAX_NAME: usize = 64;
const MAX_VERSION: usize = 32;

/// What a release consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// For people, 1 to 32 bytes.
    pub version: String,
    /// Security version: grows when older releases must not run any more.
    pub svn: u32,
    /// Which hosts take it.
    pub environment: Environment,
    /// Its images, one of a kind, in the order of [`Kind`].
    pub images: Vec<Image>,
}

/// One image of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it is for.
    pub kind: Kind,
    /// What it was built as, for people, 1 to 64 bytes.
    pub name: String,
    /// Bytes of its file.
    pub length: u64,
    /// SHA-256 of its file.
    #[serde(with = "serde_bytes")]
    pub sha256: Digest,
}

impl Manifest {
    /// Reads a signed manifest.
    pub fn open(bytes: &[u8], root_key: &PublicKey) -> Result<Self, Error> {
        let manifest: Self = signed::read("the manifest", bytes, root_key, CONTEXT)?;
        if manifest.is_proper() { Ok(manifest) } else { Err(Error::Form("the manifest")) }
    }

    /// Signs it with the root key.
    pub fn sign(&self, key: &Ed25519KeyPair) -> Result<Vec<u8>, Error> {
        if !self.is_proper() {
            return Err(Error::Make(
                "a release has a version of 1 to 32 bytes and one image of a kind".into(),
            ));
        }
        signed::write(self, key, CONTEXT)
    }

    /// The image of a kind.
    pub fn image(&self, kind: Kind) -> Option<&Image> {
        self.images.iter().find(|image| image.kind == kind)
    }

    fn is_proper(&self) -> bool {
        is_text(&self.version, MAX_VERSION)
            && self.images.is_sorted_by(|a, b| a.kind < b.kind)
            && self.images.iter().all(|i| is_text(&i.name, MAX_NAME) && (1..=MAX_IMAGE).contains(&i.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootKey;
    use proptest::prelude::*;

    fn image(kind: Kind) -> Image {
        Image { kind, name: format!("azote-{kind}"), length: 7, sha256: [1; 32] }
    }

    fn manifest() -> Manifest {
        Manifest {
            version: "1.2".into(),
            svn: 4,
            environment: Environment::Production,
            images: vec![image(Kind::Stage1), image(Kind::Controller), image(Kind::MainboardFirmware)],
        }
    }

    #[test]
    fn what_the_root_key_signed_is_read_and_nothing_else() {
        let key = RootKey::generate().unwrap();
        let bytes = manifest().sign(key.pair()).unwrap();
        assert_eq!(Manifest::open(&bytes, &key.public()).unwrap(), manifest());
        let other = RootKey::generate().unwrap();
        assert!(matches!(Manifest::open(&bytes, &other.public()), Err(Error::Signature(_))));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(Manifest::open(&bad, &key.public()).is_err(), "byte {at}");
        }
        let elsewhere = signed::write(&manifest(), key.pair(), b"azote/configuration/1").unwrap();
        assert!(matches!(Manifest::open(&elsewhere, &key.public()), Err(Error::Signature(_))));
    }

    #[test]
    fn a_manifest_lists_one_image_of_a_kind_in_order() {
        let key = RootKey::generate().unwrap();
        let wrong = |change: &dyn Fn(&mut Manifest)| {
            let mut wrong = manifest();
            change(&mut wrong);
            assert_eq!(wrong.sign(key.pair()).unwrap_err().code(), "release.make");
            let bytes = signed::write(&wrong, key.pair(), CONTEXT).unwrap();
            assert_eq!(Manifest::open(&bytes, &key.public()).unwrap_err().code(), "release.form");
        };
        wrong(&|manifest| manifest.images.swap(0, 1));
        wrong(&|manifest| manifest.images.insert(1, image(Kind::Stage1)));
        wrong(&|manifest| manifest.images[1].length = 0);
        wrong(&|manifest| manifest.images[1].length = MAX_IMAGE + 1);
        wrong(&|manifest| manifest.images[1].name.clear());
        wrong(&|manifest| manifest.version = "a\nb".into());
        wrong(&|manifest| manifest.version = "1".repeat(33));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Manifest::open(&bytes, &PublicKey([9; 32])).is_err());
        }
    }
}
