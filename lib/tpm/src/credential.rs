//! The endorsement key, which its maker certifies, and credential activation: the proof that another key lies in
//! the TPM with that endorsement key (part 1, §24; TCG EK Credential Profile for TPM 2.0, §B.4.5).

use crate::{
    Error, QuoteError, Tpm, check_attestation_key,
    client::sized,
    derive::{encrypt, kdfa, mac, shared_seed},
    frame::{Auth, Command, Request, Secret},
    hierarchy::aes,
    quote::{ak_template, bytes, padded, whole},
    sha256,
};
use tpm2_protocol::{
    TpmError,
    data::{
        Tpm2bDigest, Tpm2bEccParameter, Tpm2bEncryptedSecret, Tpm2bIdObject, Tpm2bPublic, TpmAlgId,
        TpmEccCurve, TpmRh, TpmaObject, TpmsEccParms, TpmsEccPoint, TpmtEccScheme, TpmtKdfScheme, TpmtPublic,
        TpmuPublicId, TpmuPublicParms,
    },
    frame::{TpmActivateCredentialCommand, TpmPolicySecretCommand, TpmPolicySecretResponse},
};
use zeroize::Zeroizing;

/// Longest secret of a credential in bytes.
pub const MAX_CREDENTIAL: usize = 32;

/// `PolicySecret(TPM_RH_ENDORSEMENT)`, which the profile prescribes for endorsement keys (§B.3.3).
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// A secret that only the TPM with one endorsement key gives out, and only if it holds one other key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub object: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub secret: Vec<u8>,
}

/// Why no credential was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not an endorsement key of the TCG's P-256 template.
    #[error("the endorsement key does not have the form of the TCG's P-256 template")]
    EndorsementKey,
    /// Not an attestation key.
    #[error("the attestation key: {0}")]
    AttestationKey(#[from] QuoteError),
    /// The secret is empty or longer than [`MAX_CREDENTIAL`].
    #[error("the secret has a length that is not allowed here")]
    Length,
}

impl Tpm {
    /// Gives the secret of a credential that was made for this TPM's endorsement key and attestation key.
    /// [`Error::Integrity`] if it was made for others.
    pub fn activate_credential(&mut self, credential: &Credential) -> Result<Zeroizing<Vec<u8>>, Error> {
        let credential_blob = whole::<Tpm2bIdObject>(&credential.object).map_err(|_| Error::Length)?;
        let secret = whole::<Tpm2bEncryptedSecret>(&credential.secret).map_err(|_| Error::Length)?;
        self.with_primary(TpmRh::Endorsement, &[], ak_template()?, |tpm, ak| {
            tpm.with_endorsement_key(|tpm, ek| {
                tpm.with_policy_session(|tpm, policy| {
                    let handles = [TpmRh::Endorsement.value().into(), policy];
                    let by_endorsement = TpmPolicySecretCommand { handles, ..Default::default() };
                    let request = Request::by(&[Auth::Value(&[])], &[]);
                    tpm.call::<_, TpmPolicySecretResponse>(&by_endorsement, &request)?;
                    let handles = [ak.handle, ek.handle];
                    let command = TpmActivateCredentialCommand { handles, credential_blob, secret };
                    let auths = [Auth::Value(&[]), Auth::Policy(policy)];
                    let names = [&ak.name[..], &ek.name];
                    let request = Request { secret: Secret::Out, ..Request::by(&auths, &names) };
                    Ok(tpm.send(Command::new(&command)?, &request, 0)?.secret(MAX_CREDENTIAL)?)
                })
            })
        })
    }
}

/// Makes a credential: `secret` (1 to [`MAX_CREDENTIAL`] bytes) encrypted so that only the TPM with the endorsement
/// key `ek` gives it out, and only if the attestation key `ak` (both `TPM2B_PUBLIC`) is its own. Needs no TPM.
/// Whether `ek` belongs to a TPM at all, only its maker's certificate tells.
pub fn make_credential(ek: &[u8], ak: &[u8], secret: &[u8]) -> Result<Credential, CredentialError> {
    check_attestation_key(ak)?;
    if !(1..=MAX_CREDENTIAL).contains(&secret.len()) {
        return Err(CredentialError::Length);
    }
    let ek = endorsement_point(ek)?;
    let name = name(ak)?;
    let (seed, ephemeral) = shared_seed(&ek, b"IDENTITY\0").map_err(|_| CredentialError::EndorsementKey)?;
    seal_credential(&seed, &ephemeral, &name, secret).map_err(|_| CredentialError::Length)
}

