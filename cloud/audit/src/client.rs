//! Calls of the audit service, typed.

use crate::{
    entry::{Attempt, MAX_ATTEMPTS},
    tile::Tile,
    tree::Hash,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::{CallError, Client};

pub(crate) const ENTRIES: &str = "/v1/entries";
pub(crate) const INCLUSION: &str = "/v1/proofs/inclusion";
pub(crate) const CONSISTENCY: &str = "/v1/proofs/consistency";
pub(crate) const COSIGNATURES: &str = "/v1/cosignatures";
pub(crate) const ATTEMPTS: &str = "/v1/attempts";
pub(crate) const STATUS: &str = "/v1/status";
pub(crate) const ALARMS: &str = "/v1/alarms";
pub(crate) const CHECKPOINT: &str = "/checkpoint";
pub(crate) const COSIGNED: &str = "/checkpoint/cosigned";

/// Most entries in one page.
pub const MAX_PAGE: usize = 256;
/// Longest time that a reader can wait for new entries, in seconds.
pub const MAX_WAIT: u64 = 25;

/// A part of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    /// Entries in order; each as it is in the log.
    pub entries: Vec<Numbered>,
    /// How many entries the log has.
    pub size: u64,
}

/// An entry and its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Numbered {
    /// Its index, from 0.
    pub index: u64,
    /// The entry, byte for byte.
    pub entry: Box<RawValue>,
}

/// A proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Hashes in the order of RFC 9162, in base64.
    pub hashes: Vec<String>,
}

impl Proof {
    pub(crate) fn new(hashes: &[Hash]) -> Self {
        Self { hashes: hashes.iter().map(|hash| STANDARD.encode(hash)).collect() }
    }

    /// The hashes; none if they are not hashes.
    pub fn read(&self) -> Option<Vec<Hash>> {
        self.hashes.iter().map(|text| STANDARD.decode(text).ok()?.try_into().ok()).collect()
    }
}

/// A checkpoint with witnesses' signatures.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cosigned {
    /// The signed note.
    pub note: String,
}

/// What the audit service is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The log's public key, as a verifier key. Who checks the log must have it from elsewhere.
    pub key: String,
    /// How many entries the log has.
    pub size: u64,
    /// How far each source was read.
    pub sources: Vec<SourceStatus>,
    /// Calls and tokens that wait for their other side.
    pub open: u64,
    /// Witnesses whose signatures are taken.
    pub witnesses: Vec<String>,
    /// How many entries the latest cosigned checkpoint covers.
    pub cosigned: Option<u64>,
}

/// How far a source was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `tokens`, or `host/h-…`.
    pub source: String,
    /// The last record.
    pub seq: u64,
    /// What is wrong with it, if something is.
    pub code: Option<String>,
}

/// How many were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Attempts, or signatures.
    pub taken: u64,
}

/// Entries from index `after` on, waiting up to `wait` seconds (at most [`MAX_WAIT`]) if there are none yet but reads.
pub async fn entries(client: &Client, after: u64, wait: u64) -> Result<Page, CallError> {
    client.get(&format!("{ENTRIES}?after={after}&wait={wait}")).await
}

/// Alarms whose entries are at index `after` or later.
pub async fn alarms(client: &Client, after: u64) -> Result<Page, CallError> {
    client.get(&format!("{ALARMS}?after={after}")).await
}

/// What the service is.
pub async fn status(client: &Client) -> Result<Status, CallError> {
    client.get(STATUS).await
}

/// The latest checkpoint: a signed note.
pub async fn checkpoint(client: &Client) -> Result<Vec<u8>, CallError> {
    client.bytes(CHECKPOINT).await
}

/// The latest checkpoint that a witness signed.
pub async fn cosigned(client: &Client) -> Result<Vec<u8>, CallError> {
    client.bytes(COSIGNED).await
}

/// The bytes of a tile.
pub async fn tile(client: &Client, tile: &Tile) -> Result<Vec<u8>, CallError> {
    client.bytes(&format!("/{tile}")).await
}

/// That an entry is in the tree of `size` entries.
pub async fn inclusion(client: &Client, index: u64, size: u64) -> Result<Proof, CallError> {
    client.get(&format!("{INCLUSION}?index={index}&size={size}")).await
}

/// That the tree of `old` entries is the beginning of the one of `size`.
pub async fn consistency(client: &Client, old: u64, size: u64) -> Result<Proof, CallError> {
    client.get(&format!("{CONSISTENCY}?old={old}&size={size}")).await
}

/// Brings a checkpoint of this log with witnesses' signatures.
pub async fn cosign(client: &Client, note: &str) -> Result<Taken, CallError> {
    client.post(COSIGNATURES, &Cosigned { note: note.to_owned() }).await
}

/// Tells of attempts of the caller's own, at most [`MAX_ATTEMPTS`]. They are durable when this returns.
pub async fn attempts(client: &Client, attempts: &[Attempt]) -> Result<Taken, CallError> {
    debug_assert!(attempts.len() <= MAX_ATTEMPTS);
    client.post(ATTEMPTS, &attempts).await
}
