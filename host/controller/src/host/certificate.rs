//! The host's certificates live a day. It never asks for others: whoever rolls them out offers them, and the host takes
//! what its environment's authority has signed for its own keys.

use super::Host;
use crate::{
    Refusal,
    settings::{Kept, KeptCertificates},
};
use attest::AkCertificate;
use host_api::{Done, OfferCertificate};
use ids::{Environment, Identity};
use nsm::{Chain, HostKey};
use service::{Credentials, Key, Served};
use std::sync::{Arc, PoisonError};
use token::PublicKey;

/// What a host shows, and what it takes in its place.
pub struct Certificates {
    /// What callers are shown.
    pub served: Arc<Served>,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// What the host is for.
    pub environment: Environment,
}

impl Host {
    /// Takes certificates that live no shorter than the present ones (an offer made twice is taken twice): durable
    /// first, then shown.
    pub(super) fn offer(&self, offer: &OfferCertificate) -> Result<Done, Refusal> {
        let next = KeptCertificates {
            chain: offer.chain.clone(),
            attestation: offer.attestation_certificate.clone(),
            instances: offer.instances_chain.clone(),
        };
        let ends = self.judge(&next)?;
        let mut inner = self.lock();
        let present = service::ends(self.certificate().as_str()).unwrap_or(0);
        if ends < present {
            return Err(Refusal::of("certificate.older"));
        }
        let kept = Kept { certificates: Some(next.clone()), ..inner.settings.kept().clone() };
        inner.keep(kept)?;
        drop(inner);
        self.show(next)?;
        Ok(Done {})
    }

    /// Shows what an earlier run was offered, unless what this one was started with lives longer.
    pub(super) fn resume_certificates(&self) {
        let Some(kept) = self.lock().settings.kept().certificates.clone() else { return };
        let present = service::ends(self.certificate().as_str()).unwrap_or(0);
        let later = self.judge(&kept).is_ok_and(|ends| ends >= present);
        if later && let Err(refusal) = self.show(kept) {
            tracing::warn!(%refusal, "the certificates that the host was offered are of no use any more");
        }
    }

    fn show(&self, next: KeptCertificates) -> Result<(), Refusal> {
        let failed = || Refusal::of("host.failed");
        let certificates = self.certificates.as_ref().ok_or_else(failed)?;
        let key = Key::from_seed(self.identity.key.seed()).map_err(|_| failed())?;
        let credentials = Credentials::new(next.chain.as_str(), key).map_err(|_| failed())?;
        certificates.served.replace(&credentials).map_err(|_| failed())?;
        if let Some(attester) = &self.attester {
            attester.present(next.attestation);
        }
        if let Some(chain) = next.instances.as_ref().and_then(|chain| Chain::from_pem(chain.as_str()).ok()) {
            self.lock().parts.attestation.offer(chain, self.clock.seconds());
        }
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = next.chain;
        Ok(())
    }

    /// Whether the authority says all of this, of this host's own keys; until when.
    fn judge(&self, next: &KeptCertificates) -> Result<u64, Refusal> {
        let refused = || Refusal::of("certificate.refused");
        let (now, host) = (self.clock.seconds(), &self.identity.host);
        let Certificates { authority, environment, .. } = self.certificates.as_ref().ok_or_else(refused)?;
        let certified = service::certified_by(authority, next.chain.as_str(), now).map_err(|_| refused())?;
        let mine = certified.identity == Identity::Host(host.clone())
            && certified.public_key == self.identity.key.public();
        let authority = service::authority_key(authority).map(PublicKey).ok_or_else(refused)?;
        let key =
            AkCertificate::verify(&next.attestation.to_bytes(), &authority, now).map_err(|_| refused())?;
        let attester = self.attester.as_ref().ok_or_else(refused)?;
        let attests =
            key.host == *host && key.environment == *environment && attester.has(&key.attestation_key.0);
        let instances = next.instances.as_ref().is_none_or(|chain| {
            let mine = HostKey::derive(self.identity.key.seed()).ok();
            let chain = Chain::from_pem(chain.as_str()).ok();
            mine.zip(chain).is_some_and(|(key, chain)| key.is_certified_by(&chain))
        });
        if mine && attests && instances { Ok(certified.not_after) } else { Err(refused()) }
    }
}
