//! How a TPM and its caller come from a key to shared secrets, and AES-128 in cipher feedback mode (part 1, §11.4.10,
//! §B.2, §C.6).

use crate::sha256;
use aws_lc_rs::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey},
    error::Unspecified,
    hmac,
    iv::FixedLength,
    rand::SystemRandom,
};
use tpm2_protocol::data::{Tpm2bEccParameter, TpmsEccPoint};
use zeroize::Zeroizing;

/// A seed that only the holder of `point` (uncompressed, P-256) derives from the point that comes with it. `label`
/// ends with a zero.
pub(crate) fn shared_seed(
    point: &[u8; 65],
    label: &[u8],
) -> Result<(Zeroizing<[u8; 32]>, TpmsEccPoint), Unspecified> {
    let ephemeral = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let public = ephemeral.compute_public_key()?;
    let (_, own) = public.as_ref().split_first().ok_or(Unspecified)?;
    let (x, y) = own.split_at_checked(32).ok_or(Unspecified)?;
    let peer_x = point.get(1..33).ok_or(Unspecified)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, point);
    let seed = agree_ephemeral(ephemeral, peer, Unspecified, |z| {
        // KDFe: one block of SHA-256 is as much as is wanted.
        Ok(Zeroizing::new(sha256([&1u32.to_be_bytes()[..], z, label, x, peer_x])))
    })?;
    let parameter = |bytes| Tpm2bEccParameter::try_from(bytes).map_err(|_| Unspecified);
    Ok((seed, TpmsEccPoint { x: parameter(x)?, y: parameter(y)? }))
}

/// KDFa with HMAC-SHA-256, for at most one block. `label` ends with a zero.
pub(crate) fn kdfa(key: &[u8], label: &[u8], context: &[&[u8]], bits: u32) -> Zeroizing<[u8; 32]> {
    let (one, bits) = (1u32.to_be_bytes(), bits.to_be_bytes());
    let parts = [&one[..], label].into_iter().chain(context.iter().copied()).chain([&bits[..]]);
    let mut derived = Zeroizing::new([0; 32]);
    derived.copy_from_slice(mac(key, parts).sign().as_ref());
    derived
}

/// HMAC-SHA-256 over `parts`, one after the other.
pub(crate) fn mac<'a>(key: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> hmac::Context {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.into_iter().for_each(|part| mac.update(part));
    mac
}

/// Encrypts in place.
pub(crate) fn encrypt(key: &[u8], iv: [u8; 16], data: &mut [u8]) -> Result<(), Unspecified> {
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(&AES_128, key)?)?;
    key.less_safe_encrypt(data, context).map(drop)
}

/// Decrypts in place.
pub(crate) fn decrypt(key: &[u8], iv: [u8; 16], data: &mut [u8]) -> Result<(), Unspecified> {
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let key = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_128, key)?)?;
    key.decrypt(data, context).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// NIST SP 800-38A, §F.3.13 and §F.3.14; the last block also cut, as secrets are.
    #[test]
    fn cipher_feedback_is_that_of_the_published_vectors() {
        let key = bytes("2b7e151628aed2a6abf7158809cf4f3c");
        let iv: [u8; 16] = bytes("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let plain = bytes(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        let sealed = bytes(
            "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b\
             26751f67a3cbb140b1808cf187a4f4dfc04b05357c5d1c0eeac4c66f9ff7f2e6",
        );
        for length in [64, 63, 49, 48, 17, 16, 5, 0] {
            let mut data = plain[..length].to_vec();
            encrypt(&key, iv, &mut data).unwrap();
            assert_eq!(data, sealed[..length]);
            decrypt(&key, iv, &mut data).unwrap();
            assert_eq!(data, plain[..length]);
        }
        assert!(encrypt(&key[1..], iv, &mut []).is_err());
    }

    /// RFC 4231, case 2, and the counter, label, context and length of a derivation in their order.
    #[test]
    fn keys_are_derived_by_counter_label_context_and_length() {
        let known = bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert_eq!(mac(b"Jefe", [&b"what do ya "[..], b"want for nothing?"]).sign().as_ref(), known);
        let message = bytes("0000000141544800aabb00000100");
        let expected = mac(b"key", [&message[..]]).sign();
        assert_eq!(&kdfa(b"key", b"ATH\0", &[&[0xaa], &[0xbb]], 256)[..], expected.as_ref());
    }

    /// What both sides of an agreement hold is the same, and of another label it is not.
    #[test]
    fn a_shared_seed_differs_each_time() {
        let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap();
        let point: [u8; 65] = public.as_ref().try_into().unwrap();
        let (seed, own) = shared_seed(&point, b"SECRET\0").unwrap();
        assert_ne!(*shared_seed(&point, b"SECRET\0").unwrap().0, *seed);
        let own_point = [&[4], &own.x[..], &own.y[..]].concat();
        let peer = UnparsedPublicKey::new(&ECDH_P256, own_point);
        let other = agree_ephemeral(private, peer, Unspecified, |z| {
            Ok(sha256([&[0, 0, 0, 1], z, b"SECRET\0", &own.x, &point[1..33]]))
        });
        assert_eq!(other.unwrap(), *seed);
        assert!(shared_seed(&[4; 65], b"SECRET\0").is_err(), "not on the curve");
    }
}
