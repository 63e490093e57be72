//! Quotes: the TPM's signature over a nonce and PCR values, and its check, which needs no TPM.

use crate::{
    Error, PcrValues, Tpm,
    client::{select, sized},
    frame::{Auth, Request},
    log, sha256,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use tpm2_protocol::{
    TpmError, TpmMarshal, TpmSized, TpmUnmarshal, TpmWriter,
    data::{
        Tpm2bData, Tpm2bEccParameter, Tpm2bPublic, TpmAlgId, TpmEccCurve, TpmRh, TpmaObject, TpmsAttest,
        TpmsClockInfo, TpmsEccParms, TpmsEccPoint, TpmsSchemeHash, TpmtEccScheme, TpmtKdfScheme, TpmtPublic,
        TpmtSigScheme, TpmtSignature, TpmtSymDefObject, TpmuAsymScheme, TpmuAttest, TpmuPublicId,
        TpmuPublicParms, TpmuSignature,
    },
    frame::{TpmQuoteCommand, TpmQuoteResponse},
};

/// Bytes in a nonce, least and most.
const NONCE: std::ops::RangeInclusive<usize> = 16..=64;
/// Makes the attestation key another one than every other key from this TPM's endorsement seed.
const AK_LABEL: &[u8] = b"azote/attestation-key/1";

/// A quote in the TPM's own encodings, so that other tools can check it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Vec<u8>,
}

/// The TPM's clock, as a verified quote says it. A TPM whose clock is behind what was seen before is a copy, or
/// was rolled back (part 1, §36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that the TPM has been powered, in its life.
    pub milliseconds: u64,
    /// How often it was reset: power cycles. Starts over only with another owner.
    pub resets: u32,
    /// How often it was restarted or resumed since the reset.
    pub restarts: u32,
    /// `milliseconds` was never behind: false after a loss of power until the next regular save.
    pub safe: bool,
}

impl From<TpmsClockInfo> for Clock {
    fn from(info: TpmsClockInfo) -> Self {
        Self {
            milliseconds: info.clock.value(),
            resets: info.reset_count.value(),
            restarts: info.restart_count.value(),
            safe: info.safe.into(),
        }
    }
}

/// Why a quote is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The key, the quote or the signature does not parse.
    #[error("the quote or its key is malformed")]
    Malformed,
    /// The key is no restricted P-256 signing key that is bound to its TPM.
    #[error("the attestation key is not of the kind that signs only what its TPM made")]
    Key,
    /// Another key signed, or bytes were altered.
    #[error("the quote's signature is wrong")]
    Signature,
    /// Made for another question.
    #[error("the quote answers another nonce")]
    Nonce,
    /// The PCRs have other values, or others were quoted, or none were expected.
    #[error("the quoted PCRs are not the expected ones")]
    Pcrs,
}

impl QuoteError {
    /// The stable code for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "quote.malformed",
            Self::Key => "quote.key",
            Self::Signature => "quote.signature",
            Self::Nonce => "quote.nonce",
            Self::Pcrs => "quote.pcrs",
        }
    }
}

impl Tpm {
    /// The public part of this TPM's attestation key, a `TPM2B_PUBLIC`. The key is derived from the
    /// endorsement seed, so it stays the same until the TPM gets a new one.
    pub fn attestation_key(&mut self) -> Result<Vec<u8>, Error> {
        self.with_primary(TpmRh::Endorsement, &[], ak_template()?, |_, key| Ok(key.public.clone()))
    }

