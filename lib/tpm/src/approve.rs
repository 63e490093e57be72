//! Approvals: a key of this TPM signs the measured states in which a secret may open, so that the next good state
//! can be approved without sealing the secret anew (`TPM2_PolicyAuthorize`: part 3, §23.16).

use crate::{
    Digest, Error, PcrValues, QuoteError, Tpm,
    client::{pcr_mask, select, selection, sized},
    frame::{Auth, Command, Request},
    log, name,
    quote::{bytes, check_ecdsa, ecc_point, ecc_template, whole},
    sha256,
};
use tpm2_protocol::{
    basic::{TpmHandle, TpmUint16},
    data::{
        Tpm2bAuth, Tpm2bDigest, Tpm2bMaxBuffer, Tpm2bName, Tpm2bNonce, Tpm2bPrivate, Tpm2bPublic, TpmAlgId,
        TpmCc, TpmEo, TpmRh, TpmSt, TpmaObject, TpmsSchemeHash, TpmsSensitiveCreate, TpmtEccScheme,
        TpmtPublic, TpmtSigScheme, TpmtSignature, TpmtSymDefObject, TpmtTkHashcheck, TpmuAsymScheme,
    },
    frame::{
        TpmLoadExternalResponse, TpmPolicyAuthorizeCommand, TpmPolicyAuthorizeResponse, TpmPolicyNvCommand,
        TpmPolicyNvResponse, TpmPolicyPcrCommand, TpmPolicyPcrResponse, TpmSignCommand, TpmSignResponse,
        TpmVerifySignatureCommand, TpmVerifySignatureResponse,
    },
};

/// Longest reference and authorisation value in bytes.
pub const MAX_REFERENCE: usize = 32;
/// Longest encoded approval in bytes.
pub const MAX_APPROVAL: usize = 256;

/// A signing key that never leaves its TPM. Both halves may be stored anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE`: encrypted by the TPM's storage root key.
    pub private: Vec<u8>,
}

/// A bound on an NV counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The counter's index.
    pub index: u32,
    /// Highest value that the counter may have.
    pub at_most: u64,
}

/// A signed permission to open a secret in one measured state. The TPM checks it; nobody else needs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Mask of the PCRs.
    pcrs: u32,
    limit: Option<Limit>,
    /// The policy that is approved.
    policy: Digest,
    /// `TPMT_SIGNATURE`.
    signature: Vec<u8>,
}

impl Approval {
    /// As stored: mask u32, counter u32 (0 for none), its limit u64, policy 32 bytes, signature; big-endian.
    pub fn encode(&self) -> Vec<u8> {
        let (index, at_most) = self.limit.map_or((0, 0), |limit| (limit.index, limit.at_most));
        let fixed =
            [&self.pcrs.to_be_bytes()[..], &index.to_be_bytes(), &at_most.to_be_bytes(), &self.policy];
        [&fixed.concat()[..], &self.signature].concat()
    }

    /// Reads what [`Approval::encode`] gave; [`Error::Approval`] for anything else.
    pub fn decode(encoded: &[u8]) -> Result<Self, Error> {
        let split = || {
            let (pcrs, rest) = encoded.split_first_chunk()?;
            let (index, rest) = rest.split_first_chunk()?;
            let (at_most, rest) = rest.split_first_chunk()?;
            let (policy, signature) = rest.split_first_chunk()?;
            let (index, at_most) = (u32::from_be_bytes(*index), u64::from_be_bytes(*at_most));
            let pcrs = u32::from_be_bytes(*pcrs);
            selection(pcrs).ok()?;
            let limit = (index != 0).then_some(Limit { index, at_most });
            whole::<TpmtSignature>(signature).ok()?;
            Some(Self { pcrs, limit, policy: *policy, signature: signature.to_vec() })
                .filter(|approval| approval.encode() == encoded)
        };
        split().filter(|_| encoded.len() <= MAX_APPROVAL).ok_or(Error::Approval)
    }

    /// The bound on the floor counter, if there is one.
    pub fn limit(&self) -> Option<Limit> {
        self.limit
    }
}

