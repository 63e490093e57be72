use super::*;
use crate::{RecordKind, Sentence};
use proptest::prelude::*;

type Log = (Vec<LogRecord>, Vec<[u8; 32]>);

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn record(seq: u64, prev: &[u8; 32], detail: &str) -> LogRecord {
    let text = serde_json::json!({
        "seq": seq, "time": "2026-01-02T03:04:05.000006Z", "kind": RecordKind::Event,
        "detail": Sentence::from_lossy(detail), "prev": Sha256::from_digest(prev),
    });
    serde_json::from_value(text).unwrap()
}

/// A log of so many records, and the hash after each.
fn log(length: u64, detail: &str) -> Log {
    extended((Vec::new(), vec![GENESIS]), length, detail)
}

fn extended((mut records, mut hashes): Log, length: u64, detail: &str) -> Log {
    for seq in records.len() as u64 + 1..=length {
        let next = record(seq, hashes.last().unwrap(), detail);
        hashes.push(LogRecord::hash_of(next.line().as_bytes()));
        records.push(next);
    }
    (records, hashes)
}

/// The page after record `after` of a log whose first `base` records are gone.
fn page((records, hashes): &Log, base: usize, after: usize, most: usize) -> LogPage {
    let head = |at: usize| LogHead::sign(at as u64, &hashes[at], &key());
    let records: Vec<_> = records.iter().skip(after.max(base)).take(most).cloned().collect();
    LogPage { records, last: hashes.len() as u64 - 1, base: head(base), head: head(hashes.len() - 1) }
}

fn reader() -> LogReader {
    LogReader::new(PublicKey::of(&key()))
}

#[test]
fn pages_are_proven_when_they_have_come_to_a_head() {
    let log = log(10, "");
    let mut reader = reader();
    for after in [0, 4, 8] {
        reader.take(&page(&log, 0, after, 4)).unwrap();
        assert_eq!(reader.is_proven(), after == 8);
    }
    assert_eq!((reader.seq(), reader.hash()), (10, log.1.last().unwrap()));
    reader.take(&page(&log, 0, 10, 4)).unwrap();
    let pages = [page(&log, 0, 0, 6), page(&log, 0, 6, 6)];
    assert_eq!(verify_log(&reader.host, &pages).unwrap().len(), 10);
    assert_eq!(verify_log(&reader.host, &pages[..1]).unwrap_err(), Refuted::Cut(10));
}

#[test]
fn a_log_whose_first_records_were_acknowledged_is_proven_from_there() {
    let log = log(10, "");
    let mut late = reader();
    late.take(&page(&log, 6, 0, 9)).unwrap();
    assert!(late.seq() == 10 && late.is_proven());
    let mut early = reader();
    early.take(&page(&log, 0, 0, 5)).unwrap();
    assert_eq!(early.take(&page(&log, 6, 5, 9)), Err(Refuted::Gone(5)));
    early.take(&page(&log, 5, 5, 9)).unwrap();
}

#[test]
fn a_log_that_was_cut_or_forked_is_refuted() {
    let (first, longer, other) = (log(5, ""), log(9, ""), log(9, "another"));
    let mut reader = reader();
    reader.take(&page(&longer, 0, 0, 2)).unwrap();
    assert_eq!(
        reader.clone().take(&page(&first, 0, 2, 9)),
        Err(Refuted::Cut(9)),
        "a promised record is gone"
    );
    reader.take(&page(&longer, 0, 2, 9)).unwrap();
    assert_eq!(reader.clone().take(&page(&first, 0, 9, 9)), Err(Refuted::Cut(9)));
    assert_eq!(reader.take(&page(&other, 0, 9, 9)), Err(Refuted::Forked(9)));
    // The same beginning, but not the end that was promised.
    let forked = extended(log(4, ""), 9, "instead");
    let mut reader = LogReader::new(reader.host);
    reader.take(&page(&longer, 0, 0, 4)).unwrap();
    assert_eq!(reader.take(&page(&forked, 0, 4, 9)), Err(Refuted::Forked(9)));
}

#[test]
fn another_hosts_signature_is_refused() {
    let log = log(3, "");
    let stranger = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();
    let mut taken = page(&log, 0, 0, 9);
    taken.head = LogHead::sign(3, &log.1[3], &stranger);
    assert_eq!(reader().take(&taken), Err(Refuted::Signature));
    let mut taken = page(&log, 1, 0, 9);
    taken.base = LogHead::sign(1, &log.1[1], &stranger);
    assert_eq!(reader().take(&taken), Err(Refuted::Signature));
}

proptest! {
    /// Any change of a page is refuted, and leaves the reader where it was.
    #[test]
    fn any_changed_bit_of_a_page_is_refuted(at: prop::sample::Index, bit in 0..8u8) {
        let good = page(&log(6, "detail"), 2, 0, 9);
        let mut bytes = serde_json::to_vec(&good).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let Ok(changed) = serde_json::from_slice::<LogPage>(&bytes) else { return Ok(()) };
        let mut reader = reader();
        prop_assert!(changed == good || reader.take(&changed).is_err(), "byte {at}");
        prop_assert!(changed == good || reader.seq() == 0);
    }
}
