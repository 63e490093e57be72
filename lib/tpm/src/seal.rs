//! Sealing: a secret that only this TPM opens, if wanted only in measured states that a key of its approves.
//!
//! The TPM seals a fresh 256-bit key; the secret itself is encrypted under it with AES-256-GCM, so a secret may
//! be longer than the 128 bytes that every TPM can seal. Blob, all numbers big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `AZSEALED` |
//! | 2 | format version, 1 |
//! | 16 | producer, text, zero-padded |
//! | 4 | length of what follows the checksum |
//! | 32 | SHA-256 of what follows |
//! | 4 | policy: 0 for none, bit 31 alone for what a key approves |
//! | | `TPM2B_PRIVATE`, `TPM2B_PUBLIC` of the sealed key |
//! | 12 + n + 16 | nonce, ciphertext, tag; the bytes from the mask on are authenticated with it |

use crate::{
    Approval, Error, Tpm,
    approve::authorised_policy,
    client::sized,
    frame::{Auth, Command, Request, Secret},
    hierarchy::Object,
    quote::bytes,
    sha256,
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use tpm2_protocol::{
    TpmUnmarshal,
    data::{
        Tpm2bDigest, Tpm2bPrivate, Tpm2bPublic, Tpm2bSensitiveCreate, Tpm2bSensitiveData, TpmAlgId,
        TpmaObject, TpmlPcrSelection, TpmsKeyedhashParms, TpmsSensitiveCreate, TpmtPublic, TpmuPublicId,
        TpmuPublicParms,
    },
    frame::{TpmCreateCommand, TpmCreateResponse, TpmLoadCommand, TpmLoadResponse, TpmUnsealCommand},
};
use zeroize::Zeroizing;

/// Longest secret in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

const MAGIC: &[u8; 8] = b"AZSEALED";
const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("tpm ", env!("CARGO_PKG_VERSION")).as_bytes();
const PRODUCER_LENGTH: usize = 16;
const KEY: usize = 32;
const FREE: u32 = 0;
const AUTHORIZED: u32 = 1 << 31;

/// When a sealed secret opens.
#[derive(Debug, Clone, Copy)]
pub enum Policy<'a> {
    /// Whenever this TPM is asked.
    None,
    /// Whenever this key approves the present state: see [`Tpm::approve`].
    Authorized {
        /// `TPM2B_PUBLIC` of a [`crate::SigningKey`].
        key: &'a [u8],
        /// What the approval must be for: at most [`crate::MAX_REFERENCE`] bytes.
        reference: &'a [u8],
    },
}

impl Tpm {
    /// Seals up to [`MAX_SECRET`] bytes; gives a blob that may be stored anywhere.
    pub fn seal(&mut self, secret: &[u8], policy: Policy<'_>) -> Result<Vec<u8>, Error> {
        if secret.len() > MAX_SECRET {
            return Err(Error::Length);
        }
        let (kind, public) = sealed_template(policy)?;
        let mut key = Zeroizing::new([0; KEY]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| Error::Length)?;
        let data = Tpm2bSensitiveData::try_from(&[0; KEY][..])?;
        let sensitive = TpmsSensitiveCreate { data, ..Default::default() };
        let made = self.create(sensitive, public, 6, &*key)?;
        let mut body = kind.to_be_bytes().to_vec();
        body.extend(bytes(&made.out_private)?);
        body.extend(bytes(&made.out_public)?);
        let mut sealed = secret.to_vec();
        let nonce = cipher(&key[..])?
            .seal_in_place_append_tag(Aad::from(&body), &mut sealed)
            .map_err(|_| Error::Length)?;
        body.extend_from_slice(nonce.as_ref());
        body.extend(sealed);
        Ok(with_header(&body))
    }

