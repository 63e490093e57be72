//! Calls that must be refused, for those who want to see that they are.

use super::{Cloud, Who, now};
use crate::{
    failure::{Doing, Failure},
    place::Place,
    up,
};
use ids::Identity;
use seal::CardKey;
use service::{CallError, Client};
use std::fs;
use volumes::Volume;

/// Something that must be refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// What was tried.
    pub(crate) what: String,
    /// With which code it must be refused.
    pub(crate) wanted: &'static str,
    /// With which it was; none if it was not.
    pub(crate) code: Option<String>,
}

impl Refused {
    pub(crate) fn new<T, E: Into<Failure>>(
        what: impl Into<String>,
        wanted: &'static str,
        answer: Result<T, E>,
    ) -> Self {
        let code = answer.err().map(|error| error.into().code().to_owned());
        Self { what: what.into(), wanted, code }
    }

    /// Refused, and with the right code.
    pub(crate) fn is_right(&self) -> bool {
        self.code.as_deref() == Some(self.wanted)
    }
}

impl Cloud {
    /// Knocks at the host's door with exactly these headers and no body.
    pub(crate) fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<serde_json::Value, CallError> {
        self.runtime.block_on(self.door.call(method, path, Vec::new(), headers))
    }

    /// Makes a keeper's call with a proof by another's key. It is written down as the keeper's: what a thief does is
    /// told by nobody, and that is an alarm.
    pub(crate) fn knock_with_another_key<C: host_api::Call>(
        &self,
        token: &str,
        call: &C,
    ) -> Result<C::Answer, Failure> {
        let keeper = self.operator.credentials.identity().map_err(Failure::state)?;
        let me = (&keeper, self.auditor.credentials.key());
        let prepared = audit::caller::prepare(call, &self.installation.host, me, token, now() * 1000)
            .ok_or_else(|| Failure::state("the system gives no random numbers"))?;
        self.journal.write(&prepared.attempt).doing("the record of calls")?;
        let answer = self.runtime.block_on(prepared.send(&self.door, token));
        self.tell();
        Ok(answer?)
    }

    /// Reads the audit log as somebody who keeps servers and may not.
    pub(crate) fn read_log_as_keeper(&self) -> Result<audit::client::Page, CallError> {
        self.runtime.block_on(audit::client::entries(&self.operator.audit, 0, 0))
    }

    /// Knocks at the services' doors without a certificate: the handshake fails.
    pub(crate) fn without_certificate(&self, place: &Place) -> Result<Vec<Refused>, Failure> {
        let ca = fs::read_to_string(place.path("pki/ca.pem")).doing("pki/ca.pem")?;
        let client = |name: &str| {
            let server = format!("azote:service/{name}").parse().map_err(Failure::state)?;
            Client::new(&ca, server, up::address(place, name)?, None).map_err(Failure::state)
        };
        let (tokens, kms, audit) = (client("tokens")?, client("kms")?, client("audit")?);
        let refused = "call.unreachable";
        Ok(vec![
            Refused::new("tokens", refused, self.runtime.block_on(tokens::client::keys(&tokens))),
            Refused::new("kms", refused, self.runtime.block_on(kms::client::create_key(&kms))),
            Refused::new("audit", refused, self.runtime.block_on(audit::client::entries(&audit, 0, 0))),
        ])
    }

    /// Asks the key service for the key of a volume, as everybody who may not have it.
    pub(crate) fn try_keys(&self, volume: &Volume) -> Result<Vec<Refused>, Failure> {
        let elsewhere = Identity::Host(ids::HostId::from_random(up::random()?));
        let (card, importer) =
            (self.card()?, self.certify(*CardKey::generate().map_err(Failure::state)?.public())?);
        let grant = self.grant(volume, &card.owner, None)?;
        let ask = |client, wrapped: &[u8], token: &str, shown: Result<_, Failure>| {
            let asked =
                kms::client::decrypt_for(client, wrapped, &volume.id, token, &card.certificate, shown?);
            Ok::<_, Failure>(self.runtime.block_on(asked)?)
        };
        let (keeper, services) = (&self.operator.kms, &self.control_plane.kms);
        let mut changed = volume.wrapped_key.clone();
        if let Some(byte) = changed.last_mut() {
            *byte ^= 1;
        }
        let (wrapped, token) = (&volume.wrapped_key, &grant.grant_token);
        let made = kms::client::create_grant(keeper, &volume.key, &card.host, &volume.id, None);
        let nonce = [0; attest::NONCE];
        let own_nonce = self.evidence(Who::ControlPlane, &nonce).map(|evidence| {
            let nonce = kms::client::Bytes(nonce.to_vec());
            kms::client::Recipient::Host { nonce, evidence: Box::new(evidence) }
        });
        let attempts = vec![
            Refused::new(
                "a keeper of servers with the tenant's grant",
                "kms.denied",
                ask(keeper, wrapped, token, self.shown(&card.host)),
            ),
            Refused::new("a keeper of servers who makes a grant", "kms.denied", self.runtime.block_on(made)),
            Refused::new(
                "the control plane without a grant",
                "kms.grant",
                ask(services, wrapped, "none", self.shown(&card.host)),
            ),
            Refused::new(
                "a changed byte of the wrapped key",
                "kms.ciphertext",
                ask(services, &changed, token, self.shown(&card.host)),
            ),
            Refused::new(
                "a host's evidence for another nonce than the key service's",
                "attest.nonce",
                ask(services, wrapped, token, own_nonce),
            ),
            Refused::new(
                "the tenant's grant for another host",
                "kms.recipient",
                self.seal_to(volume, &elsewhere, &card, None),
            ),
            Refused::new(
                "the tenant's importer with a grant for a host",
                "kms.importer",
                self.seal_to(volume, &card.owner, &importer, None),
            ),
        ];
        self.runtime.block_on(kms::client::retire_grant(&self.tenant.kms, &volume.key, &grant.grant_id))?;
        Ok(attempts)
    }
}