/// The uncompressed point (65 bytes, SEC 1) of an endorsement key of the TCG's P-256 template.
pub fn endorsement_point(ek: &[u8]) -> Result<[u8; 65], CredentialError> {
    let public = whole::<Tpm2bPublic>(ek)?.inner;
    let mut template = ek_template().map_err(|_| CredentialError::EndorsementKey)?;
    let TpmuPublicId::Ecc(point) = public.unique else { return Err(CredentialError::EndorsementKey) };
    template.unique = TpmuPublicId::Ecc(point);
    if public != template {
        return Err(CredentialError::EndorsementKey);
    }
    let mut encoded = [4; 65];
    let (x, y) = (padded(&point.x)?, padded(&point.y)?);
    encoded.iter_mut().skip(1).zip(x.iter().chain(&y)).for_each(|(to, from)| *to = *from);
    Ok(encoded)
}

/// The name of a key (`TPM2B_PUBLIC` with SHA-256 as its name's hash): part 1, §16.
pub fn name(public: &[u8]) -> Result<[u8; 34], QuoteError> {
    let public = whole::<Tpm2bPublic>(public)?.inner;
    if public.name_alg != TpmAlgId::Sha256 {
        return Err(QuoteError::Key);
    }
    let digest = sha256([&bytes(&public).map_err(|_| QuoteError::Malformed)?[..]]);
    let mut name = [0; 34];
    let algorithm = TpmAlgId::Sha256.value().to_be_bytes();
    name.iter_mut().zip(algorithm.iter().chain(&digest)).for_each(|(to, from)| *to = *from);
    Ok(name)
}

/// Part 1, §24.4 and §24.5.
fn seal_credential(
    seed: &[u8; 32],
    ephemeral: &TpmsEccPoint,
    name: &[u8; 34],
    secret: &[u8],
) -> Result<Credential, Box<dyn std::error::Error>> {
    let mut sealed = Zeroizing::new(bytes(&Tpm2bDigest::try_from(secret)?)?);
    let key = kdfa(seed, b"STORAGE\0", &[name], 128);
    encrypt(key.get(..16).unwrap_or_default(), [0; 16], &mut sealed)?;
    let key = kdfa(seed, b"INTEGRITY\0", &[], 256);
    let integrity = mac(&*key, [&sealed[..], name]);
    let mut object = bytes(&Tpm2bDigest::try_from(integrity.sign().as_ref())?)?;
    object.extend_from_slice(&sealed);
    Ok(Credential {
        object: bytes(&Tpm2bIdObject::try_from(&object[..])?)?,
        secret: bytes(&Tpm2bEncryptedSecret::try_from(&bytes(ephemeral)?[..])?)?,
    })
}

/// The TCG's template L-2.
pub(crate) fn ek_template() -> Result<TpmtPublic, TpmError> {
    let parameters = TpmsEccParms {
        symmetric: aes(),
        scheme: TpmtEccScheme::default(),
        curve_id: TpmEccCurve::NistP256,
        kdf: TpmtKdfScheme::default(),
    };
    let zero = Tpm2bEccParameter::try_from(&[0; 32][..])?;
    Ok(TpmtPublic {
        object_type: TpmAlgId::Ecc,
        name_alg: TpmAlgId::Sha256,
        object_attributes: TpmaObject::FIXED_TPM
            | TpmaObject::FIXED_PARENT
            | TpmaObject::SENSITIVE_DATA_ORIGIN
            | TpmaObject::ADMIN_WITH_POLICY
            | TpmaObject::RESTRICTED
            | TpmaObject::DECRYPT,
        auth_policy: sized(&EK_POLICY)?,
        parameters: TpmuPublicParms::Ecc(parameters),
        unique: TpmuPublicId::Ecc(TpmsEccPoint { x: zero, y: zero }),
    })
}
