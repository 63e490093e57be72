//! What callers do at the doors, honest or not: each call says whose key proves it, with which token.

use crate::Outcome;
use host_api::{Api, Call, Resource};
use ids::{HostId, Identity};
use serde::de::DeserializeOwned;
use service::{CallError, Client, Credentials};
use std::{
    cell::Cell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use token::PublicKey;
use tokens::client::{TokenAnswer, TokenRequest};

/// A stable code with which something was refused.
pub(crate) type Code = String;

/// An identity of the installation: the name of its file in `identities/`.
pub(crate) type Who = &'static str;

pub(crate) const ALICE: Who = "operator";
pub(crate) const TENANT: Who = "tenant";
pub(crate) const CONTROL_PLANE: Who = "control-plane";
pub(crate) const PIPELINE: Who = "pipeline";

/// Everybody with an identity, and the doors.
pub(crate) struct Crew {
    state: PathBuf,
    ca: String,
    runtime: tokio::runtime::Runtime,
    pub(crate) host: HostId,
    pub(crate) importer: HostId,
    sensitive: Cell<u64>,
}

/// A token that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) apis: Vec<Api>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) audience: Option<HostId>,
    pub(crate) life: Duration,
    pub(crate) ticket: Option<String>,
}

impl Ask {
    /// For one operation on one resource, for a minute.
    pub(crate) fn new(api: Api, resource: Resource) -> Self {
        let life = Duration::from_secs(60);
        Self { apis: vec![api], resources: vec![resource], audience: None, life, ticket: None }
    }
}

#[derive(serde::Deserialize)]
struct Installation {
    host: HostId,
    importer: HostId,
}

/// Unix time in milliseconds.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn code(error: &CallError) -> Code {
    error.code().to_owned()
}

impl Crew {
    /// Opens an installation that is up.
    pub(crate) fn open(state: &Path) -> Outcome<Self> {
        let read = |name: &str| fs::read_to_string(state.join(name)).map_err(|e| format!("{name}: {e}"));
        let installation: Installation = serde_json::from_str(&read("installation.json")?)
            .map_err(|e| format!("installation.json: {e}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            state: state.to_owned(),
            ca: read("pki/ca.pem")?,
            runtime: runtime.map_err(|e| e.to_string())?,
            host: installation.host,
            importer: installation.importer,
            sensitive: Cell::new(0),
        })
    }

    /// This host, as a resource.
    pub(crate) fn here(&self) -> Resource {
        Resource::Host(self.host.clone())
    }

