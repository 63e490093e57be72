use crate::{Call, Claims, Keys, ProofId, Refusal, ReplaySet, cose};
use ids::HostId;

/// What a host needs to check tokens by itself.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    audience: HostId,
}

impl Verifier {
    /// Trusts `keys`, for the host `audience`.
    pub fn new(keys: Keys, audience: HostId) -> Self {
        Self { keys, audience }
    }

    /// Trusts `keys` from now on, and no others.
    pub fn trust(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// The keys that it trusts.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads a token and checks its signature and its bounds, not its audience and time: so a log can name
    /// whose token was refused.
    pub fn open(&self, token: &str) -> Result<Claims, Refusal> {
        let bytes = cose::from_base64(token).ok_or(Refusal::TokenMalformed)?;
        let message = cose::parse(&bytes).ok_or(Refusal::TokenMalformed)?;
        if !cose::signed_by(&message, self.keys.list(), b"") {
            return Err(Refusal::TokenSignature);
        }
        Claims::decode(&message.payload.unwrap_or_default()).ok_or(Refusal::TokenMalformed)
    }

    /// Reads a token and checks all that does not depend on the request.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, Refusal> {
        let claims = self.open(token)?;
        claims.check(&self.audience, now)?;
        Ok(claims)
    }

    /// Checks a whole request: the two headers' values, the token, the proof, and that the proof is new.
    /// `call.token` is not read. What the token allows is for [`Claims::authorize`] to say.
    pub fn verify_call(
        &self,
        authorization: Option<&str>,
        proof: Option<&str>,
        call: Call<'_>,
        replay: &mut ReplaySet,
        now: u64,
    ) -> Result<Claims, Refusal> {
        let (claims, id) = self.check_call(authorization, proof, call, now)?;
        replay.accept(&id, now)?;
        Ok(claims)
    }

    /// [`Verifier::verify_call`] for those who share their [`ReplaySet`] and would not lock it while signatures
    /// are checked: all but that the proof is new. The caller must then give the [`ProofId`] to the set.
    pub fn check_call(
        &self,
        authorization: Option<&str>,
        proof: Option<&str>,
        call: Call<'_>,
        now: u64,
    ) -> Result<(Claims, ProofId), Refusal> {
        let token = bearer(authorization)?;
        let claims = self.verify(token, now)?;
        let proof = proof.ok_or(Refusal::ProofMissing)?;
        let id = Call { token, ..call }.verify(proof, &claims.holder, now)?;
        Ok((claims, id))
    }
}

/// The token in the value of the `Authorization` header.
pub(crate) fn bearer(authorization: Option<&str>) -> Result<&str, Refusal> {
    let value = authorization.ok_or(Refusal::TokenMissing)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token),
        _ => Err(Refusal::TokenMissing),
    }
}
