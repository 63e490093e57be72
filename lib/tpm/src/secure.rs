//! Securing a connection: a session whose salt only this TPM's endorsement key opens.

use crate::{
    Error, Tpm,
    credential::{ek_template, endorsement_point},
    derive::shared_seed,
    frame::Request,
    hierarchy::{ENDORSEMENT_KEY, Object, aes},
    quote::bytes,
    session::{Session, nonce},
};
use tpm2_protocol::{
    basic::TpmHandle,
    data::{Tpm2bEncryptedSecret, Tpm2bNonce, TpmAlgId, TpmRh, TpmSe, TpmtSymDefObject},
    frame::{TpmStartAuthSessionCommand, TpmStartAuthSessionResponse},
};

/// What names a key in a TPM: the number of the hash algorithm and SHA-256 of its public area (part 1, §16).
pub type Name = [u8; 34];

impl Tpm {
    /// Secures the connection with a session that is salted to the TPM's endorsement key, and gives the key's name. From
    /// here on authorisation values and secrets can be sent, and no answer can be altered but a refusal, and a public
    /// part, which is used by its name: that the TPM checks.
    ///
    /// `known`: the name from an earlier time, else [`Error::Foreign`]. Who knows none takes the TPM's word, or that of
    /// whoever is between: then the name must be shown to be a TPM's, by its maker's certificate and
    /// [`crate::make_credential`], before a secret is sent.
    pub fn secure(&mut self, known: Option<&Name>) -> Result<Name, Error> {
        let begun = match self.endorsement {
            Some(name) => (None, name),
            None => self.with_endorsement_key(|tpm, key| {
                let foreign = known.is_some_and(|known| *known != key.name);
                let session = if foreign { None } else { Some(tpm.salted(key)?) };
                Ok((session, key.name))
            })?,
        };
        if known.is_some_and(|known| *known != begun.1) {
            return Err(Error::Foreign);
        }
        self.session = begun.0.or(self.session.take());
        self.endorsement = Some(begun.1);
        Ok(begun.1)
    }

    /// The public part of the endorsement key, a `TPM2B_PUBLIC`: the TCG's P-256 template (L-2), so that it is the
    /// key that the TPM's maker certified. It stays the same as long as the TPM. If the connection is secured it is
    /// the key that it is secured with.
    pub fn endorsement_key(&mut self) -> Result<Vec<u8>, Error> {
        self.with_endorsement_key(|_, key| Ok(key.public.clone()))
    }

    /// Runs `with` with the endorsement key: the persistent one, else one made for this time. Both are the same key.
    pub(crate) fn with_endorsement_key<T>(
        &mut self,
        with: impl FnOnce(&mut Self, &Object) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let expected = self.endorsement;
        let with = |tpm: &mut Self, key: &Object| match expected {
            Some(name) if name != key.name => Err(Error::Foreign),
            _ => with(tpm, key),
        };
        let kept = self.read_public(ENDORSEMENT_KEY)?;
        match kept.filter(|key| endorsement_point(&key.public).is_ok()) {
            Some(key) => with(self, &key),
            None => self.with_primary(TpmRh::Endorsement, &[], ek_template()?, with),
        }
    }

    /// Begins a salted session.
    fn salted(&mut self, key: &Object) -> Result<Session, Error> {
        let point = endorsement_point(&key.public).map_err(|_| Error::Foreign)?;
        let (salt, public) = shared_seed(&point, b"SECRET\0").map_err(|_| Error::Foreign)?;
        let (caller, salted) = (nonce()?, Tpm2bEncryptedSecret::try_from(&bytes(&public)?[..])?);
        let (handle, tpm) = self.begin_session(TpmSe::Hmac, key.handle, &caller, salted, aes())?;
        Session::new(handle, &salt, &caller, &tpm).ok_or(Error::Altered)
    }

    /// Runs `with` with a fresh policy session.
    pub(crate) fn with_policy_session<T>(
        &mut self,
        with: impl FnOnce(&mut Self, TpmHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (unsalted, none) = (Tpm2bEncryptedSecret::new(), TpmtSymDefObject::default());
        let null = TpmRh::Null.value().into();
        let (handle, _) = self.begin_session(TpmSe::Policy, null, &nonce()?, unsalted, none)?;
        self.with_context(handle, |tpm| with(tpm, handle))
    }

    fn begin_session(
        &mut self,
        session_type: TpmSe,
        key: TpmHandle,
        caller: &[u8],
        encrypted_salt: Tpm2bEncryptedSecret,
        symmetric: TpmtSymDefObject,
    ) -> Result<(TpmHandle, Vec<u8>), Error> {
        let command = TpmStartAuthSessionCommand {
            handles: [key, TpmRh::Null.value().into()],
            nonce_caller: Tpm2bNonce::try_from(caller)?,
            encrypted_salt,
            session_type,
            symmetric,
            auth_hash: TpmAlgId::Sha256,
        };
        let started: TpmStartAuthSessionResponse = self.call(&command, &Request::OUTSIDE)?;
        let [handle] = started.handles;
        Ok((handle, started.nonce_tpm.to_vec()))
    }
}
