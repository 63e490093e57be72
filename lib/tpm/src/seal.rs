//! Sealing: a secret that only this TPM opens, if wanted only in one measured state.
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
//! | 4 | mask of the PCRs in the policy, 0 for none |
//! | | `TPM2B_PRIVATE`, `TPM2B_PUBLIC` of the sealed key |
//! | 12 + n + 16 | nonce, ciphertext, tag; the bytes from the mask on are authenticated with it |

use crate::{
    Error, MAX_PCR, PcrValues, Tpm,
    client::{empty_password, frame, select, session, sized},
    log,
    quote::{bytes, ecc_template},
    sha256,
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use tpm2_protocol::{
    TpmUnmarshal,
    basic::{Tpm2b, TpmHandle, TpmUint16},
    data::{
        Tpm2bDigest, Tpm2bEncryptedSecret, Tpm2bNonce, Tpm2bPrivate, Tpm2bPublic, Tpm2bSensitiveCreate,
        Tpm2bSensitiveData, TpmAlgId, TpmCc, TpmRh, TpmSe, TpmaObject, TpmlPcrSelection, TpmsKeyedhashParms,
        TpmsSensitiveCreate, TpmtEccScheme, TpmtPublic, TpmtSymDefObject, TpmuPublicId, TpmuPublicParms,
        TpmuSymKeyBits, TpmuSymMode,
    },
    frame::{
        TpmCreateCommand, TpmCreateResponse, TpmLoadCommand, TpmLoadResponse, TpmPolicyPcrCommand,
        TpmPolicyPcrResponse, TpmResponse, TpmStartAuthSessionCommand, TpmStartAuthSessionResponse,
        TpmUnsealCommand,
    },
};
use zeroize::Zeroizing;

/// Longest secret in bytes.
pub const MAX_SECRET: usize = 64 * 1024;

const MAGIC: &[u8; 8] = b"AZSEALED";
const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("tpm ", env!("CARGO_PKG_VERSION")).as_bytes();
const PRODUCER_LENGTH: usize = 16;
const KEY: usize = 32;

/// When a sealed secret opens.
#[derive(Debug, Clone, Copy)]
pub enum Policy<'a> {
    /// Whenever this TPM is asked.
    None,
    /// While these PCRs have exactly these values, present ([`Tpm::pcr_read`]) or expected
    /// ([`crate::replay`]).
    Pcrs(&'a PcrValues),
}

impl Tpm {
    /// Seals up to [`MAX_SECRET`] bytes; gives a blob that may be stored anywhere.
    pub fn seal(&mut self, secret: &[u8], policy: Policy<'_>) -> Result<Vec<u8>, Error> {
        if secret.len() > MAX_SECRET {
            return Err(Error::Length);
        }
        let (mask, public) = sealed_template(policy)?;
        let mut key = Zeroizing::new([0; KEY]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| Error::Length)?;
        let made = self.with_primary(TpmRh::Owner, storage_template(), |tpm, parent, _| {
            let response = tpm.exchange(&create_command(parent, &key, public)?)?;
            Ok(TpmResponse::cast(&response)?.unmarshal::<TpmCreateResponse>()?)
        })?;
        let mut body = mask.to_be_bytes().to_vec();
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
        let body = without_header(blob).ok_or(Error::Blob)?;
        let (mask, rest) = body.split_first_chunk().ok_or(Error::Blob)?;
        let mask = u32::from_be_bytes(*mask);
        let (in_private, rest) = Tpm2bPrivate::unmarshal(rest).map_err(|_| Error::Blob)?;
        let (in_public, rest) = Tpm2bPublic::unmarshal(rest).map_err(|_| Error::Blob)?;
        let bound = body.get(..body.len() - rest.len()).ok_or(Error::Blob)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Error::Blob)?;
        let key = self.with_primary(TpmRh::Owner, storage_template(), |tpm, parent, _| {
            let load = TpmLoadCommand { handles: [parent], in_private, in_public };
            let loaded: TpmLoadResponse = tpm.call(&load, &[empty_password()])?;
            let [object] = loaded.handles;
            tpm.with_context(object, |tpm| tpm.unseal_object(object, mask))
        })?;
        let mut secret = Zeroizing::new(ciphertext.to_vec());
        let length = cipher(&key)?
            .open_in_place(Nonce::from(nonce), Aad::from(bound), &mut secret)
            .map_err(|_| Error::Integrity)?
            .len();
        secret.truncate(length);
        Ok(secret)
    }

    fn unseal_object(&mut self, object: TpmHandle, mask: u32) -> Result<Zeroizing<Vec<u8>>, Error> {
        let command = TpmUnsealCommand { handles: [object] };
        if mask == 0 {
            return payload(&self.exchange(&frame(&command, &[empty_password()])?)?);
        }
        let pcrs = select((0..=u8::MAX).filter(|&pcr| mask.checked_shr(pcr.into()).unwrap_or(0) & 1 == 1))
            .map_err(|_| Error::Blob)?;
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::Length)?;
        let start = TpmStartAuthSessionCommand {
            handles: [TpmRh::Null.value().into(); 2],
            nonce_caller: Tpm2bNonce::try_from(&nonce[..])?,
            encrypted_salt: Tpm2bEncryptedSecret::new(),
            session_type: TpmSe::Policy,
            symmetric: TpmtSymDefObject::default(),
            auth_hash: TpmAlgId::Sha256,
        };
        let started: TpmStartAuthSessionResponse = self.call(&start, &[])?;
        let [handle] = started.handles;
        self.with_context(handle, |tpm| {
            let policy = TpmPolicyPcrCommand { handles: [handle], pcr_digest: Tpm2bDigest::new(), pcrs };
            tpm.call::<_, TpmPolicyPcrResponse>(&policy, &[])?;
            payload(&tpm.exchange(&frame(&command, &[session(handle)])?)?)
        })
    }
}

