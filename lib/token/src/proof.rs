use crate::{PublicKey, Refusal, claims::hex, cose};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
    signature::Ed25519KeyPair,
};
use ciborium::Value;
use std::collections::HashMap;

/// A proof older than this many seconds is stale.
pub const PROOF_AGE: u64 = 60;
/// A proof further ahead of the host's clock than this many seconds is stale.
pub const PROOF_AHEAD: u64 = 5;
const CONTEXT: &[u8] = b"azote/proof/1";

/// The request that a proof is for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// HTTP method, upper case.
    pub method: &'a str,
    /// Path and query as they are on the request line: `/v1/log?after=7`.
    pub path: &'a str,
    /// The body's bytes, empty if there is none.
    pub body: &'a [u8],
    /// The token that is sent along, as it is in the header after `Bearer `.
    pub token: &'a str,
}

/// What makes a proof that has been checked single-use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofId {
    /// Unique, random.
    pub id: [u8; 16],
    /// When it was made, Unix seconds.
    pub issued: u64,
}

impl ProofId {
    /// What a proof says, unchecked.
    pub fn peek(proof: &str) -> Option<Self> {
        read_id(&cose::parse(&cose::from_base64(proof)?)?.payload?)
    }

    /// The id in hexadecimal: the request's id in the logs of both sides.
    pub fn id_text(&self) -> String {
        hex(&self.id)
    }
}

impl Call<'_> {
    /// Makes the value of [`crate::PROOF_HEADER`] with the key that the token names. `None` if the library fails
    /// to sign or the system gives no random numbers.
    pub fn prove(&self, key: &Ed25519KeyPair, now: u64) -> Option<String> {
        let mut id = [0; 16];
        rand::fill(&mut id).ok()?;
        let payload = self.payload(&ProofId { id, issued: now })?;
        Some(cose::to_base64(&cose::sign(key, payload, CONTEXT)?))
    }

    /// Checks that `holder` made `proof` for this very request just now. The caller must then give the
    /// result to a [`ReplaySet`].
    pub fn verify(&self, proof: &str, holder: &PublicKey, now: u64) -> Result<ProofId, Refusal> {
        let bytes = cose::from_base64(proof).ok_or(Refusal::ProofMalformed)?;
        let message = cose::parse(&bytes).ok_or(Refusal::ProofMalformed)?;
        if !cose::signed_by(&message, &[*holder], CONTEXT) {
            return Err(Refusal::ProofSignature);
        }
        let payload = message.payload.unwrap_or_default();
        let id = read_id(&payload).ok_or(Refusal::ProofMalformed)?;
        if self.payload(&id).is_none_or(|expected| expected != payload) {
            return Err(Refusal::ProofMismatch);
        }
        if now.saturating_sub(id.issued) > PROOF_AGE || id.issued.saturating_sub(now) > PROOF_AHEAD {
            return Err(Refusal::ProofStale);
        }
        Ok(id)
    }

    /// `[method, path, sha256(body), iat, jti, sha256(token)]`
    fn payload(&self, id: &ProofId) -> Option<Vec<u8>> {
        let hash = |bytes: &[u8]| Value::Bytes(digest(&SHA256, bytes).as_ref().to_vec());
        cose::to_cbor(&Value::Array(vec![
            self.method.into(),
            self.path.into(),
            hash(self.body),
            id.issued.into(),
            Value::Bytes(id.id.to_vec()),
            hash(self.token.as_bytes()),
        ]))
    }
}

fn read_id(payload: &[u8]) -> Option<ProofId> {
    let value = cose::from_cbor(payload)?;
    let [_, _, _, issued, id, _] = value.as_array()?.as_slice() else { return None };
    Some(ProofId { id: cose::exact(id)?, issued: cose::seconds(issued)? })
}

/// The proofs that a host has seen and that are still fresh. Bounded: when it is full, new proofs are
/// refused, never old ones forgotten.
#[derive(Debug)]
pub struct ReplaySet {
    seen: HashMap<[u8; 16], u64>,
    capacity: usize,
    /// A proof issued before this may have been seen and forgotten.
    floor: u64,
    swept: u64,
}

impl ReplaySet {
    /// An empty set for at most `capacity` proofs. What was proved before `started` (Unix seconds) is
    /// refused as stale, because an earlier process may have seen it: that one took proofs up to
    /// [`PROOF_AHEAD`] seconds ahead of its last moment, so `started` must be later than that.
    pub fn new(capacity: usize, started: u64) -> Self {
        Self { seen: HashMap::new(), capacity, floor: started, swept: started }
    }

    /// Takes a checked proof, once.
    pub fn accept(&mut self, proof: &ProofId, now: u64) -> Result<(), Refusal> {
        if proof.issued < self.floor {
            return Err(Refusal::ProofStale);
        }
        // Once per second at most, so that a full set costs a flood no more than one pass a second; and when the
        // clock was set back.
        let full = self.seen.len() >= self.capacity;
        if now < self.swept || (now > self.swept && (full || now - self.swept >= PROOF_AGE)) {
            let mut floor = self.floor;
            self.seen.retain(|_, issued| {
                let fresh = now.saturating_sub(*issued) <= PROOF_AGE;
                // What is forgotten stays refused, even if the clock is set back and it looks fresh again.
                floor = if fresh { floor } else { floor.max(issued.saturating_add(1)) };
                fresh
            });
            (self.floor, self.swept) = (floor, now);
        }
        if self.seen.contains_key(&proof.id) {
            return Err(Refusal::ProofReplayed);
        }
        if self.seen.len() >= self.capacity {
            return Err(Refusal::ProofOverload);
        }
        self.seen.insert(proof.id, proof.issued);
        Ok(())
    }
}