    /// Opens what [`Tpm::seal`] of this TPM made.
    pub fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.open(blob, None)
    }

    /// Opens what [`Tpm::seal`] of this TPM made with [`Policy::Authorized`], if `approval` is `key`'s for
    /// `reference` and for the present state: [`Error::Approval`], [`Error::Policy`] or [`Error::Rollback`] if not.
    pub fn unseal_approved(
        &mut self,
        blob: &[u8],
        key: &[u8],
        reference: &[u8],
        approval: &Approval,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.open(blob, Some(&Opening { key, reference, approval }))
    }

    fn open(&mut self, blob: &[u8], with: Option<&Opening<'_>>) -> Result<Zeroizing<Vec<u8>>, Error> {
        let body = without_header(blob).ok_or(Error::Blob)?;
        let (policy, rest) = body.split_first_chunk().ok_or(Error::Blob)?;
        if u32::from_be_bytes(*policy) != with.map_or(FREE, |_| AUTHORIZED) {
            return Err(Error::Blob);
        }
        let (in_private, rest) = Tpm2bPrivate::unmarshal(rest).map_err(|_| Error::Blob)?;
        let (in_public, rest) = Tpm2bPublic::unmarshal(rest).map_err(|_| Error::Blob)?;
        let bound = body.get(..body.len() - rest.len()).ok_or(Error::Blob)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Error::Blob)?;
        let key = self.with_loaded(in_private, in_public, |tpm, object| tpm.unseal_object(object, with))?;
        let mut secret = Zeroizing::new(ciphertext.to_vec());
        let length = cipher(&key)?
            .open_in_place(Nonce::from(nonce), Aad::from(bound), &mut secret)
            .map_err(|_| Error::Integrity)?
            .len();
        secret.truncate(length);
        Ok(secret)
    }

    fn unseal_object(
        &mut self,
        object: &Object,
        with: Option<&Opening<'_>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let command = Command::new(&TpmUnsealCommand { handles: [object.handle] })?;
        let unseal = |tpm: &mut Self, auth: Auth<'_>| {
            let (auths, names) = ([auth], [&object.name[..]]);
            let request = Request { secret: Secret::Out, ..Request::by(&auths, &names) };
            Ok(tpm.send(command, &request, 0)?.secret(KEY)?)
        };
        let Some(Opening { key, reference, approval }) = with else {
            return unseal(self, Auth::Value(&[]));
        };
        self.with_policy_session(|tpm, policy| {
            tpm.satisfy(policy, key, reference, approval)?;
            unseal(tpm, Auth::Policy(policy))
        })
    }

    /// A `TPM2_Create` below the storage root, with `secret` at its place in the parameters.
    pub(crate) fn create(
        &mut self,
        sensitive: TpmsSensitiveCreate,
        public: TpmtPublic,
        at: usize,
        secret: &[u8],
    ) -> Result<TpmCreateResponse, Error> {
        self.with_storage_root(|tpm, parent| {
            let command = TpmCreateCommand {
                handles: [parent.handle],
                in_sensitive: Tpm2bSensitiveCreate { inner: sensitive },
                in_public: Tpm2bPublic { inner: public },
                outside_info: Default::default(),
                creation_pcr: TpmlPcrSelection::new(),
            };
            let command = Command::new(&command)?.with_secret(at, secret)?;
            let (auths, names) = ([Auth::Value(&[])], [&parent.name[..]]);
            let request = Request { secret: Secret::In, ..Request::by(&auths, &names) };
            Ok(tpm.send(command, &request, 0)?.body()?)
        })
    }

    /// Runs `with` with a key or secret that lies below the storage root.
    pub(crate) fn with_loaded<T>(
        &mut self,
        in_private: Tpm2bPrivate,
        in_public: Tpm2bPublic,
        with: impl FnOnce(&mut Self, &Object) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_storage_root(|tpm, parent| {
            let load = TpmLoadCommand { handles: [parent.handle], in_private, in_public };
            let (auths, names) = ([Auth::Value(&[])], [&parent.name[..]]);
            let loaded: TpmLoadResponse = tpm.call(&load, &Request::by(&auths, &names))?;
            let [handle] = loaded.handles;
            tpm.with_context(handle, |tpm| with(tpm, &Object::new(handle, &load.in_public)?))
        })
    }
}

/// What opens a blob that is sealed to what a key approves.
struct Opening<'a> {
    key: &'a [u8],
    reference: &'a [u8],
    approval: &'a Approval,
}

/// The kind of policy and the template of the sealed object.
fn sealed_template(policy: Policy<'_>) -> Result<(u32, TpmtPublic), Error> {
    let mut object_attributes = TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT | TpmaObject::NO_DA;
    let mut auth_policy = Tpm2bDigest::new();
    let mut kind = FREE;
    match policy {
        Policy::None => object_attributes |= TpmaObject::USER_WITH_AUTH,
        Policy::Authorized { key, reference } => {
            kind = AUTHORIZED;
            auth_policy = sized(&authorised_policy(key, reference)?)?;
        }
    }
    Ok((
        kind,
        TpmtPublic {
            object_type: TpmAlgId::KeyedHash,
            name_alg: TpmAlgId::Sha256,
            object_attributes,
            auth_policy,
            parameters: TpmuPublicParms::KeyedHash(TpmsKeyedhashParms::default()),
            unique: TpmuPublicId::KeyedHash(Tpm2bDigest::new()),
        },
    ))
}

fn cipher(key: &[u8]) -> Result<RandomizedNonceKey, Error> {
    RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::Integrity)
}

fn with_header(body: &[u8]) -> Vec<u8> {
    let mut producer = [0; PRODUCER_LENGTH];
    producer.iter_mut().zip(PRODUCER).for_each(|(to, from)| *to = *from);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [MAGIC, &VERSION.to_be_bytes()[..], &producer, &length, &sha256([body]), body].concat()
}

fn without_header(blob: &[u8]) -> Option<&[u8]> {
    let rest = blob.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_be_bytes())?;
    let rest = rest.get(PRODUCER_LENGTH..)?;
    let (length, rest) = rest.split_first_chunk()?;
    let (checksum, body) = rest.split_first_chunk::<32>()?;
    let fits = usize::try_from(u32::from_be_bytes(*length)).ok()? == body.len();
    (fits && body.len() <= 2 * MAX_SECRET && sha256([body]) == *checksum).then_some(body)
}
