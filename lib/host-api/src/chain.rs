//! What a reader of a host's log checks, without trusting whoever carried it.

use crate::{ChainBroken, GENESIS, LogPage, LogRecord, Sha256, Signature};
use token::{Ed25519KeyPair, PublicKey};

/// Keeps this signature from being taken for another of the host's: certificates of card keys, TLS.
const PURPOSE: &[u8; 20] = b"azote/host-log/head\0";

messages! {
    /// How far a host's log goes, signed by the host: everything up to record `seq` hashes to `hash`.
    LogHead {
        /// Sequence number of a record; 0 before the first.
        seq: u64,
        /// SHA-256 of that record's line; zeros before the first.
        hash: Sha256,
        /// By the host's identity key (Ed25519, RFC 8032) over 20 bytes of purpose, the sequence number (8
        /// bytes, big-endian) and the hash (32 bytes).
        signature: Signature,
    }
}

impl LogHead {
    /// Signs with the host's identity key.
    pub fn sign(seq: u64, hash: &[u8; 32], key: &Ed25519KeyPair) -> Self {
        Self::of(seq, hash, Signature::from_bytes(key.sign(&statement(seq, hash)).as_ref()))
    }

    /// Puts one together that was signed before.
    pub fn of(seq: u64, hash: &[u8; 32], signature: Signature) -> Self {
        Self { seq, hash: Sha256::from_digest(hash), signature }
    }

    /// Checks the signature against the host's public key.
    pub fn verify(&self, host: &PublicKey) -> Result<(), Refuted> {
        let statement = statement(self.seq, &self.hash.to_digest());
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, host.0);
        key.verify(&statement, &self.signature.to_bytes()).map_err(|_| Refuted::Signature)
    }
}

fn statement(seq: u64, hash: &[u8; 32]) -> Vec<u8> {
    [&PURPOSE[..], &seq.to_be_bytes(), hash].concat()
}

/// Why what was read is not the host's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refuted {
    /// The signature is not the host's.
    #[error("the log's head is not signed by this host")]
    Signature,
    /// Records were changed, taken out or put in.
    #[error("the log's chain is broken at record {0}")]
    Chain(u64),
    /// The host signed two different logs.
    #[error("the host signed another record {0} than the one that was read")]
    Forked(u64),
    /// The log ends before a record that was read or that the host had signed.
    #[error("the log was cut: it had record {0}")]
    Cut(u64),
    /// Records that this reader has not seen were acknowledged by another, and are gone from the host.
    #[error("the records after {0} are no longer on the host")]
    Gone(u64),
}

impl Refuted {
    /// Stable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Signature => "log.signature",
            Self::Chain(_) => "log.chain",
            Self::Forked(_) => "log.forked",
            Self::Cut(_) => "log.cut",
            Self::Gone(_) => "log.gone",
        }
    }
}

impl From<ChainBroken> for Refuted {
    fn from(broken: ChainBroken) -> Self {
        Self::Chain(broken.seq)
    }
}

/// One who reads a host's log page by page and remembers how far. What it has taken is proven to be the host's
/// once a page has brought it to a head: see [`LogReader::is_proven`].
#[derive(Debug, Clone)]
pub struct LogReader {
    host: PublicKey,
    seq: u64,
    hash: [u8; 32],
    /// Whether it may begin after records that were acknowledged by others.
    fresh: bool,
    /// The first head that it was shown and has not come to.
    promised: Option<(u64, Sha256)>,
}

impl LogReader {
    /// A reader of the log of the host with this public key, from the first record that is still there.
    pub fn new(host: PublicKey) -> Self {
        Self { fresh: true, ..Self::resume(host, 0, GENESIS) }
    }

    /// A reader that goes on after record `seq`, whose line hashes to `hash`.
    pub fn resume(host: PublicKey, seq: u64, hash: [u8; 32]) -> Self {
        Self { host, seq, hash, fresh: false, promised: None }
    }

    /// How far it has come: what to ask for next is after this.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of the last record's line.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether the host has signed everything up to here.
    pub fn is_proven(&self) -> bool {
        self.promised.is_none()
    }

    /// Checks a page that was asked for after [`LogReader::seq`], and goes on to its end. A page that is
    /// refuted changes nothing.
    pub fn take(&mut self, page: &LogPage) -> Result<(), Refuted> {
        page.head.verify(&self.host)?;
        page.base.verify(&self.host)?;
        if page.last != page.head.seq {
            return Err(Refuted::Cut(page.last));
        }
        let mut next = self.clone();
        if page.base.seq > next.seq {
            if !next.fresh {
                return Err(Refuted::Gone(next.seq));
            }
            (next.seq, next.hash) = (page.base.seq, page.base.hash.to_digest());
        }
        next.fresh = false;
        next.meets(&page.head)?;
        for record in &page.records {
            next.hash = record.follows(next.seq + 1, &next.hash)?;
            next.seq += 1;
            next.meets(&page.head)?;
        }
        if page.head.seq < next.seq {
            return Err(Refuted::Cut(next.seq));
        }
        if let Some((promised, _)) = next.promised.as_ref().filter(|(promised, _)| page.head.seq < *promised)
        {
            return Err(Refuted::Cut(*promised));
        }
        if next.promised.is_none() && page.head.seq > next.seq {
            next.promised = Some((page.head.seq, page.head.hash.clone()));
        }
        *self = next;
        Ok(())
    }

    /// Compares with what the host signed about the record that was reached.
    fn meets(&mut self, head: &LogHead) -> Result<(), Refuted> {
        let here = Sha256::from_digest(&self.hash);
        let promised = self.promised.take_if(|(seq, _)| *seq == self.seq);
        let differs = |hash: &Sha256| *hash != here;
        if promised.is_some_and(|(_, hash)| differs(&hash)) || (head.seq == self.seq && differs(&head.hash)) {
            return Err(Refuted::Forked(self.seq));
        }
        Ok(())
    }
}

/// Checks pages that were read one after the other from the log's beginning, up to a head; gives their
/// records.
pub fn verify_log<'a>(
    host: &PublicKey,
    pages: impl IntoIterator<Item = &'a LogPage>,
) -> Result<Vec<&'a LogRecord>, Refuted> {
    let mut reader = LogReader::new(*host);
    let mut records = Vec::new();
    for page in pages {
        reader.take(page)?;
        records.extend(&page.records);
    }
    match reader.promised {
        None => Ok(records),
        Some((seq, _)) => Err(Refuted::Cut(seq)),
    }
}

#[cfg(test)]
mod tests;
