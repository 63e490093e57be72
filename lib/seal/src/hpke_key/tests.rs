use super::*;
use proptest::prelude::*;

fn context() -> Context {
    Context { host: "h-0123456789abcdef0".parse().unwrap(), volume: "vol-0123456789abcdef0".parse().unwrap() }
}

fn refused(result: Result<VolumeKey, KeyError>) -> bool {
    matches!(result, Err(error) if error.code() == "key.sealed")
}

/// What hpke computes with on its way to a volume key: a sealed key that somebody kept must not open by what is
/// left of this in memory.
#[test]
fn the_cipher_and_the_key_derivation_wipe_what_they_held() {
    fn wiped<T: zeroize::ZeroizeOnDrop>() {}
    wiped::<aes_gcm::Aes256Gcm>();
    wiped::<sha2::Sha256>();
}

#[test]
fn a_sealed_key_opens_to_the_same_key() {
    let card = CardKey::generate().unwrap();
    let key = VolumeKey::generate().unwrap();
    let sealed = seal(card.public(), &context(), &key).unwrap();
    assert_eq!(sealed.len(), SEALED_SIZE);
    assert!(!sealed.windows(16).any(|part| key.expose().windows(16).any(|plain| plain == part)));
    assert_eq!(card.open(&sealed, &context()).unwrap().expose(), key.expose());
}

#[test]
fn another_card_host_or_volume_is_refused() {
    let card = CardKey::generate().unwrap();
    let sealed = seal(card.public(), &context(), &VolumeKey::generate().unwrap()).unwrap();
    assert!(refused(CardKey::generate().unwrap().open(&sealed, &context())));
    let host = Context { host: "h-0123456789abcdef1".parse().unwrap(), ..context() };
    assert!(refused(card.open(&sealed, &host)));
    let volume = Context { volume: "vol-1123456789abcdef0".parse().unwrap(), ..context() };
    assert!(refused(card.open(&sealed, &volume)));
}

#[test]
fn every_flipped_byte_and_every_other_length_is_refused() {
    let card = CardKey::generate().unwrap();
    let sealed = seal(card.public(), &context(), &VolumeKey::generate().unwrap()).unwrap();
    for byte in 0..sealed.len() {
        // The top bit of an X25519 coordinate is ignored by the curve (RFC 7748), not by HPKE: the
        // encapsulated key enters the key schedule as it stands.
        for bit in 0..8 {
            let mut flipped = sealed.clone();
            flipped[byte] ^= 1 << bit;
            assert!(refused(card.open(&flipped, &context())), "byte {byte} bit {bit}");
        }
        assert!(refused(card.open(&sealed[..byte], &context())));
    }
    assert!(refused(card.open(&[sealed.as_slice(), &[0]].concat(), &context())));
}

#[test]
fn equal_halves_are_refused_even_when_properly_sealed() {
    let card = CardKey::generate().unwrap();
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(card.public()).unwrap();
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &public,
        INFO,
        &[3; 64],
        context().canonical().as_bytes(),
        &mut random(),
    )
    .unwrap();
    let sealed = [encapsulated.to_bytes().as_slice(), &sealed].concat();
    assert_eq!(card.open(&sealed, &context()).err().unwrap().code(), "key.halves-equal");
}

#[test]
fn public_keys_that_are_none_are_refused() {
    let key = VolumeKey::generate().unwrap();
    for public in [&[][..], &[1; 31], &[1; 33], &[0; 32]] {
        let error = seal(public, &context(), &key).err().unwrap();
        assert_eq!(error.code(), "key.public");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let card = CardKey::generate().unwrap();
        prop_assert!(refused(card.open(&bytes, &context())));
    }
}

/// AWS-LC has an HPKE of its own: an implementation that shares no code with the one under test opens
/// what `seal` made. So suite, info, context and layout are what RFC 9180 says they are.
#[test]
fn an_independent_implementation_opens_what_was_sealed() {
    use aws_lc_sys::*;
    let card = CardKey::generate().unwrap();
    let key = VolumeKey::generate().unwrap();
    let sealed = seal(card.public(), &context(), &key).unwrap();
    let (encapsulated, ciphertext) = sealed.split_at(PUBLIC_KEY_SIZE);
    let aad = b"host=h-0123456789abcdef0\nvolume=vol-0123456789abcdef0\n";
    let mut opened = [0; 80];
    let mut length = 0;
    // SAFETY: every pointer comes with its true length; both objects are freed once, at the end.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        let (pair, run) = (EVP_HPKE_KEY_new(), EVP_HPKE_CTX_new());
        let private = card.private.expose();
        assert_eq!(EVP_HPKE_KEY_init(pair, EVP_hpke_x25519_hkdf_sha256(), private.as_ptr(), 32), 1);
        let (kdf, aead) = (EVP_hpke_hkdf_sha256(), EVP_hpke_aes_256_gcm());
        let (enc, enc_len) = (encapsulated.as_ptr(), encapsulated.len());
        let (info, info_len) = (b"azote/volume-key/1".as_ptr(), 18);
        assert_eq!(EVP_HPKE_CTX_setup_recipient(run, pair, kdf, aead, enc, enc_len, info, info_len), 1);
        let (to, room) = (opened.as_mut_ptr(), opened.len());
        let (from, from_len) = (ciphertext.as_ptr(), ciphertext.len());
        assert_eq!(EVP_HPKE_CTX_open(run, to, &mut length, room, from, from_len, aad.as_ptr(), aad.len()), 1);
        EVP_HPKE_CTX_free(run);
        EVP_HPKE_KEY_free(pair);
    }
    assert_eq!(&opened[..length], key.expose());
}
