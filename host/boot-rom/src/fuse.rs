//! The fuse: SHA-256 of the root public key, written once where the board is made.

use crate::{Digest, Refusal};

/// Bytes of a fuse file.
pub const FUSE: usize = MAGIC.len() + 32;
const MAGIC: &[u8; 8] = b"AZFUSE01";

/// The bytes of a fuse for the root key with this hash.
pub fn write(root_key_sha256: &Digest) -> [u8; FUSE] {
    let mut bytes = [0; FUSE];
    let (magic, digest) = bytes.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    digest.copy_from_slice(root_key_sha256);
    bytes
}

/// Reads a fuse. All zeros or all ones is one that was never burnt.
pub fn parse(bytes: &[u8]) -> Result<Digest, Refusal> {
    let digest: &Digest =
        bytes.strip_prefix(MAGIC).and_then(|rest| rest.try_into().ok()).ok_or(Refusal::Fuse)?;
    let unburnt = [0, 0xff].iter().any(|blank| digest.iter().all(|byte| byte == blank));
    if unburnt { Err(Refusal::Fuse) } else { Ok(*digest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_is_burnt_whole_and_of_one_length() {
        let bytes = write(&[3; 32]);
        assert_eq!(parse(&bytes), Ok([3; 32]));
        let longer = [&bytes[..], &[0]].concat();
        for bad in [&bytes[..FUSE - 1], &longer, &[], &write(&[0; 32]), &write(&[0xff; 32]), &[3; FUSE]] {
            assert_eq!(parse(bad), Err(Refusal::Fuse), "{bad:?}");
        }
    }
}
