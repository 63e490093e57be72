//! A host: a key, a verifier, and a chain of records.

use host_api::{
    Api, GENESIS, LogHead, LogPage, LogRecord, RecordKind, RequestId, Resource, Sha256, Timestamp,
};
use ids::{HostId, Identity, VolumeId};
use service::Key;
use std::error::Error;
use token::{Call, Claims, Keys, PublicKey, Verifier};

/// What a caller sends.
pub(crate) struct Sent<'a> {
    pub(crate) call: Call<'a>,
    pub(crate) proof: &'a str,
    pub(crate) api: Api,
    pub(crate) resources: Vec<Resource>,
    pub(crate) request: RequestId,
}

pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) volume: VolumeId,
    key: Key,
    verifier: Verifier,
    records: Vec<LogRecord>,
    prev: [u8; 32],
}

impl Host {
    pub(crate) fn new(number: u32, keys: Keys) -> Result<Self, Box<dyn Error>> {
        let id = HostId::from_random(u128::from(number));
        let volume = VolumeId::from_random(u128::from(number));
        let verifier = Verifier::new(keys, id.clone());
        Ok(Self { id, volume, key: Key::generate()?, verifier, records: Vec::new(), prev: GENESIS })
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.key.public())
    }

    /// Checks a call as a host does.
    pub(crate) fn check(&self, sent: &Sent<'_>, now: u64) -> Result<Claims, Box<dyn Error>> {
        let bearer = format!("Bearer {}", sent.call.token);
        let call = Call { token: "", ..sent.call };
        let (claims, _) = self.verifier.check_call(Some(&bearer), Some(sent.proof), call, now)?;
        claims.authorize(sent.api, &sent.resources)?;
        Ok(claims)
    }

    /// Records a call: the intent and the outcome.
    pub(crate) fn record(&mut self, sent: &Sent<'_>, claims: &Claims) -> Result<(), Box<dyn Error>> {
        let intent = self.records.len() as u64 + 1;
        for kind in [RecordKind::Intent, RecordKind::Outcome] {
            let record = LogRecord {
                seq: self.records.len() as u64 + 1,
                time: Timestamp::earliest(),
                kind,
                api: Some(sent.api),
                subject: Some(Identity::clone(&claims.subject)),
                token: claims.id_text().parse().ok(),
                request: Some(sent.request.clone()),
                resources: sent.resources.clone(),
                peer: None,
                intent: (kind == RecordKind::Outcome).then_some(intent),
                code: None,
                detail: None,
                prev: Sha256::from_digest(&self.prev),
            };
            self.prev = LogRecord::hash_of(record.line().as_bytes());
            self.records.push(record);
        }
        Ok(())
    }

    /// The whole log, as its reader gets it.
    pub(crate) fn page(&self) -> LogPage {
        let last = self.records.len() as u64;
        LogPage {
            records: self.records.clone(),
            last,
            base: LogHead::sign(0, &GENESIS, self.key.pair()),
            head: LogHead::sign(last, &self.prev, self.key.pair()),
        }
    }
}
