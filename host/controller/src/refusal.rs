//! Why a request was refused or failed, as the caller is told. Only codes of the API leave the host: what a
//! component says beyond them stays inside, for a component that customer content passes through could
//! put it there.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use host_api::{Code, ErrorBody, Sentence};
use wire::Fault;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable.
    pub code: &'static str,
    /// What to do.
    pub message: String,
}

impl Refusal {
    /// The refusal with this code; a code that the API does not have becomes `host.failed`.
    pub fn of(code: &str) -> Self {
        let row = host_api::refusal(code).or_else(|| host_api::refusal("host.failed"));
        row.map_or(Self { status: 500, code: "host.failed", message: String::new() }, |row| Self {
            status: row.status,
            code: row.code,
            message: row.message.to_owned(),
        })
    }

    /// What a component answered. It may use the API's codes that start with one of `prefixes`, in the API's
    /// words; anything else becomes `otherwise`.
    pub fn from_fault(fault: &Fault, prefixes: &[&str], otherwise: &str) -> Self {
        tracing::warn!(code = %fault.code.escape_default(), "a component refused");
        let known = prefixes.iter().any(|prefix| fault.code.starts_with(prefix));
        match host_api::refusal(&fault.code).filter(|_| known) {
            Some(row) => Self::of(row.code),
            None => Self::of(otherwise),
        }
    }

    /// The code as the log writes it.
    pub fn log_code(&self) -> Option<Code> {
        self.code.parse().ok()
    }
}

impl From<token::Refusal> for Refusal {
    fn from(refusal: token::Refusal) -> Self {
        Self { status: refusal.status(), code: refusal.code(), message: refusal.to_string() }
    }
}

impl From<decision::Reason> for Refusal {
    fn from(reason: decision::Reason) -> Self {
        match reason {
            decision::Reason::Recorded => Self::of("log.unavailable"),
            reason => token::Refusal::from(reason).into(),
        }
    }
}

impl From<host_api::Malformed> for Refusal {
    fn from(_: host_api::Malformed) -> Self {
        Self::of("request.malformed")
    }
}

impl From<crate::log::LogError> for Refusal {
    fn from(_: crate::log::LogError) -> Self {
        Self::of("log.unavailable")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body =
            self.code.parse().map(|code| ErrorBody { code, message: Sentence::from_lossy(&self.message) });
        let body = body.ok().and_then(|body| serde_json::to_vec(&body).ok()).unwrap_or_default();
        (status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_cannot_speak_in_its_own_words() {
        let told = |code| {
            Refusal::from_fault(&Fault::new(code, "the guest's secret"), &["volume.", "key."], "card.fault")
        };
        assert_eq!(told("volume.busy"), Refusal::of("volume.busy"));
        assert_eq!(told("key.sealed").status, 400);
        for foreign in ["log.unavailable", "volume.guest-secret", "", "\u{1b}[2J"] {
            assert_eq!(told(foreign), Refusal::of("card.fault"));
        }
        assert!(!Refusal::of("card.fault").message.contains("secret"));
    }

    #[test]
    fn every_code_answers_with_its_own_status() {
        for row in host_api::CODES {
            assert_eq!(Refusal::of(row.code).into_response().status().as_u16(), row.status);
        }
        assert_eq!(Refusal::of("no.such").code, "host.failed");
    }
}