impl Tpm {
    /// Makes a P-256 signing key with an authorisation value (1 to [`MAX_REFERENCE`] bytes) below the storage root.
    pub fn create_signing_key(&mut self, auth: &[u8]) -> Result<SigningKey, Error> {
        if !(1..=MAX_REFERENCE).contains(&auth.len()) {
            return Err(Error::Length);
        }
        let user_auth = Tpm2bAuth::try_from(vec![0; auth.len()].as_slice())?;
        let sensitive = TpmsSensitiveCreate { user_auth, ..Default::default() };
        let made = self.create(sensitive, signing_template(), 4, auth)?;
        Ok(SigningKey { public: bytes(&made.out_public)?, private: bytes(&made.out_private)? })
    }

    /// Approves that secrets sealed to `key` and `reference` open while the PCRs have these values and, if there
    /// is a `limit`, its counter is not above it.
    pub fn approve(
        &mut self,
        key: &SigningKey,
        auth: &[u8],
        reference: &[u8],
        pcrs: &PcrValues,
        limit: Option<Limit>,
    ) -> Result<Approval, Error> {
        let mut policy = pcr_policy(pcrs)?;
        if let Some(limit) = limit {
            let counter = self.nv_public(limit.index)?.filter(|public| public.counter && public.written);
            policy = counter_policy(&policy, limit, &counter.ok_or(Error::Absent)?.name);
        }
        let signature = self.sign_digest(key, auth, &sha256([&policy[..], reference]))?;
        Ok(Approval { pcrs: pcr_mask(pcrs), limit, policy, signature })
    }

    /// Signs a message (`TPMT_SIGNATURE`, ECDSA with SHA-256). Let messages of each purpose begin with a text of their
    /// own, longer than 32 bytes: what is signed for an approval is a digest and a reference.
    pub fn sign(&mut self, key: &SigningKey, auth: &[u8], message: &[u8]) -> Result<Vec<u8>, Error> {
        self.sign_digest(key, auth, &sha256([message]))
    }

    fn sign_digest(&mut self, key: &SigningKey, auth: &[u8], digest: &Digest) -> Result<Vec<u8>, Error> {
        let digest = sized(digest)?;
        let in_private = whole::<Tpm2bPrivate>(&key.private).map_err(|_| Error::Key)?;
        let in_public = whole::<Tpm2bPublic>(&key.public).map_err(|_| Error::Key)?;
        self.with_loaded(in_private, in_public, |tpm, key| {
            let (tag, hierarchy) = (TpmSt::HashCheck, TpmRh::Null);
            let validation = TpmtTkHashcheck { tag, hierarchy, digest: Tpm2bDigest::new() };
            let in_scheme = TpmtSigScheme::default();
            let sign = TpmSignCommand { handles: [key.handle], digest, in_scheme, validation };
            let (auths, names) = ([Auth::Value(auth)], [&key.name[..]]);
            let signed: TpmSignResponse = tpm.call(&sign, &Request::by(&auths, &names))?;
            Ok(bytes(&signed.signature)?)
        })
    }

    /// Brings a policy session to where a secret sealed to `key` and `reference` opens.
    pub(crate) fn satisfy(
        &mut self,
        session: TpmHandle,
        key: &[u8],
        reference: &[u8],
        approval: &Approval,
    ) -> Result<(), Error> {
        self.policy_pcr(session, approval.pcrs)?;
        if let Some(limit) = approval.limit {
            let command = TpmPolicyNvCommand {
                handles: [limit.index.into(), limit.index.into(), session],
                operand_b: Tpm2bMaxBuffer::try_from(&limit.at_most.to_be_bytes()[..])?,
                offset: TpmUint16::new(0),
                operation: TpmEo::UnsignedLe,
            };
            // The TPM itself makes the policy's next digest of it: nothing is gained by altering it.
            let request = Request { outside: true, ..Request::by(&[Auth::Value(&[])], &[]) };
            self.call::<_, TpmPolicyNvResponse>(&command, &request)?;
        }
        let check_ticket = self.verify(key, &sha256([&approval.policy[..], reference]), approval)?;
        let command = TpmPolicyAuthorizeCommand {
            handles: [session],
            approved_policy: sized(&approval.policy)?,
            policy_ref: Tpm2bNonce::try_from(reference)?,
            key_sign: Tpm2bName::try_from(&name(key).map_err(|_| Error::Key)?[..])?,
            check_ticket,
        };
        match self.call::<_, TpmPolicyAuthorizeResponse>(&command, &Request::default()) {
            // The session's policy is not the approved one: part 3, §23.16.
            Err(Error::Value) => Err(Error::Policy),
            done => done.map(drop),
        }
    }