    /// Somebody's key and certificate.
    pub(crate) fn credentials(&self, who: Who) -> Outcome<Credentials> {
        let path = self.state.join(format!("identities/{who}.pem"));
        Credentials::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Where a process of the installation listens.
    pub(crate) fn address(&self, name: &str) -> Outcome<SocketAddr> {
        let path = self.state.join(format!("run/{name}.address"));
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        text.trim().parse().map_err(|e| format!("{}: {e}", path.display()))
    }

    fn client(&self, name: &str, server: &str, me: Option<&Credentials>) -> Outcome<Client> {
        let server = server.parse().map_err(|e| format!("{server}: {e}"))?;
        Client::new(&self.ca, server, self.address(name)?, me).map_err(|e| e.to_string())
    }

    /// A service's door, for somebody with a certificate.
    pub(crate) fn service(&self, name: &str, who: Who) -> Outcome<Client> {
        self.client(name, &format!("azote:service/{name}"), Some(&self.credentials(who)?))
    }

    /// The host's door.
    pub(crate) fn door(&self) -> Outcome<Client> {
        self.client("controller", &Identity::Host(self.host.clone()).to_string(), None)
    }

    /// Waits for an answer; the code of a refusal is the error inside.
    pub(crate) fn wait<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, Code> {
        self.runtime.block_on(call).map_err(|error| code(&error))
    }

    /// Asks the token service for a token bound to the key of who asks.
    pub(crate) fn token(&self, who: Who, ask: &Ask) -> Outcome<Result<TokenAnswer, Code>> {
        let request = TokenRequest {
            apis: ask.apis.clone(),
            resources: ask.resources.clone(),
            audience: ask.audience.clone().unwrap_or_else(|| self.host.clone()),
            lifetime_seconds: Some(ask.life.as_secs()),
            uses: None,
            ticket: ask.ticket.clone(),
            public_key: PublicKey(self.credentials(who)?.key().public()),
        };
        let client = self.service("tokens", who)?;
        let answer = self.wait(tokens::client::issue(&client, &request));
        let sensitive = who == ALICE && ask.apis.iter().any(|api| api.sensitive());
        if answer.is_ok() && sensitive {
            self.sensitive.set(self.sensitive.get() + 1);
        }
        Ok(answer)
    }

    /// How many tokens for sensitive operations the operator was given in this run.
    pub(crate) fn sensitive_tokens(&self) -> u64 {
        self.sensitive.get()
    }

    /// A token that must be given, because nothing is wrong with asking for it.
    pub(crate) fn given(&self, who: Who, ask: &Ask) -> Outcome<String> {
        let given = self.token(who, ask)?.map_err(|code| format!("{who} was refused a token: {code}"))?;
        Ok(given.token)
    }

    /// A request that `who` proves with their key.
    pub(crate) fn prepare<C: Call>(
        &self,
        who: Who,
        token: &str,
        call: &C,
    ) -> Outcome<audit::caller::Prepared> {
        let credentials = self.credentials(who)?;
        let identity = credentials.identity().map_err(|e| e.to_string())?;
        audit::caller::prepare(call, &self.host, (&identity, credentials.key()), token, now())
            .ok_or_else(|| "no random numbers".to_owned())
    }

    /// Tells the audit service of a call, as an honest caller does before making it.
    pub(crate) fn tell(&self, who: Who, attempt: &audit::entry::Attempt) -> Outcome<Result<(), Code>> {
        let client = self.service("audit", who)?;
        Ok(self.wait(audit::client::attempts(&client, std::slice::from_ref(attempt))).map(drop))
    }

    /// Makes a request that was prepared.
    pub(crate) fn send<R: DeserializeOwned>(
        &self,
        prepared: &audit::caller::Prepared,
        token: &str,
    ) -> Outcome<Result<R, Code>> {
        let door = self.door()?;
        Ok(self.wait(prepared.send(&door, token)))
    }

    /// A call at the host's door, told to the audit service before; a thief with nothing but a tenant's certificate tells
    /// nobody.
    pub(crate) fn call<C: Call>(&self, who: Who, token: &str, call: &C) -> Outcome<Result<C::Answer, Code>> {
        let prepared = self.prepare(who, token, call)?;
        if who != TENANT {
            self.tell(who, &prepared.attempt)?
                .map_err(|code| format!("{who} cannot tell of a call: {code}"))?;
        }
        self.send(&prepared, token)
    }

    /// A call with a token of its own, as the installation's own commands make it.
    pub(crate) fn does<C: Call>(&self, who: Who, ask: &Ask, call: &C) -> Outcome<Result<C::Answer, Code>> {
        match self.token(who, ask)? {
            Ok(answer) => self.call(who, &answer.token, call),
            Err(code) => Ok(Err(code)),
        }
    }

    /// A card's key, if the host's certificate and the environment's authority vouch for it.
    pub(crate) fn card(&self, certificate: &[u8], chain: &str) -> Outcome<token::CardKeyCertificate> {
        let now = now() / 1000;
        let host = service::certified_by(&self.ca, chain, now).map_err(|e| e.to_string())?;
        let card = token::CardKeyCertificate::verify(certificate, &PublicKey(host.public_key), now);
        card.map_err(|e| e.to_string())
    }

    /// A request without anything that proves it.
    pub(crate) fn bare(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Outcome<Code> {
        let door = self.door()?;
        let answer = self.wait(door.call::<serde_json::Value>(method, path, body.to_vec(), headers));
        Ok(answer.err().unwrap_or_else(|| "not refused".to_owned()))
    }
}

/// What became of an abuse: a code, or that nobody refused it.
pub(crate) fn refused<T>(answer: Result<T, Code>) -> Code {
    answer.err().unwrap_or_else(|| "not refused".to_owned())
}
