use crate::{Call, Claims, Keys, ProofId, Refusal, ReplaySet, cose, verified::Verified};
use ids::HostId;
use std::sync::Arc;

/// What a host needs to check tokens by itself. It remembers some whose signatures were good.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    audience: HostId,
    verified: Verified,
}

impl Verifier {
    /// Trusts `keys`, for the host `audience`.
    pub fn new(keys: Keys, audience: HostId) -> Self {
        Self { keys, audience, verified: Verified::default() }
    }

    /// Trusts `keys` from now on, and no others.
    pub fn trust(&mut self, keys: Keys) {
        *self = Self::new(keys, self.audience.clone());
    }

    /// The keys that it trusts.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads a token and checks its signature and its bounds, not its audience and time: so a log can name
    /// whose token was refused.
    pub fn open(&self, token: &str) -> Result<Claims, Refusal> {
        if let Some(claims) = self.verified.get(token) {
            return Ok(Arc::unwrap_or_clone(claims));
        }
        let bytes = cose::from_base64(token).ok_or(Refusal::TokenMalformed)?;
        let message = cose::parse(&bytes).ok_or(Refusal::TokenMalformed)?;
        if !cose::signed_by(&message, self.keys.list(), b"") {
            return Err(Refusal::TokenSignature);
        }
        let claims = Claims::decode(&message.payload.unwrap_or_default()).ok_or(Refusal::TokenMalformed)?;
        self.verified.add(token, &claims);
        Ok(claims)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Api, Ed25519KeyPair, PublicKey};

    fn token(id: u128, key: &Ed25519KeyPair) -> String {
        let claims = Claims {
            issuer: "azote:service/tokens".parse().unwrap(),
            subject: "azote:operator/alice".parse().unwrap(),
            audience: HostId::from_random(1),
            expires: 200,
            not_before: 100,
            issued: 100,
            id: id.to_be_bytes(),
            holder: PublicKey([9; 32]),
            apis: vec![Api::HostStatus],
            resources: vec![],
            uses: 1,
        };
        claims.sign(key).unwrap()
    }

    #[test]
    fn a_token_that_was_verified_before_is_still_bound_to_time_keys_and_bytes() {
        let [first, next] = [1, 2].map(|n| Ed25519KeyPair::from_seed_unchecked(&[n; 32]).unwrap());
        let keys =
            |keys: &[&Ed25519KeyPair]| Keys::new(keys.iter().map(|k| PublicKey::of(k)).collect()).unwrap();
        let mut verifier = Verifier::new(keys(&[&first, &next]), HostId::from_random(1));
        let good = token(1, &first);
        let cold = verifier.verify(&good, 150).unwrap();
        assert_eq!(verifier.verified.count(), 1);
        assert_eq!(verifier.verify(&good, 150), Ok(cold));
        assert_eq!(verifier.verify(&good, 200), Err(Refusal::TokenExpired));
        assert_eq!(verifier.verify(&good, 0), Err(Refusal::TokenNotYetValid));
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify(&String::from_utf8(changed).unwrap(), 150).is_err(), "character {at}");
        }
        assert_eq!(verifier.verified.count(), 1, "what is refused is not kept");
        verifier.trust(keys(&[&next]));
        assert_eq!(verifier.verify(&good, 150), Err(Refusal::TokenSignature));
    }

    #[test]
    fn only_so_many_tokens_are_remembered_and_all_are_taken() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let keys = Keys::new(vec![PublicKey::of(&key)]).unwrap();
        let verifier = Verifier::new(keys, HostId::from_random(1));
        for id in 0..1100 {
            verifier.verify(&token(id, &key), 150).unwrap();
            verifier.verify(&token(0, &key), 150).unwrap();
        }
        assert!((513..=1024).contains(&verifier.verified.count()), "{}", verifier.verified.count());
    }
}
