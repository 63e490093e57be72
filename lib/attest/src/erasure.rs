//! The certificate of erasure that a host leaves behind when it is reset, in the terms of NIST SP 800-88 Rev. 1 (§4.8 and
//! appendix G). That it is true is not only the host's word: its TPM signs, after it was cleared, that its counters
//! have started over, for what the certificate says and in the state that a release is measured as.

use crate::{Appraisal, Bytes, Code, Evidence, Policy, Question, Refusal, verify, verify::sha256};
use ids::{Environment, HostId, Identity};
use serde::{Deserialize, Serialize};
use token::{Ed25519KeyPair, cose};

const CONTEXT: &[u8] = b"azote/erasure/1";
const FORMAT: &str = "azote-erasure/1";
const NAME: &str = "certificate of erasure";
/// Longest signed statement in bytes.
pub const MAX_STATEMENT: usize = 8 * 1024;

/// What was done to one medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Medium {
    /// What it is.
    pub media_type: String,
    /// Its number: of a TPM the SHA-256 of its endorsement key.
    pub serial_number: String,
    /// What was on it.
    pub contents: String,
    /// `clear`, `purge` or `destroy` (§2.5).
    pub method: String,
    /// How.
    pub technique: String,
    /// How that was verified.
    pub verification: String,
}

/// What a certificate of erasure says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    format: String,
    /// The host, which is no more.
    pub host: HostId,
    /// What it was for.
    pub environment: Environment,
    /// Unix time in seconds.
    pub time: u64,
    /// Who asked for it, by the token of the call.
    pub requested_by: Option<Identity>,
    /// What did it, with its version.
    pub tool: String,
    /// What was erased.
    pub media: Vec<Medium>,
    /// What the media may be used for afterwards.
    pub destination: String,
}

impl Statement {
    /// What `host` says at `time`.
    pub fn new(host: HostId, environment: Environment, time: u64, requested_by: Option<Identity>) -> Self {
        let tool = concat!("azote-controller ", env!("CARGO_PKG_VERSION")).to_owned();
        let destination = "internal or external reuse: the first state of a host".to_owned();
        let (format, media) = (FORMAT.to_owned(), Vec::new());
        Self { format, host, environment, time, requested_by, tool, media, destination }
    }

    /// Signs with the host's identity key: a COSE_Sign1 over JSON. `None` if the library fails.
    pub fn sign(&self, identity: &Ed25519KeyPair) -> Option<Vec<u8>> {
        cose::sign(identity, serde_json::to_vec(self).ok()?, CONTEXT)
    }
}

/// The nonce of the evidence that goes with a signed statement.
pub fn erasure_nonce(statement: &[u8]) -> [u8; 32] {
    sha256(statement)
}

/// A certificate of erasure. In JSON it is the answer of the operation `ResetHost`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// What the host says: [`Statement`], signed.
    pub statement: Bytes,
    /// What its TPM says, after it was cleared.
    pub evidence: Evidence,
}

impl Erasure {
    /// Checks that the host of the statement ran a release of the policy when its TPM was cleared, and signed the
    /// statement then. Certificates need to be valid at the time that the statement names, not now.
    pub fn verify(&self, policy: &Policy) -> Result<(Statement, Appraisal), Refusal> {
        let wrong = || Code::Malformed.at(NAME);
        if self.statement.0.len() > MAX_STATEMENT {
            return Err(wrong());
        }
        // The time is only known to be the host's when the signature is checked: it is looked at before, to judge
        // the certificates of the key that must have signed it.
        let payload = cose::parse(&self.statement.0).and_then(|it| it.payload).ok_or_else(wrong)?;
        let statement: Statement = serde_json::from_slice(&payload).map_err(|_| wrong())?;
        let nonce = erasure_nonce(&self.statement.0);
        let question = Question { nonce: &nonce, now: statement.time, crl: None, seen: None };
        let appraisal = verify(&self.evidence, policy, &question)?;
        let signed = cose::open(&self.statement.0, &[appraisal.identity], CONTEXT);
        let same = statement.host == appraisal.host && statement.environment == appraisal.environment;
        if signed.is_none() || !same || statement.format != FORMAT {
            return Err(Code::Signature.at(NAME));
        }
        // `TPM2_Clear` alone sets these to zero (part 3, §24.6).
        if (appraisal.counters.reset_count, appraisal.counters.restart_count) != (0, 0) {
            return Err(Code::Clock.at(NAME));
        }
        Ok((statement, appraisal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Counters,
        lab::{Lab, NOW},
    };

    const CLEARED: Counters = Counters { reset_count: 0, restart_count: 0, clock: 12 };

    fn erase(lab: &Lab, change: impl FnOnce(&mut Statement)) -> Erasure {
        let mut statement = Statement::new(lab.host.clone(), lab.environment, NOW, None);
        change(&mut statement);
        let statement = statement.sign(&lab.identity).unwrap();
        let evidence = lab.evidence(&erasure_nonce(&statement));
        Erasure { statement: Bytes(statement), evidence }
    }

    #[test]
    fn a_cleared_tpm_and_its_host_must_say_the_same() {
        let mut lab = Lab::default();
        lab.counters = CLEARED;
        let (erasure, policy) = (erase(&lab, |_| ()), lab.policy());
        let (statement, appraisal) = erasure.verify(&policy).unwrap();
        assert_eq!((statement.host, appraisal.counters), (lab.host.clone(), CLEARED));
        let code = |erasure: &Erasure| erasure.verify(&policy).unwrap_err().code;

        // Every byte of the statement counts, and so does who signed it.
        for at in 0..erasure.statement.0.len() {
            let mut changed = erasure.clone();
            changed.statement.0[at] ^= 1;
            assert!(changed.verify(&policy).is_err(), "byte {at}");
        }
        let stranger = Ed25519KeyPair::generate().unwrap();
        let signed = Statement::new(lab.host.clone(), lab.environment, NOW, None).sign(&stranger).unwrap();
        let evidence = lab.evidence(&erasure_nonce(&signed));
        assert_eq!(code(&Erasure { statement: Bytes(signed), evidence }), Code::Signature);
        // Evidence for anything else; of another host; at a time without a certificate.
        let other = Erasure { evidence: lab.evidence(&[1; 32]), ..erasure.clone() };
        assert_eq!(code(&other), Code::Nonce);
        assert_eq!(code(&erase(&lab, |it| it.host = HostId::from_random(99))), Code::Signature);
        assert_eq!(code(&erase(&lab, |it| it.environment = Environment::Production)), Code::Signature);
        assert_eq!(code(&erase(&lab, |it| it.time = 1)), Code::Expired);
        let long = Erasure { statement: Bytes(vec![0; MAX_STATEMENT + 1]), ..erasure };
        assert_eq!(code(&long), Code::Malformed);
        // A TPM that nobody cleared.
        for counters in [Counters { reset_count: 1, ..CLEARED }, Counters { restart_count: 1, ..CLEARED }] {
            lab.counters = counters;
            assert_eq!(code(&erase(&lab, |_| ())), Code::Clock);
        }
    }
}
