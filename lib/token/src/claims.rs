use crate::{
    Api, MAX_LIFETIME, MAX_RESOURCES, MAX_TOKEN, MAX_USES, PublicKey, Refusal, Resource, SKEW, cose,
};
use aws_lc_rs::signature::Ed25519KeyPair;
use ciborium::Value;
use decision::{Native, Times, kernel};
use ids::{HostId, Identity};
use std::{fmt, str::FromStr};

/// What a token says. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who signed it.
    pub issuer: Identity,
    /// Whose rights it carries.
    pub subject: Identity,
    /// The one host that takes it.
    pub audience: HostId,
    /// From this second on it is no longer valid.
    pub expires: u64,
    /// Before this second it is not valid yet.
    pub not_before: u64,
    /// When it was signed.
    pub issued: u64,
    /// Unique, random.
    pub id: [u8; 16],
    /// Who may use it: the holder of this key.
    pub holder: PublicKey,
    /// What it allows: at least one operation, each once.
    pub apis: Vec<Api>,
    /// On what, at most [`MAX_RESOURCES`] different ones.
    pub resources: Vec<Resource>,
    /// For how many calls, 1 to [`MAX_USES`].
    pub uses: u32,
}

// RFC 8392 §4, RFC 8747 §3.1, RFC 9052 §7 and RFC 9053 §7.2.
const ISS: u64 = 1;
const SUB: u64 = 2;
const AUD: u64 = 3;
const EXP: u64 = 4;
const NBF: u64 = 5;
const IAT: u64 = 6;
const CTI: u64 = 7;
const CNF: u64 = 8;
const CNF_COSE_KEY: u64 = 1;
const KEY_TYPE: u64 = 1;
const KEY_TYPE_OKP: u64 = 1;
const KEY_CURVE: i64 = -1;
const CURVE_ED25519: u64 = 6;
const KEY_X: i64 = -2;
const APIS: &str = "azote:apis";
const RESOURCES: &str = "azote:resources";
const USES: &str = "azote:uses";

impl Claims {
    /// Signs a token. Refused with [`Refusal::TokenMalformed`] if a host would refuse its form.
    pub fn sign(&self, key: &Ed25519KeyPair) -> Result<String, Refusal> {
        let token = self
            .encode()
            .filter(|_| self.in_bounds())
            .and_then(|payload| cose::sign(key, payload, b""))
            .map(|bytes| cose::to_base64(&bytes));
        token.filter(|token| token.len() <= MAX_TOKEN).ok_or(Refusal::TokenMalformed)
    }

    /// Refuses a token for another host and one out of its time.
    pub fn check(&self, audience: &HostId, now: u64) -> Result<(), Refusal> {
        let standing = kernel::standing(&Native, self.audience == *audience, &self.times(now));
        Ok(kernel::refusal(standing)?)
    }

    /// Refuses what the token does not name: the API, or any of the resources.
    pub fn authorize(&self, api: Api, resources: &[Resource]) -> Result<(), Refusal> {
        Ok(kernel::refusal(kernel::scope(&Native, self.names(api), self.names_all(resources)))?)
    }

    /// The times of the token and of who checks it `now`, as the decision takes them.
    pub fn times(&self, now: u64) -> Times<Native> {
        Times {
            now,
            floor: now,
            skew: SKEW,
            issued: self.issued,
            not_before: self.not_before,
            expires: self.expires,
            max_life: MAX_LIFETIME,
        }
    }

    /// Whether the token names the operation.
    pub fn names(&self, api: Api) -> bool {
        self.apis.contains(&api)
    }

    /// Whether the token names every one of the resources.
    pub fn names_all(&self, resources: &[Resource]) -> bool {
        resources.iter().all(|resource| self.resources.contains(resource))
    }

    /// The token's id in hexadecimal, for logs.
    pub fn id_text(&self) -> String {
        hex(&self.id)
    }

    fn in_bounds(&self) -> bool {
        fn distinct<T: PartialEq>(list: &[T]) -> bool {
            list.iter().enumerate().all(|(i, item)| list.iter().take(i).all(|other| other != item))
        }
        let from = self.issued.min(self.not_before);
        self.not_before < self.expires
            && self.issued < self.expires
            && self.expires - from <= MAX_LIFETIME
            && (1..=MAX_USES).contains(&self.uses)
            && !self.holder.has_small_order()
            && !self.apis.is_empty()
            && self.resources.len() <= MAX_RESOURCES
            && distinct(&self.apis)
            && distinct(&self.resources)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let text = |value: &dyn fmt::Display| Value::Text(value.to_string());
        let holder = Value::Map(vec![
            (KEY_TYPE.into(), KEY_TYPE_OKP.into()),
            (KEY_CURVE.into(), CURVE_ED25519.into()),
            (KEY_X.into(), Value::Bytes(self.holder.0.to_vec())),
        ]);
        cose::to_cbor(&Value::Map(vec![
            (ISS.into(), text(&self.issuer)),
            (SUB.into(), text(&self.subject)),
            (AUD.into(), text(&self.audience)),
            (EXP.into(), self.expires.into()),
            (NBF.into(), self.not_before.into()),
            (IAT.into(), self.issued.into()),
            (CTI.into(), Value::Bytes(self.id.to_vec())),
            (CNF.into(), Value::Map(vec![(CNF_COSE_KEY.into(), holder)])),
            (text(&APIS), Value::Array(self.apis.iter().map(|api| text(api)).collect())),
            (text(&RESOURCES), Value::Array(self.resources.iter().map(|resource| text(resource)).collect())),
            (text(&USES), self.uses.into()),
        ]))
    }

    /// Reads claims that [`Claims::encode`] would write exactly so; nothing missing, nothing more.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        fn list<T: FromStr>(value: &Value) -> Option<Vec<T>> {
            value.as_array()?.iter().map(|item| item.as_text()?.parse().ok()).collect()
        }
        let payload = cose::from_cbor(bytes)?;
        let fields = payload.as_map()?;
        let value = |n: usize| fields.get(n).map(|(_, value)| value);
        let (_, key) = value(7)?.as_map()?.first()?;
        let (_, x) = key.as_map()?.get(2)?;
        let claims = Self {
            issuer: value(0)?.as_text()?.parse().ok()?,
            subject: value(1)?.as_text()?.parse().ok()?,
            audience: value(2)?.as_text()?.parse().ok()?,
            expires: cose::seconds(value(3)?)?,
            not_before: cose::seconds(value(4)?)?,
            issued: cose::seconds(value(5)?)?,
            id: cose::exact(value(6)?)?,
            holder: PublicKey(cose::exact(x)?),
            apis: list(value(8)?)?,
            resources: list(value(9)?)?,
            uses: value(10)?.as_integer()?.try_into().ok()?,
        };
        // The values were taken by position: only writing them again tells that the names were right.
        (claims.in_bounds() && claims.encode()? == bytes).then_some(claims)
    }
}

/// Lower-case hexadecimal, as logs write ids.
pub(crate) fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
