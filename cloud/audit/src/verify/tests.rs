use super::*;
use crate::{
    entry::HostRecord,
    note::Signer,
    store::{CHECKPOINT, Log},
};
use service::Key;
use std::{fs, path::Path};
use tempfile::TempDir;
use token::Ed25519KeyPair;

fn signer() -> Signer {
    Signer::new("log", Purpose::Log, Key::from_seed(&[5; 32]).unwrap()).unwrap()
}

fn host_key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn host() -> HostId {
    HostId::from_random(1)
}

/// The host becomes known, then so many of its records, the last of each ten signed.
fn entries(records: u64) -> Vec<Entry> {
    let key = PublicKey::of(&host_key());
    let known = Observed::of_host(&host(), book::HOST, &String::from(key));
    let mut entries = vec![Entry { time: 0, record: Record::Audit(Box::new(known)) }];
    let mut prev = GENESIS;
    for seq in 1..=records {
        let record: LogRecord = serde_json::from_value(serde_json::json!({
            "seq": seq, "time": "2026-01-02T03:04:05Z", "kind": "event", "code": "host.started", "prev": Sha256::from_digest(&prev),
        }))
        .unwrap();
        prev = LogRecord::hash_of(record.line().as_bytes());
        let head = seq.is_multiple_of(10).then(|| LogHead::sign(seq, &prev, &host_key()));
        let record = Box::new(HostRecord { record, head, base: None });
        entries.push(Entry { time: seq, record: Record::Host(host(), record) });
    }
    entries
}

fn write(folder: &Path, entries: &[Entry]) {
    let lines: Vec<_> = entries.iter().map(|entry| entry.line().unwrap()).collect();
    let mut log = Log::open(folder, signer()).unwrap();
    let had = usize::try_from(log.snapshot().size()).unwrap();
    log.append(&lines[had..]).unwrap();
}

fn log(records: u64) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &entries(records));
    folder
}

fn with<T>(
    folder: &Path,
    work: impl FnOnce(&mut Reader<'_>) -> Result<T, VerifyError>,
) -> Result<T, VerifyError> {
    let mut read = |name: &str| fs::read(folder.join(name)).map_err(|error| error.to_string());
    work(&mut Reader::open(signer().public(), &mut read)?)
}

fn verify(folder: &Path) -> Result<Report, VerifyError> {
    with(folder, |reader| whole(reader, &mut |_| ()))
}

#[test]
fn a_whole_log_is_verified_with_its_hosts_chain_and_signatures() {
    let folder = log(1000);
    let report = verify(folder.path()).unwrap();
    let of_host = &report.hosts[&host()];
    assert_eq!((report.size, of_host.records, of_host.signatures, of_host.signed), (1001, 1000, 100, 1000));
    for index in [0, 1, 255, 256, 700, 1000] {
        let entry = with(folder.path(), |reader| reader.entry(index)).unwrap();
        assert_eq!(entry, entries(1000)[usize::try_from(index).unwrap()].line().unwrap());
    }
    assert!(with(folder.path(), |reader| reader.entry(1001)).is_err());
}

/// A leaf's hash is replaced in a full tile, in each tile and at each place that a proof can start from: readers that
/// check a tile only against itself, or only some tiles against those above them, believe it.
#[test]
fn forged_tiles_are_refused_wherever_the_forged_hash_is() {
    let folder = log(1000);
    for tile in ["tile/0/000", "tile/0/001", "tile/0/002", "tile/0/003.p/233", "tile/1/000.p/3"] {
        let path = folder.path().join(tile);
        let good = fs::read(&path).unwrap();
        let parsed = Tile::parse(tile).unwrap();
        let last = good.len() / 32 - 1;
        for at in [0, 1, 100, last].into_iter().filter(|at| *at <= last) {
            let mut forged = good.clone();
            forged[at * 32..][..32].copy_from_slice(&leaf_hash(b"forged"));
            fs::write(&path, forged).unwrap();
            if parsed.level == Level::Hashes(0) {
                let index = parsed.index * WIDTH + at as u64;
                assert!(with(folder.path(), |reader| reader.entry(index)).is_err(), "{tile} {at}");
            }
            assert_eq!(verify(folder.path()), Err(VerifyError::Forged(tile.to_owned())), "{at}");
            fs::write(&path, &good).unwrap();
        }
    }
    verify(folder.path()).unwrap();
}

/// The entry and its leaf hash are replaced together: only the way up to the signed root tells.
#[test]
fn a_forged_entry_with_a_forged_leaf_is_refused() {
    let folder = log(1000);
    let all = entries(1000);
    let other = Entry { time: 12345, ..all[300].clone() }.line().unwrap();
    let lines: Vec<_> = all.iter().map(|entry| entry.line().unwrap()).collect();
    let mut bundle = Vec::new();
    for (index, line) in lines.iter().enumerate().skip(256).take(256) {
        crate::tile::bundle(&mut bundle, if index == 300 { &other } else { line }).unwrap();
    }
    fs::write(folder.path().join("tile/entries/001"), bundle).unwrap();
    let path = folder.path().join("tile/0/001");
    let mut hashes = fs::read(&path).unwrap();
    hashes[44 * 32..][..32].copy_from_slice(&leaf_hash(&other));
    fs::write(&path, hashes).unwrap();
    assert!(matches!(with(folder.path(), |reader| reader.entry(300)), Err(VerifyError::Forged(_))));
    assert!(matches!(verify(folder.path()), Err(VerifyError::Forged(_))));
}

#[test]
fn another_key_an_older_log_and_a_fork_are_refused() {
    let folder = log(600);
    let old = with(folder.path(), |reader| Ok(reader.checkpoint.clone())).unwrap();
    let copy = log(600);
    write(folder.path(), &entries(900));
    with(folder.path(), |reader| reader.continues(&old)).unwrap();
    let newer = with(folder.path(), |reader| Ok(reader.checkpoint.clone())).unwrap();
    let back = with(copy.path(), |reader| reader.continues(&newer));
    assert_eq!(back, Err(VerifyError::RolledBack(901)));
    let forked = Checkpoint { root: [1; 32], ..old };
    let back = with(folder.path(), |reader| reader.continues(&forked));
    assert_eq!(back, Err(VerifyError::RolledBack(601)));
    let note = fs::read_to_string(folder.path().join(CHECKPOINT)).unwrap();
    fs::write(folder.path().join(CHECKPOINT), note.replacen("901", "900", 1)).unwrap();
    assert_eq!(verify(folder.path()), Err(VerifyError::Signature));
}

/// The log is the audit service's own and its tree is right: but what it holds is not what the host wrote.
#[test]
fn what_is_not_the_hosts_own_is_found_under_a_right_tree() {
    let bad = |change: fn(&mut Vec<Entry>)| {
        let folder = tempfile::tempdir().unwrap();
        let mut entries = entries(30);
        change(&mut entries);
        write(folder.path(), &entries);
        verify(folder.path()).unwrap_err().to_string()
    };
    assert!(bad(|entries| drop(entries.remove(7))).contains("entry 7: not what follows"));
    assert!(bad(|entries| entries.swap(7, 8)).contains("entry 7: not what follows"));
    assert!(bad(|entries| drop(entries.remove(0))).contains("entry 0: a host that was not told of"));
    assert!(
        bad(|entries| {
            let Record::Host(_, host) = &mut entries[20].record else { panic!() };
            let head = host.head.take().unwrap();
            host.head = Some(LogHead { seq: 19, ..head });
        })
        .contains("entry 20: not signed by its host")
    );
}
