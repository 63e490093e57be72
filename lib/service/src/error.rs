use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use hyper::{StatusCode, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const MAX_REASON: usize = 200;

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs: `token.expired`.
    pub code: String,
    /// For people: what to do. No internal detail.
    pub message: String,
}

/// A refusal or failure, as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable code.
    pub code: &'static str,
    /// What to do.
    pub message: String,
}

impl Error {
    /// A refusal with this status (a number that is no HTTP status becomes 500), code and message.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, message: message.into() }
    }

    /// Status 400, `request.malformed`.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new(400, "request.malformed", reason)
    }

    /// Status 500, `internal`. `detail` goes to the service's own log, not to the caller.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!(%detail, "internal failure");
        Self::new(500, "internal", "the service failed: its log says why")
    }
}

/// The code of an answer, for the server's eyes: which refusals are incidents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Code(pub(crate) &'static str);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(Code(self.code));
        response
    }
}

/// A JSON body. As an argument of a handler it refuses with `request.malformed` and the reason.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> Json<T> {
    /// Reads a body that was taken as bytes, for handlers that must check a signature over it first.
    pub fn read(body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| {
            let reason: String = error.to_string().chars().take(MAX_REASON).collect();
            Error::malformed(format!("the body is not what this call takes: {reason}"))
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;
    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|_| Error::malformed("the body could not be read"))?;
        Self::read(&body).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Error::internal(error).into_response(),
        }
    }
}
