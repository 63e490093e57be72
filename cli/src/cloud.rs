//! Access to an installation: tokens, and calls at the host's door and the services'. Each call goes out with a token
//! for exactly what it does.

mod adverse;
mod tenant;

pub(crate) use adverse::Refused;
pub(crate) use tenant::{Recipient, attach_call};

use crate::{
    failure::{Doing, Failure},
    interrupt,
    place::Place,
    up::{self, Installation},
};
use audit::caller::Journal;
use host_api::{Api, LogRecord, Resource};
use ids::{HostId, Identity};
use serde::{Serialize, de::DeserializeOwned};
use service::{CallError, Client, Credentials};
use std::{
    cell::RefCell,
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use token::PublicKey;
use volumes::Store;

/// The environment's authority, and what it has revoked.
const TRUSTED: &str = "pki/public/trusted.pem";
/// The calls that the audit service has not been told of yet.
const ATTEMPTS: &str = "attempts";
/// How long a call's end may wait for the audit service.
const TELL: Duration = Duration::from_secs(5);
/// Life of a token that one call uses.
const CALL_LIFE: Duration = Duration::from_secs(60);
/// Access to one installation's services and host.
pub(crate) struct Cloud {
    runtime: tokio::runtime::Runtime,
    pub(crate) installation: Installation,
    pub(crate) store: Store,
    operator: Actor,
    tenant: Actor,
    control_plane: Actor,
    auditor: Actor,
    pipeline: Actor,
    log_reader: Actor,
    journal: Journal,
    importer: Importer,
    door: Client,
    attempts: RefCell<Vec<Attempt>>,
}

/// A call that was made at the host's door, and the code with which it failed, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) api: Api,
    pub(crate) resources: Vec<Resource>,
    pub(crate) code: Option<String>,
}

/// Someone with an identity, and their connections to the services.
struct Actor {
    credentials: Credentials,
    tokens: Client,
    kms: Client,
    audit: Client,
}

/// The tenant's machine that encrypts images.
struct Importer {
    credentials: Credentials,
    chain: String,
    kms: Client,
}

/// Who makes a call at the host's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Keeps the server alive.
    Operator,
    /// Acts for the tenant.
    ControlPlane,
    /// Compares what hosts say.
    Auditor,
    /// Rolls out releases and keys.
    Pipeline,
}

impl Cloud {
    /// Opens a running installation.
    pub(crate) fn open(place: &Place) -> Result<Self, Failure> {
        let installation = Installation::read(place)?;
        let ca = fs::read_to_string(place.path(TRUSTED)).doing(TRUSTED)?;
        let read = |name: &str| {
            Credentials::read(&place.path(&format!("identities/{name}.pem"))).map_err(Failure::state)
        };
        let client = |name: &str, server: &str, me: Option<&Credentials>| {
            let server = server.parse().map_err(Failure::state)?;
            Client::new(&ca, server, up::address(place, name)?, me).map_err(Failure::state)
        };
        let actor = |name| {
            let credentials = read(name)?;
            let tokens = client("tokens", "azote:service/tokens", Some(&credentials))?;
            let kms = client("kms", "azote:service/kms", Some(&credentials))?;
            let audit = client("audit", "azote:service/audit", Some(&credentials))?;
            Ok::<_, Failure>(Actor { credentials, tokens, kms, audit })
        };
        let [operator, tenant, control_plane, auditor, pipeline, log_reader] =
            up::ACTORS.map(|(name, _)| actor(name));
        let journal = place.path(ATTEMPTS);
        let identity = Identity::Host(installation.host.clone()).to_string();
        let importer = read(up::IMPORTER)?;
        let importer_file = fs::read_to_string(place.path(&format!("identities/{}.pem", up::IMPORTER)));
        let importer = Importer {
            kms: client("kms", "azote:service/kms", Some(&importer))?,
            chain: certificates(&importer_file.doing("importer")?),
            credentials: importer,
        };
        Ok(Self {
            runtime: up::runtime()?,
            store: Store::new(&place.path("volumes")),
            operator: operator?,
            tenant: tenant?,
            control_plane: control_plane?,
            auditor: auditor?,
            pipeline: pipeline?,
            log_reader: log_reader?,
            journal: Journal::open(&journal).doing(journal.display())?,
            importer,
            door: client("controller", &identity, None)?,
            installation,
            attempts: RefCell::default(),
        })
    }

