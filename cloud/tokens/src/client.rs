//! Calls of the token service, typed.

use ids::HostId;
use serde::{Deserialize, Serialize};
use service::{CallError, Client};
use token::{Api, Keys, PublicKey, Resource};

pub(crate) const TOKENS: &str = "/v1/tokens";
pub(crate) const KEYS: &str = "/v1/keys";

/// What a token shall say. Its subject is the caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Operations.
    pub apis: Vec<Api>,
    /// Exact resources, at most [`token::MAX_RESOURCES`].
    pub resources: Vec<Resource>,
    /// The one host that shall take it.
    pub audience: HostId,
    /// Its life; without it, the default of the rights configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
    /// Whoever holds the private half can use the token.
    pub public_key: PublicKey,
}

/// A signed token.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// For the `Authorization` header, after `Bearer `.
    pub token: String,
    /// From this second on (Unix time) it is no longer valid.
    pub expires: u64,
}

/// Asks for a token.
pub async fn issue(client: &Client, request: &TokenRequest) -> Result<TokenAnswer, CallError> {
    client.post(TOKENS, request).await
}

/// The public keys that hosts must hold to check tokens.
pub async fn keys(client: &Client) -> Result<Keys, CallError> {
    client.get(KEYS).await
}
