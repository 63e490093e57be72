//! Operators who come with an ID token of an OpenID provider (OpenID Connect Core 1.0) instead of a certificate.
//!
//! The provider's keys are read when the service starts; nothing is fetched. An ID token counts only for the key
//! that its `nonce` names, so who steals one can bind nothing to a key of their own.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ids::{Identity, Name};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};
use token::PublicKey;

/// Longest ID token in bytes.
pub const MAX_ID_TOKEN: usize = 8 * 1024;
/// Longest file in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Most keys of a provider.
const MAX_KEYS: usize = 32;
/// Longest name of an issuer, audience, key or person, in bytes.
const MAX_NAME: usize = 512;

/// A configured provider.
#[derive(Debug)]
pub struct Oidc {
    settings: Settings,
    keys: Vec<Trusted>,
}

/// The configuration file (TOML).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// `iss`, exactly.
    issuer: String,
    /// `aud`: the client id of this service at the provider.
    audience: String,
    /// The provider's JWK set (RFC 7517); beside this file if the path is relative.
    jwks: PathBuf,
    /// The claim that says who it is.
    claim: Claim,
    /// Its values, and who they are here. Nobody else is anybody.
    operators: BTreeMap<String, Name>,
    /// Signature algorithms that are taken.
    #[serde(default = "all")]
    algorithms: BTreeSet<Signature>,
    /// How far the provider's clock may be apart, in seconds.
    #[serde(default = "skew")]
    skew_seconds: u64,
    /// How long ago an ID token may have been issued, in seconds.
    #[serde(default = "age")]
    max_age_seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Signature {
    EdDSA,
    ES256,
    RS256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Claim {
    Sub,
    Email,
    PreferredUsername,
}

fn all() -> BTreeSet<Signature> {
    [Signature::EdDSA, Signature::ES256, Signature::RS256].into()
}

fn skew() -> u64 {
    60
}

fn age() -> u64 {
    600
}

#[derive(Debug)]
struct Trusted {
    id: Option<String>,
    algorithm: Signature,
    key: DecodingKey,
}

/// Why an ID token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OidcRefused {
    /// Not a signed ID token of this form.
    #[error("this is no ID token: want a JWS in compact form of at most {MAX_ID_TOKEN} bytes")]
    Malformed,
    /// Signed by an algorithm that is not taken, or not the key's.
    #[error("the ID token's algorithm is not taken here")]
    Algorithm,
    /// Names a key that the provider is not known to have.
    #[error("the ID token names a key that is not the provider's: has it new keys?")]
    Key,
    /// Not signed by the provider.
    #[error("the ID token is not signed by the provider")]
    Signature,
    /// Another provider.
    #[error("the ID token is of another issuer")]
    Issuer,
    /// For somebody else.
    #[error("the ID token is for another audience")]
    Audience,
    /// Past its end.
    #[error("the ID token has expired: sign in again")]
    Expired,
    /// Before its beginning, or issued in the future.
    #[error("the ID token is not valid yet: check the clocks")]
    NotYetValid,
    /// Issued too long ago.
    #[error("the ID token is too old: sign in again")]
    Stale,
    /// For another key.
    #[error("the ID token's nonce is not base64url(SHA-256(public key)): sign in with this key")]
    Nonce,
    /// Not one of the operators.
    #[error("the ID token is not an operator's of this environment")]
    Subject,
    /// No provider is configured.
    #[error("no OpenID provider is configured here: come with a certificate")]
    Off,
    /// A certificate and an ID token.
    #[error("come with a certificate or an ID token, not with both")]
    Both,
}

impl OidcRefused {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "oidc.malformed",
            Self::Algorithm => "oidc.algorithm",
            Self::Key => "oidc.key",
            Self::Signature => "oidc.signature",
            Self::Issuer => "oidc.issuer",
            Self::Audience => "oidc.audience",
            Self::Expired => "oidc.expired",
            Self::NotYetValid => "oidc.not-yet-valid",
            Self::Stale => "oidc.stale",
            Self::Nonce => "oidc.nonce",
            Self::Subject => "oidc.subject",
            Self::Off => "oidc.off",
            Self::Both => "oidc.both",
        }
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Body {
    iss: String,
    aud: Audience,
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
    azp: Option<String>,
    nonce: Option<String>,
    sub: Option<String>,
    email: Option<String>,
    email_verified: Option<bool>,
    preferred_username: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The `nonce` that binds an ID token to a key.
pub fn nonce(key: &PublicKey) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &key.0))
}