    /// Every call that this made at the host's door, in order.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.borrow().clone()
    }

    fn actor(&self, who: Who) -> &Actor {
        match who {
            Who::Operator => &self.operator,
            Who::ControlPlane => &self.control_plane,
            Who::Auditor => &self.auditor,
            Who::Pipeline => &self.pipeline,
        }
    }

    /// Asks the token service for a token bound to the actor's key.
    pub(crate) fn token(&self, who: Who, ask: &Ask) -> Result<String, Failure> {
        self.token_for(who, None, ask)
    }

    /// The same, for a work order.
    fn token_for(&self, who: Who, ticket: Option<&str>, ask: &Ask) -> Result<String, Failure> {
        let actor = self.actor(who);
        let request = tokens::client::TokenRequest {
            apis: ask.apis.clone(),
            resources: ask.resources.clone(),
            audience: ask.audience.clone().unwrap_or_else(|| self.installation.host.clone()),
            lifetime_seconds: Some(ask.lifetime.as_secs()),
            uses: None,
            ticket: ticket.map(str::to_owned),
            public_key: PublicKey(actor.credentials.key().public()),
        };
        let answer = self.runtime.block_on(tokens::client::issue(&actor.tokens, &request))?;
        Ok(answer.token)
    }

    /// Knocks at the host's door with a given token, or none. A call that can be told from others is written down
    /// before it is made.
    pub(crate) fn knock<C: host_api::Call>(
        &self,
        who: Who,
        token: Option<&str>,
        call: &C,
    ) -> Result<C::Answer, Failure> {
        let host = &self.installation.host;
        let credentials = &self.actor(who).credentials;
        let answer = match token {
            None => {
                let http = call.http();
                let knock = self.door.call(http.method.name(), &http.target, http.body.clone(), &[]);
                self.runtime.block_on(knock)
            }
            Some(token) => {
                let me = (&credentials.identity().map_err(Failure::state)?, credentials.key());
                let prepared = audit::caller::prepare(call, host, me, token, now() * 1000)
                    .ok_or_else(|| Failure::state("the system gives no random numbers"))?;
                self.journal.write(&prepared.attempt).doing("the record of calls")?;
                let answer = self.runtime.block_on(prepared.send(&self.door, token));
                if let Some(withdrawn) = prepared.withdrawn(&answer) {
                    self.journal.write(&withdrawn).doing("the record of calls")?;
                }
                answer
            }
        };
        let request: host_api::Request = call.clone().into();
        self.attempts.borrow_mut().push(Attempt {
            api: C::API,
            resources: request.resources(host),
            code: answer.as_ref().err().map(|error| error.code().to_owned()),
        });
        self.tell();
        Ok(answer?)
    }

    /// Tells the audit service of the calls that were made. What it cannot be told of waits for the next call.
    fn tell(&self) {
        let deliver = async {
            while let Ok(attempts) = self.journal.next() {
                let Some(caller) = attempts.first().map(|attempt| attempt.caller.to_string()) else { return };
                let actor = up::ACTORS.iter().position(|(_, identity)| *identity == caller);
                let everybody = [
                    &self.operator,
                    &self.tenant,
                    &self.control_plane,
                    &self.auditor,
                    &self.pipeline,
                    &self.log_reader,
                ];
                let Some(actor) = actor.and_then(|at| everybody.get(at)) else { return };
                let told = audit::client::attempts(&actor.audit, &attempts).await;
                if told.is_err() || self.journal.told(&attempts).is_err() {
                    return;
                }
            }
        };
        // It stays written down until it is told.
        let _ = self.runtime.block_on(async { tokio::time::timeout(TELL, deliver).await });
    }

    /// Asks the audit service, as the one who reads logs.
    pub(crate) fn audit<T>(
        &self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.runtime.block_on(ask(&self.log_reader.audit))
    }

    /// Makes a call with a token for exactly this call.
    pub(crate) fn call<C: host_api::Call>(&self, who: Who, call: &C) -> Result<C::Answer, Failure> {
        self.call_for(who, None, call)
    }

    /// The same, for a work order.
    pub(crate) fn call_for<C: host_api::Call>(
        &self,
        who: Who,
        ticket: Option<&str>,
        call: &C,
    ) -> Result<C::Answer, Failure> {
        interrupt::check()?;
        let request: host_api::Request = call.clone().into();
        let resources = request.resources(&self.installation.host);
        let ask = Ask { apis: vec![C::API], resources, audience: None, lifetime: CALL_LIFE };
        let token = self.token_for(who, ticket, &ask)?;
        self.knock(who, Some(&token), call)
    }

    /// Brings a service what the authority made for it.
    pub(crate) fn bring<Q: Serialize, R: DeserializeOwned>(
        &self,
        service: &str,
        path: &str,
        what: &Q,
    ) -> Result<R, Failure> {
        let Actor { tokens, kms, audit, .. } = &self.pipeline;
        let clients = [("tokens", tokens), ("kms", kms), ("audit", audit)];
        let client = clients.iter().find(|(name, _)| *name == service).map(|(_, client)| *client);
        let client = client.ok_or_else(|| Failure::state(format!("there is no service {service}")))?;
        Ok(self.runtime.block_on(client.post(path, what))?)
    }

    /// Tells the token service what a host was found to be.
    pub(crate) fn appraised(&self, host: &HostId, found: tokens::Standing) -> Result<(), Failure> {
        self.runtime.block_on(tokens::client::appraised(&self.pipeline.tokens, host, found))?;
        Ok(())
    }

    /// What the token service's inventory says of every host.
    pub(crate) fn hosts(&self) -> Result<Vec<tokens::client::Known>, Failure> {
        Ok(self.runtime.block_on(tokens::client::hosts(&self.pipeline.tokens))?)
    }

    /// The signed sets of the token service's keys.
    pub(crate) fn key_sets(&self) -> Result<tokens::client::KeySets, Failure> {
        Ok(self.runtime.block_on(tokens::client::key_sets(&self.pipeline.tokens))?)
    }

    /// Begins a rotation of the token service's keys.
    pub(crate) fn rotate_keys(&self) -> Result<tokens::client::KeySets, Failure> {
        Ok(self.runtime.block_on(tokens::client::rotate(&self.pipeline.tokens))?)
    }

    /// What the host says of itself.
    pub(crate) fn status(&self) -> Result<host_api::HostStatus, Failure> {
        self.call(Who::Operator, &host_api::ReadStatus {})
    }

    /// The host's log after a record, to its end, from the host itself.
    pub(crate) fn log(&self, mut after: u64) -> Result<Vec<LogRecord>, Failure> {
        let mut records = Vec::new();
        loop {
            let page = self.call(Who::Auditor, &host_api::ReadLog { after })?;
            let Some(last) = page.records.last() else { return Ok(records) };
            // Reading is itself recorded: stop at what the log held when this page was made.
            let end = last.seq >= page.last;
            after = last.seq;
            records.extend(page.records);
            if end {
                return Ok(records);
            }
        }
    }
}

/// What a token shall say.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) apis: Vec<Api>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) audience: Option<HostId>,
    pub(crate) lifetime: Duration,
}

/// Unix time in seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The certificates of a PEM file that also holds a key.
pub(crate) fn certificates(pem: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    pem.find(BEGIN).map(|at| pem[at..].to_owned()).unwrap_or_default()
}
