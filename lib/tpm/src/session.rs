//! A salted session: who does not hold the key that its salt was encrypted to neither reads what it encrypts nor alters,
//! answers or replays what goes through it (part 1, §17.6, §19.6 and §21). It is bound to no entity; its nonces have the
//! size of its hash, and its cipher is AES-128 in cipher feedback mode.

use crate::{
    Error,
    derive::{decrypt, encrypt, kdfa, mac},
    frame::{Answer, Command, Entry, Request, Secret},
    sha256,
};
use tpm2_protocol::{basic::TpmHandle, data::TpmaSession};
use zeroize::Zeroizing;

/// As long as what SHA-256 gives.
pub(crate) type Nonce = [u8; 32];

/// What both sides hold.
pub(crate) struct Session {
    /// Its handle.
    pub(crate) handle: TpmHandle,
    key: Zeroizing<[u8; 32]>,
    /// The TPM's last.
    nonce: Nonce,
}

/// What goes with one command and its answer.
pub(crate) struct Turn<'a> {
    nonce: Nonce,
    attributes: TpmaSession,
    /// Authorisation value before and after the command, without the zeros at its end, which no TPM counts.
    auth: [&'a [u8]; 2],
}

pub(crate) fn nonce() -> Result<Nonce, Error> {
    let mut nonce = Nonce::default();
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::Length)?;
    Ok(nonce)
}

impl Session {
    /// The session of a salt and both first nonces; none if the TPM's has another size.
    pub(crate) fn new(handle: TpmHandle, salt: &[u8; 32], caller: &Nonce, tpm: &[u8]) -> Option<Self> {
        let nonce = tpm.try_into().ok()?;
        Some(Self { handle, key: kdfa(salt, b"ATH\0", &[tpm, caller], 256), nonce })
    }

    /// A turn with a fresh nonce.
    pub(crate) fn turn<'a>(request: &Request<'a>) -> Result<Turn<'a>, Error> {
        let auth = request.value();
        let purpose = match (request.secret, auth) {
            (Secret::In, _) => TpmaSession::DECRYPT,
            (Secret::Out, _) => TpmaSession::ENCRYPT,
            (Secret::No, None) => TpmaSession::AUDIT,
            (Secret::No, Some(_)) => TpmaSession::default(),
        };
        let auth = auth.unwrap_or_default();
        Ok(Turn {
            nonce: nonce()?,
            attributes: TpmaSession::CONTINUE_SESSION | purpose,
            auth: [auth, request.next.unwrap_or(auth)].map(significant),
        })
    }

    /// Encrypts what is secret in a command; gives the session's entry for it.
    pub(crate) fn authorise(
        &self,
        command: &mut Command,
        names: &[&[u8]],
        turn: &Turn<'_>,
    ) -> Result<Entry, Error> {
        let key = self.key_with(turn.auth[0]);
        if turn.attributes.contains(TpmaSession::DECRYPT) {
            let (key, iv) = cipher(&key, &turn.nonce, &self.nonce);
            let secret = first(&mut command.parameters).ok_or(Error::Length)?;
            encrypt(&*key, iv, secret).map_err(|_| Error::Length)?;
        }
        let code = command.code.to_be_bytes();
        let names = command.names(names);
        let hash = sha256([&code[..], &names, &command.parameters]);
        let attributes = turn.attributes.bits();
        let hmac = mac(&key, [&hash[..], &turn.nonce, &self.nonce, &[attributes]]).sign();
        Ok(Entry { nonce: turn.nonce.to_vec(), attributes, hmac: hmac.as_ref().to_vec() })
    }

    /// Checks an answer, decrypts what is secret in it, and takes the TPM's next nonce; [`Error::Altered`] for what is
    /// not the TPM's answer to this turn.
    pub(crate) fn accept(
        &mut self,
        code: u32,
        answer: &mut Answer,
        entry: usize,
        turn: &Turn<'_>,
    ) -> Result<(), Error> {
        let altered = || Error::Altered;
        let key = self.key_with(turn.auth[1]);
        let entry = answer.entries.get(entry).ok_or_else(altered)?;
        let next: Nonce = entry.nonce.as_slice().try_into().map_err(|_| altered())?;
        let hash = sha256([&[0; 4][..], &code.to_be_bytes(), answer.parameters()]);
        let expected = mac(&key, [&hash[..], &next, &turn.nonce, &[entry.attributes]]).sign();
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), &entry.hmac)
            .map_err(|_| altered())?;
        // The TPM adds a word on the audit, of which nothing is made here; all else it repeats.
        let exclusive = TpmaSession::AUDIT_EXCLUSIVE.bits();
        if entry.attributes & !exclusive != turn.attributes.bits() {
            return Err(altered());
        }
        if turn.attributes.contains(TpmaSession::ENCRYPT) {
            let (key, iv) = cipher(&key, &next, &turn.nonce);
            let secret = first(answer.parameters_mut()).ok_or_else(altered)?;
            decrypt(&*key, iv, secret).map_err(|_| altered())?;
        }
        self.nonce = next;
        Ok(())
    }

    fn key_with(&self, auth: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&self.key[..], auth].concat())
    }
}

/// Key and first vector of one parameter's cipher (part 1, §21.3).
fn cipher(key: &[u8], newer: &Nonce, older: &Nonce) -> (Zeroizing<[u8; 16]>, [u8; 16]) {
    let derived = kdfa(key, b"CFB\0", &[newer, older], 256);
    let (mut key, mut iv) = (Zeroizing::new([0; 16]), [0; 16]);
    let parts = derived.split_at(16);
    key.copy_from_slice(parts.0);
    iv.copy_from_slice(parts.1);
    (key, iv)
}

/// The content of the first parameter, which has its size before it.
fn first(parameters: &mut [u8]) -> Option<&mut [u8]> {
    let (size, rest) = parameters.split_first_chunk_mut()?;
    rest.get_mut(..u16::from_be_bytes(*size).into())
}

/// Part 1, §19.6.4.3.
fn significant(auth: &[u8]) -> &[u8] {
    let length = auth.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    auth.get(..length).unwrap_or_default()
}
