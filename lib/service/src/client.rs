use crate::{
    Credentials, ErrorBody, TlsError,
    tls::{self, OUTDATED},
};
use ids::Identity;
use serde::{Serialize, de::DeserializeOwned};
use std::{net::SocketAddr, time::Duration};

/// Longest answer that a client takes, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Longest message of a refusal that a client takes over, in characters.
const MAX_MESSAGE: usize = 1000;
const CONNECT_TIME: Duration = Duration::from_secs(5);
const CALL_TIME: Duration = Duration::from_secs(60);
/// Less than what a server gives an idle connection ([`crate::Limits::headers`]): none is used that it may be closing.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Why a call has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The service refused or failed.
    #[error("{code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// What to do.
        message: String,
    },
    /// No connection, no trust in the other side, or the connection broke.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Who was called.
        server: Identity,
        /// The chain of causes.
        reason: String,
    },
    /// The other side cannot be judged: the revocation list at hand has ended.
    #[error("{0} cannot be trusted, the revocation list at hand has ended: {OUTDATED}")]
    Outdated(Identity),
    /// The answer is not what this call gives.
    #[error("{0} answered what is no answer to this call: its release may differ from this one")]
    Malformed(Identity),
}

impl CallError {
    /// The service's stable code, or `call.unreachable`, `call.malformed` or `revocation.expired`.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "call.unreachable",
            Self::Outdated(_) => crate::server::OUTDATED_LIST,
            Self::Malformed(_) => "call.malformed",
        }
    }
}

/// A client of one service at one address. It goes through no proxy and follows no redirection.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    address: SocketAddr,
    server: Identity,
}

impl Client {
    /// Will talk to exactly `server`, certified by `ca` (PEM), showing `me` if asked who calls.
    pub fn new(
        ca: &str,
        server: Identity,
        address: SocketAddr,
        me: Option<&Credentials>,
    ) -> Result<Self, TlsError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(ca, &server, me)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME)
            .timeout(CALL_TIME)
            .pool_idle_timeout(IDLE_TIME)
            .build()
            .map_err(|error| TlsError::Authority(causes(&error)))?;
        Ok(Self { http, address, server })
    }

    /// Who is called.
    pub fn server(&self) -> &Identity {
        &self.server
    }

    /// `POST`s `request` as JSON.
    pub async fn post<Q: Serialize, R: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<R, CallError> {
        let body = serde_json::to_vec(request).map_err(|_| CallError::Malformed(self.server.clone()))?;
        self.call("POST", path, body, &[]).await
    }

    /// `GET`s.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, CallError> {
        self.call("GET", path, Vec::new(), &[]).await
    }

    /// Sends exactly these bytes with these headers (name, value), for callers that sign the request; reads the answer
    /// as JSON.
    pub async fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<R, CallError> {
        let answer = self.exchange(method, path, body, headers).await?;
        serde_json::from_slice(&answer).map_err(|_| CallError::Malformed(self.server.clone()))
    }

    /// `GET`s what is not JSON: the bytes as they are.
    pub async fn bytes(&self, path: &str) -> Result<Vec<u8>, CallError> {
        self.exchange("GET", path, Vec::new(), &[]).await
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Vec<u8>, CallError> {
        let malformed = || CallError::Malformed(self.server.clone());
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|_| malformed())?;
        let mut request = self.http.request(method, format!("https://{}{path}", self.address));
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if answer.len() + part.len() > MAX_ANSWER {
                return Err(malformed());
            }
            answer.extend_from_slice(&part);
        }
        if status.is_success() {
            return Ok(answer);
        }
        let ErrorBody { code, message } = serde_json::from_slice(&answer).map_err(|_| malformed())?;
        let (code, message) = (printable(&code), printable(&message));
        Err(CallError::Refused { status: status.as_u16(), code, message })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        if tls::by_outdated_list(error) {
            return CallError::Outdated(self.server.clone());
        }
        CallError::Unreachable { server: self.server.clone(), reason: causes(error) }
    }
}

/// What a service says goes to people's terminals and into logs: one line of bounded length.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}
