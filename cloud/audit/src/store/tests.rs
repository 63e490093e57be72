use super::*;
use crate::{
    note::Purpose,
    tree::{check_consistency, check_inclusion, consistency, inclusion},
};
use service::Key;
use tempfile::TempDir;

fn signer() -> Signer {
    Signer::new("log", Purpose::Log, Key::from_seed(&[5; 32]).unwrap()).unwrap()
}

fn open(folder: &TempDir) -> Result<Log, LogError> {
    Log::open(folder.path(), signer())
}

fn entries(from: u64, to: u64) -> Vec<Vec<u8>> {
    (from..to).map(|n| format!("entry {n}").into_bytes()).collect()
}

/// The root over the whole log, from the entries alone.
fn recomputed(snapshot: &Snapshot) -> Hash {
    let bundles = snapshot.size().div_ceil(WIDTH);
    let leaves: Vec<Hash> =
        (0..bundles).flat_map(|n| snapshot.entries(n).unwrap()).map(|entry| leaf_hash(&entry)).collect();
    assert_eq!(leaves.len() as u64, snapshot.size());
    fn over(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => crate::tree::empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                crate::tree::node_hash(&over(left), &over(right))
            }
        }
    }
    over(&leaves)
}

#[test]
fn a_log_grows_over_tiles_and_restarts_and_proves_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut earlier: Vec<Checkpoint> = Vec::new();
    let mut size = 0;
    for step in [0, 1, 1, 253, 1, 1, 256, 700, 3, 64_000, 500, 256 * 4] {
        let mut log = open(&folder).unwrap();
        assert_eq!(log.snapshot().size(), size);
        log.append(&entries(size, size + step)).unwrap();
        size += step;
        let snapshot = log.snapshot();
        assert_eq!(Checkpoint::open(&snapshot.note, signer().public()), Ok(snapshot.checkpoint.clone()));
        if size < 3000 {
            assert_eq!(recomputed(snapshot), snapshot.checkpoint.root, "{size}");
        }
        let root = &snapshot.checkpoint.root;
        for index in [0, 1, 255, 256, 300, 65_535, 65_536, size.saturating_sub(1)] {
            let proof = inclusion(&mut &**snapshot, index.min(size), size).unwrap();
            let entry = snapshot.entry(index).unwrap();
            assert_eq!(entry.is_some(), index < size);
            let held = check_inclusion(&entry.unwrap_or_default(), index, size, root, &proof);
            assert_eq!(held.is_ok(), index < size, "{index} of {size}");
        }
        for old in &earlier {
            let proof = consistency(&mut &**snapshot, old.size, size).unwrap();
            check_consistency((old.size, &old.root), (size, root), &proof).unwrap();
        }
        earlier.push(snapshot.checkpoint.clone());
    }
    let partial = |path: &str| fs::read_dir(folder.path().join(path)).unwrap().count();
    assert_eq!(partial("tile/2"), 1, "one level above two others");
    assert!(!folder.path().join("tile/entries/000.p").exists(), "a full bundle takes the place of its parts");
}

#[test]
fn narrower_tiles_are_served_from_wider_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(&folder).unwrap();
    let snapshot = log.append(&entries(0, 300)).unwrap();
    let tile = |path: &str| snapshot.tile(&Tile::parse(path).unwrap()).unwrap();
    assert_eq!(tile("tile/0/000").unwrap().len(), 8192);
    assert_eq!(
        tile("tile/0/000.p/3").unwrap(),
        entries(0, 3).iter().map(|e| leaf_hash(e)).collect::<Vec<_>>().concat()
    );
    assert_eq!(tile("tile/0/001.p/44").unwrap().len(), 44 * 32);
    assert_eq!((tile("tile/0/001.p/45"), tile("tile/0/001"), tile("tile/1/000.p/2")), (None, None, None));
    let narrow = Tile::parse("tile/entries/001.p/2").unwrap();
    let bytes = snapshot.tile(&narrow).unwrap().unwrap();
    assert_eq!(narrow.entries(&bytes).unwrap(), entries(256, 258));
}

#[test]
fn what_was_written_beyond_the_checkpoint_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(&folder).unwrap();
    log.append(&entries(0, 200)).unwrap();
    // As far as a killed process comes: tiles, but no checkpoint.
    let (_, writes) = log.grow(&entries(500, 900)).unwrap();
    writes.write(folder.path()).unwrap();
    drop(log);
    let mut log = open(&folder).unwrap();
    assert_eq!(log.snapshot().size(), 200);
    let snapshot = log.append(&entries(200, 700)).unwrap();
    assert_eq!(recomputed(snapshot), snapshot.checkpoint.root);
    assert_eq!(snapshot.entry(699).unwrap().unwrap(), b"entry 699");
}

#[test]
fn damage_is_found_and_nothing_is_built_on_it() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).unwrap().append(&entries(0, 300)).unwrap();
    assert!(matches!(
        Log::open(
            folder.path(),
            Signer::new("log", Purpose::Log, Key::from_seed(&[6; 32]).unwrap()).unwrap()
        ),
        Err(LogError::Damaged(_))
    ));
    for path in ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44", CHECKPOINT] {
        let path = folder.path().join(path);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        changed[12] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(
            matches!(open(&folder), Err(LogError::Damaged(_) | LogError::File { .. })),
            "{}",
            path.display()
        );
        fs::write(&path, bytes).unwrap();
    }
    let log = open(&folder).unwrap();
    assert!(matches!(open(&folder), Err(LogError::InUse)));
    drop(log);
    fs::remove_file(folder.path().join(CHECKPOINT)).unwrap();
    assert!(matches!(open(&folder), Err(LogError::NoCheckpoint)));
}

#[test]
fn a_log_that_could_not_be_written_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(&folder).unwrap();
    assert!(matches!(log.append(&[vec![0; MAX_ENTRY + 1]]), Err(LogError::TooLong)));
    log.append(&entries(0, 1)).unwrap();
    fs::remove_dir_all(folder.path().join("tile/0")).unwrap();
    fs::write(folder.path().join("tile/0"), "in the way").unwrap();
    assert!(matches!(log.append(&entries(1, 2)), Err(LogError::File { .. })));
    assert!(matches!(log.append(&entries(1, 2)), Err(LogError::Poisoned)));
    assert_eq!(log.snapshot().size(), 1);
}

#[test]
fn equal_entries_make_a_log_like_any_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(&folder).unwrap();
    for step in [100, 256, 256, 65_536, 512, 1] {
        log.append(&vec![b"the same".to_vec(); step]).unwrap();
    }
    let size = log.snapshot().size();
    drop(log);
    assert_eq!(open(&folder).unwrap().snapshot().size(), size);
    for level in (0..2).map(Level::Hashes).chain([Level::Entries]) {
        let nodes = if level == Level::Hashes(1) { size / WIDTH } else { size };
        for index in 0..nodes.div_ceil(WIDTH) {
            let tile = Tile::of(level, index, size).unwrap();
            assert!(folder.path().join(tile.to_string()).exists(), "{tile}");
        }
    }
}
