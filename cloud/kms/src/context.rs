use ids::VolumeId;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

const MAX_PAIRS: usize = 8;
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 256;
const VOLUME: &str = "aws:ebs:id";

/// What a data key is for: names and values that are no secret, but without which its ciphertext does not
/// open. At most 8 pairs, names of 1 to 128 bytes, values of at most 256.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct EncryptionContext(BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for EncryptionContext {
    type Error = &'static str;
    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        let fits = |(name, value): (&String, &String)| {
            (1..=MAX_NAME).contains(&name.len()) && value.len() <= MAX_VALUE
        };
        if pairs.len() <= MAX_PAIRS && pairs.iter().all(fits) {
            Ok(Self(pairs))
        } else {
            Err("an encryption context has at most 8 pairs, names of 1 to 128 bytes, values of at most 256")
        }
    }
}

impl EncryptionContext {
    /// The context of a volume's key.
    pub fn of_volume(volume: &VolumeId) -> Self {
        Self(BTreeMap::from([(VOLUME.to_owned(), volume.to_string())]))
    }

    /// The volume that it names, if it names one well.
    pub fn volume(&self) -> Option<VolumeId> {
        self.0.get(VOLUME)?.parse().ok()
    }

    /// Whether every pair of `constraint` is in it.
    pub fn satisfies(&self, constraint: &Self) -> bool {
        constraint.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// One sequence of bytes for each context: sorted by name, every text after its length.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

impl fmt::Display for EncryptionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contexts() -> impl Strategy<Value = EncryptionContext> {
        prop::collection::btree_map("[a-c\u{0}]{1,3}", "[a-c\u{0}]{0,3}", 0..4)
            .prop_map(|pairs| pairs.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn different_contexts_have_different_bytes(a in contexts(), b in contexts()) {
            prop_assert_eq!(a == b, a.canonical() == b.canonical());
        }

        #[test]
        fn a_context_satisfies_what_it_contains(a in contexts(), b in contexts()) {
            prop_assert!(a.satisfies(&a) && a.satisfies(&EncryptionContext::default()));
            if a.satisfies(&b) && b.satisfies(&a) {
                prop_assert_eq!(a, b);
            }
        }
    }

    #[test]
    fn bounds_hold_when_read() {
        let read = |text: &str| serde_json::from_str::<EncryptionContext>(text);
        assert!(read(r#"{"aws:ebs:id": "vol-0123456789abcdef0"}"#).unwrap().volume().is_some());
        assert!(read(r#"{"aws:ebs:id": "vol-1"}"#).unwrap().volume().is_none());
        let many: BTreeMap<_, _> = (0..9).map(|n| (n.to_string(), String::new())).collect();
        for bad in [
            serde_json::to_string(&many).unwrap(),
            r#"{"": "x"}"#.to_owned(),
            format!("{{\"x\": \"{}\"}}", "y".repeat(257)),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