/// The sealed key of a `TPM2_Unseal` response, without going through unprotected copies.
fn payload(response: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let response = TpmResponse::cast(response)?;
    response.validate(TpmCc::Unseal)?;
    // Responses to authorised commands put the size of the parameters before them (part 1, §18.10).
    let parameters = response.body().get(4..).unwrap_or_default();
    let (data, _) = Tpm2b::<KEY>::cast_prefix(parameters)?;
    Ok(Zeroizing::new(data.data().to_vec()))
}

/// A `TPM2_Create` that seals `key`. The protocol crate keeps plain copies of what it marshals: so it
/// marshals zeros, and the key is put only into the frame, which is zeroized.
fn create_command(
    parent: TpmHandle,
    key: &[u8; KEY],
    public: TpmtPublic,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    /// Header, parent, authorisation size, authorisation (handle, nonce, attributes, password: 9), size of
    /// the sensitive area, empty password, size of the data.
    const KEY_AT: usize = 10 + 4 + 4 + 9 + 2 + 2 + 2;
    let data = Tpm2bSensitiveData::try_from(&[0; KEY][..])?;
    let command = TpmCreateCommand {
        handles: [parent],
        in_sensitive: Tpm2bSensitiveCreate { inner: TpmsSensitiveCreate { data, ..Default::default() } },
        in_public: Tpm2bPublic { inner: public },
        outside_info: Default::default(),
        creation_pcr: TpmlPcrSelection::new(),
    };
    let mut bytes = frame(&command, &[empty_password()])?;
    bytes.get_mut(KEY_AT..KEY_AT + KEY).ok_or(Error::Length)?.copy_from_slice(key);
    Ok(bytes)
}

/// The mask of PCRs and the template of the sealed object.
fn sealed_template(policy: Policy<'_>) -> Result<(u32, TpmtPublic), Error> {
    let mut object_attributes = TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT | TpmaObject::NO_DA;
    let mut auth_policy = Tpm2bDigest::new();
    let mut mask = 0;
    match policy {
        Policy::None => object_attributes |= TpmaObject::USER_WITH_AUTH,
        Policy::Pcrs(values) => {
            let selection = select(values.keys().copied())?;
            mask = values.keys().fold(0, |mask, pcr| mask | 1 << pcr);
            if mask == 0 {
                return Err(Error::PcrIndex(MAX_PCR + 1));
            }
            // Part 3, TPM2_PolicyPCR: the first policy command of a session starts from zeros.
            auth_policy = sized(&sha256([
                &[0; 32][..],
                &TpmCc::PolicyPcr.value().to_be_bytes(),
                &bytes(&selection)?,
                &log::digest(values),
            ]))?;
        }
    }
    Ok((
        mask,
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

/// The parent of sealed objects: an ECC storage key from the owner seed.
fn storage_template() -> TpmtPublic {
    let symmetric = TpmtSymDefObject {
        algorithm: TpmAlgId::Aes,
        key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
        mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
    };
    ecc_template(TpmaObject::DECRYPT, symmetric, TpmtEccScheme::default())
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
