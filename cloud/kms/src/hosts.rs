//! Which hosts may have keys: those that were appraised a moment ago, for a nonce of this service's.

use crate::{KmsError, store::Store};
use attest::{Appraisal, Code, Counters, Evidence, NONCE, Policy, Question};
use ids::HostId;
use service::Trust;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use token::PublicKey;

/// For how many seconds a nonce is good.
pub const NONCE_LIFE: u64 = 60;
/// Most nonces that nobody has answered yet.
pub const MAX_NONCES: usize = 4096;

/// A nonce that was given out for a host, and what was known of its TPM at that moment: evidence that was made
/// later cannot be behind that, in whichever order two answers arrive.
struct Asked {
    host: HostId,
    expires: u64,
    seen: Vec<(PublicKey, Counters)>,
}

pub(crate) struct Appraiser {
    /// What hosts must be; without it, none is good.
    policy: Option<Policy>,
    trust: Arc<Trust>,
    asked: Mutex<HashMap<[u8; NONCE], Asked>>,
}

impl Appraiser {
    pub(crate) fn new(policy: Option<Policy>, trust: Arc<Trust>) -> Self {
        Self { policy, trust, asked: Mutex::default() }
    }

    /// Remembers a nonce for a host until `now` and [`NONCE_LIFE`]; gives that moment.
    pub(crate) fn ask(
        &self,
        store: &Store,
        host: HostId,
        nonce: [u8; NONCE],
        now: u64,
    ) -> Result<u64, KmsError> {
        let (seen, expires) = (store.seen(&host)?, now.saturating_add(NONCE_LIFE));
        let mut asked = self.asked();
        asked.retain(|_, other| other.expires > now);
        if asked.len() >= MAX_NONCES {
            return Err(KmsError::Nonces);
        }
        asked.insert(nonce, Asked { host, expires, seen });
        Ok(expires)
    }

    /// Appraises a host's evidence for a nonce, which is used up by that; what its TPM counts is durable on return.
    pub(crate) fn appraise(
        &self,
        store: &Store,
        host: &HostId,
        evidence: &Evidence,
        nonce: &[u8; NONCE],
        now: u64,
    ) -> Result<Appraisal, KmsError> {
        let asked = self.asked().remove(nonce);
        let asked = asked.filter(|asked| asked.expires > now && asked.host == *host);
        let asked = asked.ok_or(KmsError::Evidence(Code::Nonce.into()))?;
        let policy = self.policy.as_ref().ok_or(KmsError::Evidence(Code::PolicyEmpty.into()))?;
        let crl = self.trust.list().map(|_| self.trust.pem());
        let question = Question { nonce, now, crl: crl.as_deref(), seen: None };
        let appraisal = attest::verify(evidence, policy, &question)?;
        if appraisal.host != *host {
            return Err(KmsError::Recipient);
        }
        let seen = asked.seen.iter().find(|(identity, _)| *identity == appraisal.identity);
        seen.map_or(Ok(()), |(_, seen)| appraisal.counters.follow(*seen))?;
        store.see(host, &appraisal.identity, appraisal.counters)?;
        Ok(appraisal)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<[u8; NONCE], Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
