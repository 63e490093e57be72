//! What a TPM answers, or whoever sits on the bus before it: with a session and without. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{Read, Result, Write};
use tpm::{Credential, Error, Hierarchy, NV_FLOOR, NV_IDENTITY, Policy, Tpm};

/// Gives one whole answer of the input to each command, whatever it is.
struct Hostile {
    input: Vec<u8>,
    /// How much of the present answer is left.
    left: usize,
}

impl Read for Hostile {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        let length = self.left.min(to.len()).min(self.input.len());
        to[..length].copy_from_slice(&self.input[..length]);
        self.input.drain(..length);
        self.left -= length;
        Ok(length)
    }
}

impl Write for Hostile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let size = self.input.get(2..6).and_then(<[u8]>::first_chunk);
        self.left = size.map_or(0, |size| u32::from_be_bytes(*size) as usize);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let mut tpm = Tpm::new(Hostile { input: rest.to_vec(), left: 0 });
    assert!(matches!(tpm.set_auth(Hierarchy::Owner, b"", b"value"), Err(Error::Unsecured)));
    match kind % 8 {
        0 => {
            if tpm.secure(None).is_ok() {
                // Nobody authenticates an answer who does not hold the key that the salt is for.
                assert!(tpm.pcr_read(&[8]).is_err());
            }
        }
        1 => {
            if tpm.secure(None).is_ok() {
                assert!(tpm.seal(b"secret", Policy::None).is_err());
            }
        }
        2 => {
            let credential = Credential { object: vec![0, 1, 7], secret: vec![0, 1, 7] };
            assert!(tpm.secure(None).is_err() || tpm.activate_credential(&credential).is_err());
        }
        3 => drop((tpm.nv_read(NV_IDENTITY), tpm.nv_counter(NV_FLOOR))),
        4 => drop((tpm.quote(&[7; 32], &[8, 9]), tpm.attestation_key())),
        5 => drop((tpm.pcr_read(&[8, 9]), tpm.pcr_extend(8, &[1; 32]), tpm.clock())),
        6 => drop((tpm.has_auth(Hierarchy::Lockout), tpm.make_storage_root(&[]))),
        _ => assert!(!matches!(tpm.secure(Some(&[0; 34])), Ok(_))),
    }
});
