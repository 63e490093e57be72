use crate::{Kind, Refused, payload};
use ciborium::Value;
use ids::Environment;
use token::{Ed25519KeyPair, PublicKey, cose};

const CONTEXT: &[u8] = b"azote/release/1";
/// Most images of a release.
pub const MAX_IMAGES: usize = 32;
/// Longest version and longest name in bytes.
pub const MAX_VERSION: usize = 32;

/// What a release is made of. Signed by the root key over
/// `[version, security version, environment, [[kind, name, length, SHA-256], …]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// For people: `1.4.0`. 1 to [`MAX_VERSION`] bytes of printable ASCII.
    pub version: String,
    /// Security version: a host goes to no release with a lower one.
    pub svn: u32,
    /// What it is made for.
    pub environment: Environment,
    /// Its images, at most one of a kind, at most [`MAX_IMAGES`].
    pub images: Vec<Image>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is; also its file's name in a release folder.
    pub kind: Kind,
    /// For people. 1 to [`MAX_VERSION`] bytes of printable ASCII.
    pub name: String,
    /// Bytes.
    pub length: u64,
    /// Its hash.
    pub sha256: [u8; 32],
}

impl Manifest {
    /// The image of a kind.
    pub fn image(&self, kind: Kind) -> Option<&Image> {
        self.images.iter().find(|image| image.kind == kind)
    }

    /// Signs with the root key. `None` if it is out of bounds, or the library fails.
    pub fn sign(&self, root: &Ed25519KeyPair) -> Option<Vec<u8>> {
        let image = |image: &Image| {
            Value::Array(vec![
                image.kind.name().into(),
                image.name.as_str().into(),
                image.length.into(),
                Value::Bytes(image.sha256.to_vec()),
            ])
        };
        let manifest = Value::Array(vec![
            self.version.as_str().into(),
            self.svn.into(),
            self.environment.number().into(),
            Value::Array(self.images.iter().map(image).collect()),
        ]);
        let bounded = self.is_bounded().then_some(manifest)?;
        cose::sign(root, cose::to_cbor(&bounded)?, CONTEXT)
    }

    /// Reads a manifest that `root` signed.
    pub fn open(bytes: &[u8], root: &PublicKey) -> Result<Self, Refused> {
        let manifest = Self::decode(&payload(bytes, root, CONTEXT)?).ok_or(Refused::Malformed)?;
        manifest.is_bounded().then_some(manifest).ok_or(Refused::Malformed)
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let value = cose::from_cbor(payload)?;
        let [version, svn, environment, images] = value.as_array()?.as_slice() else { return None };
        let environment = u8::try_from(environment.as_integer()?).ok()?;
        Some(Self {
            version: version.as_text()?.to_owned(),
            svn: svn.as_integer()?.try_into().ok()?,
            environment: Environment::from_number(environment)?,
            images: images.as_array()?.iter().map(Image::decode).collect::<Option<_>>()?,
        })
    }

    fn is_bounded(&self) -> bool {
        let text = |text: &str| {
            (1..=MAX_VERSION).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'))
        };
        let alone =
            |(at, image): (usize, &Image)| !self.images.iter().take(at).any(|other| other.kind == image.kind);
        text(&self.version)
            && self.images.len() <= MAX_IMAGES
            && self.images.iter().all(|image| text(&image.name))
            && self.images.iter().enumerate().all(alone)
    }
}

impl Image {
    fn decode(value: &Value) -> Option<Self> {
        let [kind, name, length, sha256] = value.as_array()?.as_slice() else { return None };
        Some(Self {
            kind: kind.as_text()?.parse().ok()?,
            name: name.as_text()?.to_owned(),
            length: cose::seconds(length)?,
            sha256: cose::exact(sha256)?,
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

    fn manifest() -> Manifest {
        let image = |kind| Image { kind, name: "an image".to_owned(), length: 7, sha256: [3; 32] };
        Manifest {
            version: "1.2.3".to_owned(),
            svn: 4,
            environment: Environment::NonProduction,
            images: Kind::ALL.iter().map(|kind| image(*kind)).collect(),
        }
    }

    #[test]
    fn a_manifest_reads_back_as_written_under_its_root_key_alone() {
        let (signed, root) = (manifest().sign(&root()).unwrap(), PublicKey::of(&root()));
        assert_eq!(Manifest::open(&signed, &root), Ok(manifest()));
        let other = PublicKey::of(&Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap());
        assert_eq!(Manifest::open(&signed, &other), Err(Refused::Signature));
        assert_eq!(crate::Configuration::open(&signed, &root), Err(Refused::Signature), "another context");
        assert!(Manifest::open(&[], &root).is_err());
    }

    #[test]
    fn what_is_out_of_bounds_is_neither_written_nor_read() {
        let mut twice = manifest();
        twice.images.push(twice.images[0].clone());
        let unnamed = Manifest { version: String::new(), ..manifest() };
        let long = Manifest { version: "1".repeat(MAX_VERSION + 1), ..manifest() };
        let control = Manifest { version: "1\u{1b}[2J".to_owned(), ..manifest() };
        for bad in [twice, unnamed, long, control] {
            assert!(bad.sign(&root()).is_none(), "{bad:?}");
        }
        let value = Value::Array(vec!["1".into(), 1.into(), 3.into(), Value::Array(vec![])]);
        let signed = cose::sign(&root(), cose::to_cbor(&value).unwrap(), CONTEXT).unwrap();
        assert_eq!(
            Manifest::open(&signed, &PublicKey::of(&root())),
            Err(Refused::Malformed),
            "environment 3"
        );
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_refused(at: prop::sample::Index, bit in 0..8_u32) {
            let mut signed = manifest().sign(&root()).unwrap();
            let at = at.index(signed.len());
            signed[at] ^= 1_u8 << bit;
            prop_assert!(Manifest::open(&signed, &PublicKey::of(&root())).is_err());
        }

        #[test]
        fn whatever_is_signed_reading_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let signed = cose::sign(&root(), bytes, CONTEXT).unwrap();
            let _ = Manifest::open(&signed, &PublicKey::of(&root()));
        }
    }
}
