//! The sinks that others' programs stand behind: a webhook, and Alertmanager.

use crate::{Alarm, SendError, Sending, Sink};
use aws_lc_rs::hmac;
use reqwest::{Client, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde_json::{Map, Value, json};
use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const MAX_URL: usize = 2048;
const CONNECT_TIME: Duration = Duration::from_secs(2);
const CALL_TIME: Duration = Duration::from_secs(5);
/// Secrets for signatures, in bytes (RFC 2104 §3 wants no less than the hash has).
const SECRET: std::ops::RangeInclusive<usize> = 32..=1024;
/// How long an alarm stays raised in Alertmanager unless it is raised again.
const LASTS: Duration = Duration::from_secs(60 * 60);

/// Why a sink cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Not an address that alarms can be sent to.
    #[error("not an address for alarms: want http:// or https://, a host, and no user or password in it")]
    Address,
    /// HTTPS without saying whom to trust.
    #[error("an https:// address for alarms needs the authority's certificates (PEM): name the file")]
    NoAuthority,
    /// The certificates cannot be used.
    #[error("the certificates of the alarm sink's authority cannot be used: {0}")]
    Authority(String),
    /// A secret that is too short or too long.
    #[error("a webhook's secret has {} to {} bytes: make a new one", SECRET.start(), SECRET.end())]
    Secret,
}

impl SinkError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address => "alarms.sink-address",
            Self::NoAuthority | Self::Authority(_) => "alarms.sink-authority",
            Self::Secret => "alarms.sink-secret",
        }
    }
}

fn address(text: &str) -> Result<Url, SinkError> {
    let url = Url::parse(text).map_err(|_| SinkError::Address)?;
    let plain = url.username().is_empty() && url.password().is_none();
    let good = text.len() <= MAX_URL && plain && url.has_host() && matches!(url.scheme(), "http" | "https");
    if good { Ok(url) } else { Err(SinkError::Address) }
}

/// A client for one address: for `https` it trusts the given authority and no other.
fn client(url: &Url, ca: Option<&str>) -> Result<Client, SinkError> {
    let wrong = |error: &dyn std::fmt::Display| SinkError::Authority(error.to_string());
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIME)
        .timeout(CALL_TIME);
    let mut roots = RootCertStore::empty();
    if url.scheme() == "https" {
        let ca = ca.ok_or(SinkError::NoAuthority)?;
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"there is none"));
        }
        builder = builder.https_only(true);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    builder.tls_backend_preconfigured(config).build().map_err(|e| wrong(&e))
}

async fn post(request: reqwest::RequestBuilder, body: Vec<u8>) -> Result<(), SendError> {
    let request = request.header("content-type", "application/json").body(body);
    // The address stays out of the reason: it may hold a secret.
    let answer =
        request.send().await.map_err(|error| SendError::Unreachable(error.without_url().to_string()))?;
    let status = answer.status();
    let passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    if status.is_success() {
        Ok(())
    } else if status.is_client_error() && !passing {
        Err(SendError::Refused(status.as_u16()))
    } else {
        Err(SendError::Unreachable(format!("HTTP status {}", status.as_u16())))
    }
}

/// Posts each alarm as JSON ([`Alarm`]).
#[derive(Debug)]
pub struct Webhook {
    url: Url,
    client: Client,
    secret: Option<hmac::Key>,
}

impl Webhook {
    /// Will post to `url`. `ca` (PEM) is whom an `https` address trusts; `secret` signs each request ([`signature`]).
    ///
    /// # Errors
    /// [`SinkError`]: an address, authority or secret that cannot be used.
    pub fn new(url: &str, ca: Option<&str>, secret: Option<&[u8]>) -> Result<Self, SinkError> {
        let url = address(url)?;
        if secret.is_some_and(|secret| !SECRET.contains(&secret.len())) {
            return Err(SinkError::Secret);
        }
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret));
        Ok(Self { client: client(&url, ca)?, url, secret })
    }
}

/// What a signed webhook carries in the header `Azote-Signature`: `t=`, the Unix time in seconds, `,v1=`, and in
/// hexadecimal the HMAC-SHA-256 (RFC 2104) of that time in decimal, a dot, and the body. Who checks it refuses times
/// that are old, so that nobody sends an alarm again.
pub fn signature(secret: &[u8], time: u64, body: &[u8]) -> String {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), time, body)
}

fn sign(key: &hmac::Key, time: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(time.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut text = format!("t={time},v1=");
    for byte in context.sign().as_ref() {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn send<'a>(&'a self, alarm: &'a Alarm) -> Sending<'a> {
        Box::pin(async move {
            // A structure of texts and numbers always has a JSON form.
            let body = serde_json::to_vec(alarm).unwrap_or_default();
            let mut request = self.client.post(self.url.clone());
            if let Some(key) = &self.secret {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                request = request.header("azote-signature", sign(key, now, &body));
            }
            post(request, body).await
        })
    }
}

/// Posts each alarm to Alertmanager's API, version 2 (`POST /api/v2/alerts`).
#[derive(Debug)]
pub struct Alertmanager {
    url: Url,
    client: Client,
}

impl Alertmanager {
    /// Will post to the Alertmanager whose address is `url`, such as `http://127.0.0.1:9093`. `ca` as for [`Webhook`].
    ///
    /// # Errors
    /// [`SinkError`]: an address or authority that cannot be used.
    pub fn new(url: &str, ca: Option<&str>) -> Result<Self, SinkError> {
        let url = address(&format!("{}/api/v2/alerts", url.trim_end_matches('/')))?;
        Ok(Self { client: client(&url, ca)?, url })
    }
}

/// RFC 3339, in UTC.
fn moment(unix_ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn alert(alarm: &Alarm) -> Value {
    let mut labels = Map::new();
    let entries: Vec<String> = alarm.entries.iter().map(ToString::to_string).collect();
    for (name, value) in [
        ("alertname", Some(alarm.rule.clone())),
        ("severity", Some(alarm.severity.name().to_owned())),
        ("subject", alarm.subject.as_ref().map(ToString::to_string)),
        ("host", alarm.host.as_ref().map(ToString::to_string)),
        ("operation", alarm.operation.clone()),
        ("code", alarm.code.clone()),
    ] {
        labels.extend(value.map(|value| (name.to_owned(), Value::String(value))));
    }
    let lasts = u64::try_from(LASTS.as_millis()).unwrap_or_default();
    json!({
        "labels": labels,
        "annotations": {
            "summary": alarm.summary,
            "runbook": alarm.runbook,
            "runbook_url": alarm.link,
            "entries": entries.join(" "),
            "count": alarm.count.to_string(),
            "id": alarm.id,
        },
        "startsAt": moment(alarm.time),
        "endsAt": moment(alarm.time.saturating_add(lasts)),
    })
}

impl Sink for Alertmanager {
    fn name(&self) -> &'static str {
        "alertmanager"
    }

    fn send<'a>(&'a self, alarm: &'a Alarm) -> Sending<'a> {
        Box::pin(async move {
            let body = json!([alert(alarm)]).to_string().into_bytes();
            post(self.client.post(self.url.clone()), body).await
        })
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
