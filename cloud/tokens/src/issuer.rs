use crate::{
    Entry, Inventory, Keyring, Kind, Oidc, OidcRefused, Recorder, Standing,
    client::{TokenAnswer, TokenRequest},
    journal::{By, kept},
    ledger::{Charge, Permit, Refused},
    store::Found,
};
use ids::{HostId, Identity};
use rights::{Ask, Grant, Rights};
use std::sync::Arc;
use token::{Claims, PublicKey};

/// Why no token is signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The rights configuration does not give it.
    #[error(transparent)]
    Rights(#[from] rights::Refusal),
    /// The inventory does not have the host.
    #[error("the inventory does not have this host")]
    Host,
    /// More calls than the rights configuration gives.
    #[error("ask for 1 to {0} uses")]
    Uses(u32),
    /// A quota is used up, or the journal takes nothing.
    #[error(transparent)]
    Ledger(#[from] Refused),
    /// The ID token.
    #[error(transparent)]
    Oidc(#[from] OidcRefused),
    /// Neither a certificate nor an ID token.
    #[error("come with a certificate of this environment or with an ID token")]
    Nobody,
    /// Not the one service that may call this.
    #[error("this call is for {0} only")]
    Caller(&'static str),
    /// An appraisal that is older than the one that is known, or of a time that has not come.
    #[error("a later appraisal of this host is known, or the clock of who appraised it is ahead")]
    Appraisal,
    /// The token would be longer than hosts take.
    #[error("the token would be too long: name fewer resources")]
    TooLong,
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rights(refusal) => refusal.code(),
            Self::Host => "rights.host",
            Self::Uses(_) => "rights.uses",
            Self::Ledger(Refused::Spent { .. }) => "quota.spent",
            Self::Ledger(Refused::Full) => "journal.full",
            Self::Ledger(Refused::Broken) => "journal.unavailable",
            Self::Oidc(refusal) => refusal.code(),
            Self::Nobody => "peer.missing",
            Self::Caller(_) => "rights.caller",
            Self::Appraisal => "attestation.older",
            Self::TooLong => "token.too-long",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Rights(refusal) => refusal.status(),
            Self::Host | Self::Caller(_) => 403,
            Self::Uses(_) | Self::TooLong | Self::Oidc(OidcRefused::Both) => 400,
            Self::Appraisal => 409,
            Self::Ledger(Refused::Spent { .. }) => 429,
            Self::Ledger(_) => 503,
            Self::Oidc(_) | Self::Nobody => 401,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// How that is known.
    pub by: By,
}

/// What decides, writes down, and signs.
pub struct Issuer {
    /// As whom it signs.
    pub name: Identity,
    /// What decides.
    pub rights: Rights,
    /// What is known of the hosts.
    pub inventory: Inventory,
    /// For operators without certificates.
    pub oidc: Option<Oidc>,
    /// What it writes down with.
    pub recorder: Recorder,
    /// What it signs with.
    pub keyring: Arc<Keyring>,
}

impl Issuer {
    /// Who calls: by certificate, or by an ID token (the value of the `Authorization` header) for `key`.
    pub fn caller(
        &self,
        peer: Option<Identity>,
        authorization: Option<&str>,
        key: &PublicKey,
        now: u64,
    ) -> Result<Caller, Refusal> {
        let id_token = match (peer, authorization) {
            (Some(identity), None) => return Ok(Caller { identity, by: By::Certificate }),
            (Some(_), Some(_)) => return Err(OidcRefused::Both.into()),
            (None, None) => return Err(Refusal::Nobody),
            (None, Some(value)) => match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
                _ => return Err(OidcRefused::Malformed.into()),
            },
        };
        let oidc = self.oidc.as_ref().ok_or(OidcRefused::Off)?;
        Ok(Caller { identity: oidc.verify(id_token, key, now)?, by: By::Oidc })
    }

    /// Decides on a request at `now` (Unix seconds): the claims under the random `id`, and what they cost.
    pub fn decide(
        &self,
        caller: &Identity,
        request: &TokenRequest,
        id: [u8; 16],
        now: u64,
    ) -> Result<(Claims, Grant), Refusal> {
        let host = self.inventory.host(&request.audience, now).ok_or(Refusal::Host)?;
        let grant = self.rights.decide(&Ask {
            subject: caller,
            operations: &request.apis,
            resources: &request.resources,
            audience: &request.audience,
            host: &host,
            now,
            ticket: request.ticket.as_deref(),
        })?;
        let lifetime = grant.lifetime(request.lifetime_seconds)?;
        let uses = request.uses.unwrap_or(grant.uses);
        if !(1..=grant.uses).contains(&uses) {
            return Err(Refusal::Uses(grant.uses));
        }
        let claims = Claims {
            issuer: self.name.clone(),
            subject: caller.clone(),
            audience: request.audience.clone(),
            expires: now.saturating_add(lifetime),
            not_before: now,
            issued: now,
            id,
            holder: request.public_key,
            apis: request.apis.clone(),
            resources: request.resources.clone(),
            uses,
        };
        Ok((claims, grant))
    }

    /// Decides, takes the quotas, writes it down, and signs; or writes the refusal down.
    pub async fn issue(
        &self,
        peer: Option<Identity>,
        authorization: Option<&str>,
        request: &TokenRequest,
        id: [u8; 16],
        now: u64,
    ) -> Result<TokenAnswer, Refusal> {
        let mut entry = Entry::of(request);
        let result = match self.caller(peer.clone(), authorization, &request.public_key, now) {
            Ok(caller) => {
                (entry.subject, entry.by) = (Some(caller.identity.clone()), Some(caller.by));
                self.issue_to(&caller.identity, request, id, now, &entry).await
            }
            Err(refusal) => {
                entry.subject = peer;
                Err(refusal)
            }
        };
        match result {
            Err(refusal) => Err(self.refuse(entry, refusal).await),
            signed => signed,
        }
    }

    async fn issue_to(
        &self,
        caller: &Identity,
        request: &TokenRequest,
        id: [u8; 16],
        now: u64,
        entry: &Entry,
    ) -> Result<TokenAnswer, Refusal> {
        let (claims, grant) = self.decide(caller, request, id, now)?;
        let charges: Vec<Charge> = grant.quotas.iter().map(Charge::from).collect();
        let entry = Entry {
            kind: Kind::Issued,
            groups: grant.groups,
            token: Some(claims.id_text()),
            uses: Some(claims.uses),
            expires: Some(claims.expires),
            ..entry.clone()
        };
        let permit = self.recorder.grant(&charges, now, entry).await?;
        self.sign(&claims, &permit)
    }

    /// Signs what the permit says is written down.
    fn sign(&self, claims: &Claims, permit: &Permit) -> Result<TokenAnswer, Refusal> {
        let token = claims.sign(self.keyring.signer().pair()).map_err(|_| Refusal::TooLong)?;
        let (caller, audience) = (&claims.subject, &claims.audience);
        tracing::info!(%caller, %audience, seq = permit.seq(), id = claims.id_text(), "signed");
        Ok(TokenAnswer { token, expires: claims.expires, uses: claims.uses })
    }

    /// Writes a refusal down; gives what is to be told, which is the journal's state if it takes nothing.
    pub(crate) async fn refuse(&self, entry: Entry, refusal: Refusal) -> Refusal {
        let (code, caller) = (refusal.code(), entry.subject.as_ref().map(ToString::to_string));
        tracing::warn!(code, caller, %refusal, "refused");
        if let Refusal::Ledger(Refused::Full | Refused::Broken) = refusal {
            return refusal;
        }
        let known = entry.subject.is_some();
        let entry = Entry { kind: Kind::Refused, code: Some(code.to_owned()), ..entry };
        match self.recorder.refuse(known, entry).await {
            Ok(()) => refusal,
            Err(refused) => refused.into(),
        }
    }
}

impl Issuer {
    /// Takes what a host was found to be, for all decisions from now on; durable when it returns.
    pub(crate) async fn appraised(
        &self,
        by: &Identity,
        host: &HostId,
        news: Standing,
        now: u64,
    ) -> Result<Standing, Refusal> {
        let mut entry = Entry {
            subject: Some(by.clone()),
            by: Some(By::Certificate),
            audience: Some(host.clone()),
            ..Entry::new(Kind::Appraised)
        };
        if !self.inventory.has(host) {
            return Err(self.refuse(entry, Refusal::Host).await);
        }
        entry.code = Some(news.word().to_owned());
        entry.detail = news.code.as_deref().map(kept);
        // Locked until it is on its way: what is known and what is durable have the same order.
        let written = {
            let mut standings = self.inventory.standings();
            match standings.next(host, news, now) {
                Some(next) => {
                    let bytes = serde_json::to_vec(&next).map_err(|_| Refused::Broken)?;
                    let found = Found { host: host.clone(), standing: bytes };
                    let done = self.recorder.appraised(entry.clone(), found)?;
                    standings.put(host.clone(), next.clone());
                    Some((done, next))
                }
                None => None,
            }
        };
        let Some((done, next)) = written else { return Err(self.refuse(entry, Refusal::Appraisal).await) };
        done.await?;
        Ok(next)
    }

    /// Writes down what has come due by time alone: for a thread that may block.
    pub(crate) fn tell_due(&self, now: u64) {
        let due = self.inventory.standings().due(now, |host| self.inventory.has(host));
        for (host, code) in due {
            tracing::warn!(%host, code, "nobody looks after this host");
            let code = Some(code.to_owned());
            let entry = Entry { audience: Some(host), code, ..Entry::new(Kind::Appraised) };
            if let Err(error) = self.recorder.refuse_blocking(true, entry) {
                tracing::warn!(%error, "it is not in the journal");
            }
        }
    }
}

impl From<&rights::QuotaKey> for Charge {
    fn from(key: &rights::QuotaKey) -> Self {
        Self { quota: key.to_string(), limit: key.limit, window: key.window, cost: key.cost }
    }
}