    /// Signs `nonce` (16 to 64 bytes) and the present values of `pcrs` with the attestation key.
    pub fn quote(&mut self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, Error> {
        if !NONCE.contains(&nonce.len()) {
            return Err(Error::Length);
        }
        let (qualifying_data, pcr_select) = (Tpm2bData::try_from(nonce)?, select(pcrs.iter().copied())?);
        self.with_primary(TpmRh::Endorsement, &[], ak_template()?, |tpm, key| {
            let in_scheme = TpmtSigScheme::default();
            let command = TpmQuoteCommand { handles: [key.handle], qualifying_data, in_scheme, pcr_select };
            let (auths, names) = ([Auth::Value(&[])], [&key.name[..]]);
            let made: TpmQuoteResponse = tpm.call(&command, &Request::by(&auths, &names))?;
            Ok(Quote { attest: bytes(&made.quoted.inner)?, signature: bytes(&made.signature)? })
        })
    }
}

impl Quote {
    /// Checks that `key` (`TPM2B_PUBLIC`, known to belong to the TPM in question) signed exactly the
    /// `expected` values for this `nonce`; gives the clock that it signed with them. An empty expectation is refused.
    pub fn verify(&self, key: &[u8], nonce: &[u8], expected: &PcrValues) -> Result<Clock, QuoteError> {
        let point = signing_point(&whole::<Tpm2bPublic>(key)?.inner).ok_or(QuoteError::Key)?;
        check_ecdsa(&point, &self.attest, &self.signature)?;
        // Parsing refuses what does not begin with the magic that a restricted key signs only for its TPM.
        let attest = whole::<TpmsAttest>(&self.attest)?;
        let TpmuAttest::Quote(quoted) = attest.attested else { return Err(QuoteError::Malformed) };
        if attest.extra_data[..] != *nonce {
            return Err(QuoteError::Nonce);
        }
        let selection = select(expected.keys().copied()).map_err(|_| QuoteError::Pcrs)?;
        if expected.is_empty()
            || quoted.pcr_select != selection
            || quoted.pcr_digest[..] != log::digest(expected)
        {
            return Err(QuoteError::Pcrs);
        }
        Ok(attest.clock_info.into())
    }
}

/// Checks that `key` (`TPM2B_PUBLIC`) says of itself that it signs only what its TPM made. That it says the
/// truth, only [`crate::make_credential`] shows.
pub fn check_attestation_key(key: &[u8]) -> Result<(), QuoteError> {
    signing_point(&whole::<Tpm2bPublic>(key)?.inner).map(drop).ok_or(QuoteError::Key)
}

/// The uncompressed point of a restricted, TPM-bound P-256 signing key.
fn signing_point(public: &TpmtPublic) -> Option<Vec<u8>> {
    let wanted = TpmaObject::FIXED_TPM
        | TpmaObject::SENSITIVE_DATA_ORIGIN
        | TpmaObject::RESTRICTED
        | TpmaObject::SIGN_ENCRYPT;
    ecc_point(public).filter(|_| public.object_attributes.contains(wanted))
}

/// The uncompressed point of a P-256 key.
pub(crate) fn ecc_point(public: &TpmtPublic) -> Option<Vec<u8>> {
    let (TpmuPublicParms::Ecc(parameters), TpmuPublicId::Ecc(point)) = (&public.parameters, &public.unique)
    else {
        return None;
    };
    let (x, y) = (padded(&point.x).ok()?, padded(&point.y).ok()?);
    (parameters.curve_id == TpmEccCurve::NistP256).then(|| [&[4], &x[..], &y[..]].concat())
}

/// Checks a `TPMT_SIGNATURE` (ECDSA with SHA-256) over `message`.
pub(crate) fn check_ecdsa(point: &[u8], message: &[u8], signature: &[u8]) -> Result<(), QuoteError> {
    let TpmuSignature::Ecdsa(signature) = whole::<TpmtSignature>(signature)?.signature else {
        return Err(QuoteError::Malformed);
    };
    if signature.hash != TpmAlgId::Sha256 {
        return Err(QuoteError::Malformed);
    }
    let signature = [padded(&signature.signature_r)?, padded(&signature.signature_s)?].concat();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(message, &signature)
        .map_err(|_| QuoteError::Signature)
}

/// A big-endian integer of at most 32 bytes at its full width.
pub(crate) fn padded(value: &Tpm2bEccParameter) -> Result<[u8; 32], QuoteError> {
    let mut wide = [0; 32];
    let start = wide.len().checked_sub(value[..].len()).ok_or(QuoteError::Malformed)?;
    wide.get_mut(start..).ok_or(QuoteError::Malformed)?.copy_from_slice(value);
    Ok(wide)
}

pub(crate) fn whole<T: TpmUnmarshal>(encoded: &[u8]) -> Result<T, QuoteError> {
    match T::unmarshal(encoded) {
        Ok((value, [])) => Ok(value),
        _ => Err(QuoteError::Malformed),
    }
}

pub(crate) fn bytes<T: TpmMarshal + TpmSized>(value: &T) -> Result<Vec<u8>, TpmError> {
    let mut encoded = vec![0; value.len()];
    let mut writer = TpmWriter::new(&mut encoded);
    value.marshal(&mut writer)?;
    Ok(encoded)
}

pub(crate) fn ak_template() -> Result<TpmtPublic, TpmError> {
    let details = TpmuAsymScheme::Hash(TpmsSchemeHash { hash_alg: TpmAlgId::Sha256 });
    let scheme = TpmtEccScheme { scheme: TpmAlgId::Ecdsa, details };
    let mut template =
        ecc_template(TpmaObject::SIGN_ENCRYPT | TpmaObject::RESTRICTED, TpmtSymDefObject::default(), scheme);
    let x = Tpm2bEccParameter::try_from(&sized(&sha256([AK_LABEL]))?[..])?;
    template.unique = TpmuPublicId::Ecc(TpmsEccPoint { x, y: Tpm2bEccParameter::new() });
    Ok(template)
}

/// A P-256 key that never leaves its TPM.
pub(crate) fn ecc_template(
    purpose: TpmaObject,
    symmetric: TpmtSymDefObject,
    scheme: TpmtEccScheme,
) -> TpmtPublic {
    let object_attributes = TpmaObject::FIXED_TPM
        | TpmaObject::FIXED_PARENT
        | TpmaObject::SENSITIVE_DATA_ORIGIN
        | TpmaObject::USER_WITH_AUTH
        | TpmaObject::NO_DA
        | purpose;
    let parameters =
        TpmsEccParms { symmetric, scheme, curve_id: TpmEccCurve::NistP256, kdf: TpmtKdfScheme::default() };
    TpmtPublic {
        object_type: TpmAlgId::Ecc,
        name_alg: TpmAlgId::Sha256,
        object_attributes,
        parameters: TpmuPublicParms::Ecc(parameters),
        unique: TpmuPublicId::Ecc(TpmsEccPoint::default()),
        ..Default::default()
    }
}
