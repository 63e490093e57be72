//! Calls of the token service, typed.

use crate::{
    Page, Standing,
    rotation::{Other, Ring},
};
use ids::HostId;
use rights::HostFacts;
use serde::{Deserialize, Serialize};
use service::{CallError, Client};
use token::{Api, Keys, PublicKey, Resource};

pub(crate) const TOKENS: &str = "/v1/tokens";
pub(crate) const KEYS: &str = "/v1/keys";
pub(crate) const SETS: &str = "/v1/keys/sets";
pub(crate) const ROTATE: &str = "/v1/keys/rotate";
pub(crate) const ISSUED: &str = "/v1/issued";
pub(crate) const ACKNOWLEDGED: &str = "/v1/issued/acknowledged";
pub(crate) const HOSTS: &str = "/v1/hosts";
pub(crate) const APPRAISED: &str = "/v1/hosts/appraised";

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
    /// How many calls it shall allow; without it, as many as the rights configuration gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The ticket under which the caller works, where the rights configuration asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
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
    /// How many calls it allows.
    pub uses: u32,
}

/// Asks for a token.
pub async fn issue(client: &Client, request: &TokenRequest) -> Result<TokenAnswer, CallError> {
    client.post(TOKENS, request).await
}

/// Asks for a token as the operator whom an ID token names; `client` shows no certificate. The ID token's nonce must be
/// [`crate::oidc::nonce`] of the request's key.
pub async fn issue_by_id_token(
    client: &Client,
    id_token: &str,
    request: &TokenRequest,
) -> Result<TokenAnswer, CallError> {
    let body = serde_json::to_vec(request).map_err(|_| CallError::Malformed(client.server().clone()))?;
    client.call("POST", TOKENS, body, &[("authorization", &format!("Bearer {id_token}"))]).await
}

/// The public keys that hosts must hold to check tokens.
pub async fn keys(client: &Client) -> Result<Keys, CallError> {
    client.get(KEYS).await
}

/// A page of the journal of decisions, the entries after `after`. For `azote:service/audit` only.
pub async fn issued(client: &Client, after: u64) -> Result<Page, CallError> {
    client.get(&format!("{ISSUED}?after={after}")).await
}

/// Says that the entries up to `up_to` are safe elsewhere; the token service drops them. For `azote:service/audit`
/// only.
pub async fn acknowledge(client: &Client, up_to: u64) -> Result<Acknowledged, CallError> {
    client.post(ACKNOWLEDGED, &Acknowledged { up_to }).await
}

/// Up to which entry of the journal is safe elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledged {
    /// Its number.
    pub up_to: u64,
}

/// What hosts must be told to follow the signing keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySets {
    /// Number of the present set.
    pub sequence: u64,
    /// The key that signs tokens.
    pub signing: PublicKey,
    /// When the rotation goes on by itself, in seconds of Unix time; none if none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The last signed sets, oldest first, for the operation `UpdateTokenKeys`; base64url without padding.
    pub sets: Vec<String>,
}

impl KeySets {
    pub(crate) fn new(ring: &Ring, sets: &[Vec<u8>]) -> Self {
        let until = match ring.other {
            Some(Other::Next(_, until) | Other::Old(_, until)) => Some(until),
            None => None,
        };
        let sets = sets.iter().map(|set| token::cose::to_base64(set)).collect();
        Self { sequence: ring.sequence, signing: ring.present, until, sets }
    }
}

/// What a host was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Appraised {
    /// Which host.
    pub host: HostId,
    /// What it was found to be.
    pub found: Standing,
}

/// What the inventory says of a host now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Which host.
    pub host: HostId,
    /// What decisions go by.
    pub facts: HostFacts,
    /// What it was last found to be, if anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Standing>,
}

/// Tells what a host was found to be; gives what the service holds of it from now on. For `azote:service/pipeline` only.
pub async fn appraised(client: &Client, host: &HostId, found: Standing) -> Result<Standing, CallError> {
    client.post(APPRAISED, &Appraised { host: host.clone(), found }).await
}

/// Every host of the inventory. For `azote:service/pipeline` only.
pub async fn hosts(client: &Client) -> Result<Vec<Known>, CallError> {
    client.get(HOSTS).await
}

/// Announces the next signing key. For `azote:service/pipeline` only.
pub async fn rotate(client: &Client) -> Result<KeySets, CallError> {
    client.post(ROTATE, &()).await
}

/// The signed key sets, for hosts that may have missed some.
pub async fn key_sets(client: &Client) -> Result<KeySets, CallError> {
    client.get(SETS).await
}
