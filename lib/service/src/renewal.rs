//! The certificates of servers end within days, and a server asks nobody for the next one: the environment's authority
//! offers it, and the server takes what is signed for the key that it holds.

use crate::{Credentials, Error, Json, Key, Peer, Served, TlsError, Trust, certified_by};
use axum::{Router, extract::State, routing::post};
use ids::Identity;
use serde::{Deserialize, Serialize};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

/// Where the next certificate is offered.
pub const CERTIFICATE: &str = "/v1/certificate";
/// Who may offer one: who also brings hosts theirs.
pub const AUTHORITY: &str = "azote:service/pipeline";

/// A certificate chain for the key that a server holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offered {
    /// PEM, the server's own certificate first.
    pub chain: String,
}

/// What a server shows from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The last second in which it is valid, Unix time.
    pub ends: u64,
}

/// What a server shows of itself, and as whom it calls others. Another certificate can take its place.
pub struct Renewable {
    trust: Arc<Trust>,
    served: Arc<Served>,
    identity: Identity,
    present: RwLock<Arc<Credentials>>,
}

impl Renewable {
    /// Shows these at first, and takes others that `trust` vouches for.
    pub fn new(credentials: Credentials, trust: Arc<Trust>) -> Result<Arc<Self>, TlsError> {
        let (served, identity) = (Served::new(&credentials)?, credentials.identity()?);
        let present = RwLock::new(Arc::new(credentials));
        Ok(Arc::new(Self { trust, served, identity, present }))
    }

    /// For the server's handshakes.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served)
    }

    /// As whom.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What is shown now.
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows this chain (PEM) from the next handshake on, if at `now` (Unix seconds) the authority says of this very
    /// key that it is this very server's, and no shorter than the one before. Gives until when.
    pub fn offer(&self, chain: &str, now: u64) -> Result<u64, Error> {
        let refused = || {
            let why = "this is no certificate of the environment's authority for this server's name and key";
            Error::new(400, "certificate.refused", why)
        };
        let certified = certified_by(&self.trust.pem(), chain, now).map_err(|_| refused())?;
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        let key = present.key();
        if certified.identity != self.identity || certified.public_key != key.public() {
            return Err(refused());
        }
        if certified.not_after < present.ends() {
            return Err(Error::new(409, "certificate.older", "it would end before the one that is shown"));
        }
        let key = Key::from_seed(key.seed()).map_err(Error::internal)?;
        let next = Credentials::new(chain, key).map_err(Error::internal)?;
        self.served.replace(&next).map_err(|_| refused())?;
        *present = Arc::new(next);
        Ok(certified.not_after)
    }
}

/// The call by which the authority brings the next certificate.
pub fn certificates(mine: Arc<Renewable>) -> Router {
    Router::new().route(CERTIFICATE, post(offered)).with_state(mine)
}

async fn offered(
    State(mine): State<Arc<Renewable>>,
    Peer(caller): Peer,
    Json(Offered { chain }): Json<Offered>,
) -> Result<Json<Shown>, Error> {
    if caller.to_string() != AUTHORITY {
        tracing::warn!(%caller, "brought a certificate, and is not who may");
        return Err(Error::new(403, "rights.caller", format!("this call is for {AUTHORITY} only")));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ends = mine.offer(&chain, now)?;
    tracing::info!(ends, "shows the next certificate");
    Ok(Json(Shown { ends }))
}
