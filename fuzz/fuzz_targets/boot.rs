//! What the stages of a start read: formats that are handed on, what the TPM answers, and signed documents.
#![no_main]

use aws_lc_rs::signature::Ed25519KeyPair;
use boot_rom::{
    events::Events,
    fuse,
    header::Header,
    record::Record,
    tpm::{Bus, MAX_FRAME, Tpm, response_size},
};
use release::{Configuration, Manifest};
use token::{PublicKey, cose};

/// Gives the input piece by piece, whatever it is asked.
struct Hostile<'a>(&'a [u8]);

impl Bus for Hostile<'_> {
    fn exchange(&mut self, _: &[u8], response: &mut [u8; MAX_FRAME]) -> Option<usize> {
        let size = response_size(self.0)?;
        let (answer, rest) = self.0.split_at_checked(size)?;
        response[..size].copy_from_slice(answer);
        self.0 = rest;
        Some(size)
    }
    fn pause(&mut self) {}
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let root = PublicKey::of(&key);
    let signed = |context: &[u8]| cose::sign(&key, bytes.to_vec(), context).unwrap();
    match which % 8 {
        0 => assert!(Events::parse(bytes).map_or(true, |events| events.bytes() == bytes)),
        1 => assert!(Header::parse(bytes).is_none_or(|header| header.write() == bytes)),
        2 => assert!(Record::parse(bytes).is_none_or(|record| record.write() == bytes)),
        3 => assert!(fuse::parse(bytes).map_or(true, |digest| fuse::write(&digest) == bytes)),
        4 => {
            let _ = Tpm(Hostile(bytes)).memory();
        }
        5 => {
            if let Ok(manifest) = Manifest::open(&signed(b"azote/release/1"), &root) {
                assert_eq!(Manifest::open(&manifest.sign(&key).unwrap(), &root).unwrap(), manifest);
            }
        }
        7 => {
            let _ = boot_rom::program::names_another(bytes);
        }
        _ => {
            let _ = Configuration::open(&signed(b"azote/configuration/1"), &root);
        }
    }
});
