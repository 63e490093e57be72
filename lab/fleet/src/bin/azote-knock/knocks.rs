//! What is called: a call that observes, and one that would change something.

use crate::{Outcome, USES};
use audit::caller::prepare;
use host_api::{Api, Call, DetachVolume, ReadLog, Request, Resource};
use ids::{HostId, Identity, VolumeId};
use serde::Serialize;
use service::{Client, Credentials};
use std::{
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use token::{PROOF_HEADER, PublicKey, TOKEN_HEADER};
use tokens::client::{TokenRequest, issue};

/// What a call does to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Knock {
    /// Nothing: it reads the log from behind its end. Intent and outcome become durable together.
    Observe,
    /// It would take off a volume that is not there: durable is the intent, then that it came to nothing.
    Change,
}

impl Knock {
    pub(crate) const ALL: [Self; 2] = [Self::Observe, Self::Change];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Change => "change",
        }
    }

    /// How often a call waits for the disk.
    pub(crate) fn syncs(self) -> u32 {
        match self {
            Self::Observe => 1,
            Self::Change => 2,
        }
    }

    /// How the answer begins.
    pub(crate) fn answer(self) -> &'static str {
        match self {
            Self::Observe => "HTTP/1.1 200 ",
            Self::Change => "HTTP/1.1 404 ",
        }
    }

    /// Whose it is.
    fn caller(self) -> &'static str {
        match self {
            Self::Observe => "auditor",
            Self::Change => "control-plane",
        }
    }
}

/// One who calls.
pub(crate) struct Knocker {
    knock: Knock,
    me: Credentials,
    name: Identity,
    tokens: Client,
}

impl Knocker {
    pub(crate) fn new(knock: Knock, state: &Path, ca: &str, tokens: SocketAddr) -> Outcome<Self> {
        let me = Credentials::read(&state.join(format!("identities/{}.pem", knock.caller())))?;
        let tokens = Client::new(ca, "azote:service/tokens".parse()?, tokens, Some(&me))?;
        Ok(Self { knock, name: me.identity()?, me, tokens })
    }

    /// So many calls, as they go over the line.
    pub(crate) async fn requests(
        &self,
        host: &HostId,
        door: SocketAddr,
        calls: u32,
    ) -> Outcome<Vec<Vec<u8>>> {
        let nowhere = VolumeId::from_random(0);
        match self.knock {
            Knock::Observe => self.make(&ReadLog { after: u64::MAX }, host, door, calls).await,
            Knock::Change => {
                self.make(&DetachVolume { volume: nowhere, force: false }, host, door, calls).await
            }
        }
    }

    async fn make<C: Call>(
        &self,
        call: &C,
        host: &HostId,
        door: SocketAddr,
        calls: u32,
    ) -> Outcome<Vec<Vec<u8>>> {
        let request: Request = call.clone().into();
        let mut all = Vec::new();
        for begun in (0..calls).step_by(USES as usize) {
            let token = self.token(C::API, request.resources(host), host).await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?;
            for _ in begun..calls.min(begun + USES) {
                let call = prepare(call, host, (&self.name, self.me.key()), &token, now).ok_or("no proof")?;
                let (method, target, proof) = (call.http.method.name(), call.http.target, call.proof);
                let mut text = format!(
                    "{method} {target} HTTP/1.1\r\nhost: {door}\r\ncontent-length: {}\r\n{TOKEN_HEADER}: Bearer {token}\r\n{PROOF_HEADER}: {proof}\r\n\r\n",
                    call.http.body.len()
                )
                .into_bytes();
                text.extend(call.http.body);
                all.push(text);
            }
        }
        Ok(all)
    }

    async fn token(&self, api: Api, resources: Vec<Resource>, host: &HostId) -> Outcome<String> {
        let request = TokenRequest {
            apis: vec![api],
            resources,
            audience: host.clone(),
            lifetime_seconds: None,
            uses: Some(USES),
            ticket: None,
            public_key: PublicKey(self.me.key().public()),
        };
        Ok(issue(&self.tokens, &request).await?.token)
    }
}
