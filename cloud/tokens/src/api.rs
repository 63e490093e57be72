use crate::{
    Refusal, Rights,
    client::{KEYS, TOKENS, TokenAnswer, TokenRequest},
};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use ids::Identity;
use service::{Error, Json, Key, Peer};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use token::{Claims, Keys, PublicKey};

/// What signs.
pub struct Issuer {
    name: Identity,
    key: Key,
    rights: Rights,
}

impl Issuer {
    /// Signs as `name` with `key` what `rights` allow.
    pub fn new(name: Identity, key: Key, rights: Rights) -> Self {
        Self { name, key, rights }
    }

    /// Decides, and signs at `now` (Unix seconds) under a new random `id`.
    pub fn issue(
        &self,
        caller: &Identity,
        request: &TokenRequest,
        id: [u8; 16],
        now: u64,
    ) -> Result<(Claims, String), Refusal> {
        let lifetime = self.rights.decide(caller, request)?;
        let claims = Claims {
            issuer: self.name.clone(),
            subject: caller.clone(),
            audience: request.audience.clone(),
            expires: now + lifetime,
            not_before: now,
            issued: now,
            id,
            holder: request.public_key,
            apis: request.apis.clone(),
            resources: request.resources.clone(),
            uses: token::MAX_USES,
        };
        let token = claims.sign(self.key.pair()).map_err(|_| Refusal::Malformed)?;
        Ok((claims, token))
    }
}

/// The service's calls.
pub fn router(issuer: Issuer) -> Router {
    Router::new().route(TOKENS, post(issue)).route(KEYS, get(keys)).with_state(Arc::new(issuer))
}

async fn issue(
    State(issuer): State<Arc<Issuer>>,
    Peer(caller): Peer,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenAnswer>, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(Error::internal)?.as_secs();
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(Error::internal)?;
    let TokenRequest { apis, resources, audience, .. } = &request;
    match issuer.issue(&caller, &request, id, now) {
        Ok((claims, token)) => {
            let id = claims.id_text();
            tracing::info!(%caller, ?apis, ?resources, %audience, expires = claims.expires, id, "signed");
            Ok(Json(TokenAnswer { token, expires: claims.expires }))
        }
        Err(refusal) => {
            let code = refusal.code();
            tracing::warn!(%caller, ?apis, ?resources, %audience, code, "refused");
            Err(Error::new(refusal.status(), code, refusal.to_string()))
        }
    }
}

async fn keys(State(issuer): State<Arc<Issuer>>, Peer(caller): Peer) -> Result<Json<Keys>, Error> {
    tracing::info!(%caller, "gave the public keys");
    let keys = Keys::new(vec![PublicKey(issuer.key.public())]);
    keys.map(Json).ok_or_else(|| Error::internal("no key"))
}