impl Oidc {
    /// Reads the configuration and, by `read`, the provider's keys. Fails with what is wrong.
    pub fn parse(text: &str, read: impl FnOnce(&Path) -> std::io::Result<String>) -> Result<Self, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| format!("OIDC: {error}"))?;
        let names = [&settings.issuer, &settings.audience].into_iter().chain(settings.operators.keys());
        if names.into_iter().any(|name| name.is_empty() || name.len() > MAX_NAME) {
            return Err(format!("OIDC: names have 1 to {MAX_NAME} bytes"));
        }
        let path = settings.jwks.display();
        let keys = read(&settings.jwks).map_err(|error| format!("OIDC: {path}: {error}"))?;
        if keys.len() > MAX_TEXT {
            return Err(format!("OIDC: {path} is longer than {MAX_TEXT} bytes"));
        }
        let keys: JwkSet = serde_json::from_str(&keys).map_err(|error| format!("OIDC: {path}: {error}"))?;
        let keys: Vec<Trusted> = keys.keys.iter().filter_map(trusted).collect();
        let known = keys.iter().filter(|key| settings.algorithms.contains(&key.algorithm)).count();
        if known == 0 || keys.len() > MAX_KEYS {
            return Err(format!("OIDC: {path}: want 1 to {MAX_KEYS} signing keys for the algorithms taken"));
        }
        Ok(Self { settings, keys })
    }

    /// Checks an ID token that shall be bound to `key`, `now` in Unix seconds; says who shows it.
    pub fn verify(&self, id_token: &str, key: &PublicKey, now: u64) -> Result<Identity, OidcRefused> {
        let body = self.authentic(id_token)?;
        let Settings { issuer, audience, skew_seconds: skew, max_age_seconds: age, .. } = &self.settings;
        if body.iss != *issuer {
            return Err(OidcRefused::Issuer);
        }
        let meant = match &body.aud {
            Audience::One(one) => one == audience,
            // OpenID Connect Core 1.0 §3.1.3.7: of several, the authorized party must be us.
            Audience::Many(many) => {
                many.contains(audience) && (many.len() == 1 || body.azp.as_ref() == Some(audience))
            }
        };
        if !meant || body.azp.as_ref().is_some_and(|azp| azp != audience) {
            return Err(OidcRefused::Audience);
        }
        if now >= body.exp.saturating_add(*skew) {
            return Err(OidcRefused::Expired);
        }
        let from = body.iat.max(body.nbf.unwrap_or(0));
        if from > now.saturating_add(*skew) {
            return Err(OidcRefused::NotYetValid);
        }
        if now > body.iat.saturating_add(*age).saturating_add(*skew) {
            return Err(OidcRefused::Stale);
        }
        if body.nonce.as_deref() != Some(&nonce(key)) {
            return Err(OidcRefused::Nonce);
        }
        self.operator(&body).cloned().map(Identity::Operator).ok_or(OidcRefused::Subject)
    }

    fn operator(&self, body: &Body) -> Option<&Name> {
        let value = match self.settings.claim {
            Claim::Sub => body.sub.as_ref(),
            Claim::Email => body.email.as_ref().filter(|_| body.email_verified == Some(true)),
            Claim::PreferredUsername => body.preferred_username.as_ref(),
        };
        self.settings.operators.get(value?)
    }

    /// Checks algorithm, key and signature.
    fn authentic(&self, id_token: &str) -> Result<Body, OidcRefused> {
        let head = id_token.split('.').next().filter(|_| id_token.len() <= MAX_ID_TOKEN);
        let head = head.and_then(|head| URL_SAFE_NO_PAD.decode(head).ok());
        let head: Head =
            head.and_then(|head| serde_json::from_slice(&head).ok()).ok_or(OidcRefused::Malformed)?;
        // RFC 7515 §4.1.11: what must be understood and is not makes the token invalid.
        if head.crit.is_some() {
            return Err(OidcRefused::Malformed);
        }
        let (signature, algorithm) = match head.alg.as_str() {
            "EdDSA" => (Signature::EdDSA, Algorithm::EdDSA),
            "ES256" => (Signature::ES256, Algorithm::ES256),
            "RS256" => (Signature::RS256, Algorithm::RS256),
            _ => return Err(OidcRefused::Algorithm),
        };
        if !self.settings.algorithms.contains(&signature) {
            return Err(OidcRefused::Algorithm);
        }
        let key = self.key(head.kid.as_deref()).ok_or(OidcRefused::Key)?;
        if key.algorithm != signature {
            return Err(OidcRefused::Algorithm);
        }
        // Times and names are checked here, against the time that is given: the library reads a clock of its own.
        let mut rules = Validation::new(algorithm);
        (rules.validate_exp, rules.validate_nbf, rules.validate_aud) = (false, false, false);
        rules.required_spec_claims = HashSet::new();
        decode::<Body>(id_token, &key.key, &rules).map(|data| data.claims).map_err(|error| {
            match error.kind() {
                ErrorKind::InvalidSignature => OidcRefused::Signature,
                _ => OidcRefused::Malformed,
            }
        })
    }

    /// The key that is named; where none is, the only one.
    fn key(&self, id: Option<&str>) -> Option<&Trusted> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

/// A key that can check one of the algorithms, and says nothing against it.
fn trusted(jwk: &Jwk) -> Option<Trusted> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Signature::EdDSA, "EdDSA")
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Signature::ES256, "ES256")
        }
        AlgorithmParameters::RSA(_) => (Signature::RS256, "RS256"),
        _ => return None,
    };
    let common = &jwk.common;
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let named = common.key_algorithm.is_none_or(|given| given.to_string() == name);
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (signs && named).then(|| Trusted { id: common.key_id.clone(), algorithm, key })
}