    fn policy_pcr(&mut self, session: TpmHandle, mask: u32) -> Result<(), Error> {
        let pcrs = selection(mask)?;
        let command = TpmPolicyPcrCommand { handles: [session], pcr_digest: Tpm2bDigest::new(), pcrs };
        self.call::<_, TpmPolicyPcrResponse>(&command, &Request::default()).map(drop)
    }

    /// Has the TPM check the signature of an approval; gives its word for it.
    fn verify(
        &mut self,
        key: &[u8],
        digest: &Digest,
        approval: &Approval,
    ) -> Result<tpm2_protocol::data::TpmtTkVerified, Error> {
        let [handle] = self.load_public(key)?.handles;
        let name = name(key).map_err(|_| Error::Key)?;
        self.with_context(handle, |tpm| {
            let signature = whole::<TpmtSignature>(&approval.signature).map_err(|_| Error::Approval)?;
            let command = TpmVerifySignatureCommand { handles: [handle], digest: sized(digest)?, signature };
            match tpm.call::<_, TpmVerifySignatureResponse>(&command, &Request::by(&[], &[&name])) {
                Err(Error::Signature) => Err(Error::Approval),
                verified => Ok(verified?.validation),
            }
        })
    }

    /// `TPM2_LoadExternal` of a public key, into the owner's hierarchy: of the null hierarchy the TPM gives no word.
    /// The protocol crate cannot leave out the private half, so the parameters are made here.
    fn load_public(&mut self, key: &[u8]) -> Result<TpmLoadExternalResponse, Error> {
        whole::<Tpm2bPublic>(key).map_err(|_| Error::Key)?;
        let parameters = [&[0, 0][..], key, &TpmRh::Owner.value().to_be_bytes()].concat().into();
        let command = Command { code: TpmCc::LoadExternal.value(), handles: Vec::new(), parameters };
        Ok(self.send(command, &Request::default(), 1)?.body()?)
    }
}

/// Checks what [`Tpm::sign`] made, with the public half (`TPM2B_PUBLIC`) and no TPM.
pub fn check_signature(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), QuoteError> {
    let point = ecc_point(&whole::<Tpm2bPublic>(key)?.inner).ok_or(QuoteError::Key)?;
    check_ecdsa(&point, message, signature)
}

/// Part 3, `TPM2_PolicyPCR`, as the first of a session.
fn pcr_policy(values: &PcrValues) -> Result<Digest, Error> {
    let selection = bytes(&select(values.keys().copied())?)?;
    if values.is_empty() {
        return Err(Error::NoPcr);
    }
    let code = TpmCc::PolicyPcr.value().to_be_bytes();
    Ok(sha256([&[0; 32][..], &code, &selection, &log::digest(values)]))
}

/// Part 3, `TPM2_PolicyNV`, after `before`.
fn counter_policy(before: &Digest, limit: Limit, name: &[u8]) -> Digest {
    let operation = TpmEo::UnsignedLe.value().to_be_bytes();
    let arguments = sha256([&limit.at_most.to_be_bytes()[..], &[0, 0], &operation]);
    sha256([&before[..], &TpmCc::PolicyNv.value().to_be_bytes(), &arguments, name])
}

/// Part 3, `TPM2_PolicyAuthorize`: it starts over whatever came before.
pub(crate) fn authorised_policy(key: &[u8], reference: &[u8]) -> Result<Digest, Error> {
    if reference.len() > MAX_REFERENCE {
        return Err(Error::Length);
    }
    let name = name(key).map_err(|_| Error::Key)?;
    let begun = sha256([&[0; 32][..], &TpmCc::PolicyAuthorize.value().to_be_bytes(), &name]);
    Ok(sha256([&begun[..], reference]))
}

fn signing_template() -> TpmtPublic {
    let details = TpmuAsymScheme::Hash(TpmsSchemeHash { hash_alg: TpmAlgId::Sha256 });
    let scheme = TpmtEccScheme { scheme: TpmAlgId::Ecdsa, details };
    ecc_template(TpmaObject::SIGN_ENCRYPT, TpmtSymDefObject::default(), scheme)
}
