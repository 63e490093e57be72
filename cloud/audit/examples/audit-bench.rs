//! The audit log on disk: appends of several sizes, each durable under a signed checkpoint, then proofs and their checks,
//! and a whole verification. `audit-bench [FOLDER]`; without a folder, one in `target`, on the disk of the source tree.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use audit::{
    entry::{Entry, Observed, Record},
    note::{Purpose, Signer},
    store::Log,
    tree::{check_consistency, check_inclusion, consistency, inclusion},
    verify::{Reader, whole},
};
use service::Key;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ROUNDS: usize = 100;
const PROOFS: u64 = 1000;

fn main() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let parent = std::env::args().nth(1).map_or(beside, PathBuf::from);
    let folder = tempfile::tempdir_in(parent).unwrap();
    let path = folder.path().join("log");
    let signer = Signer::new("bench", Purpose::Log, Key::generate().unwrap()).unwrap();
    let key = signer.public().clone();
    let mut log = Log::open(&path, signer).unwrap();
    let entry =
        Entry { time: 1, record: Record::Audit(Box::new(Observed::event("bench.entry", &"x".repeat(300)))) };
    let line = entry.line().unwrap();
    println!(
        "entries of {} bytes; one fsync of as many bytes alone: {}",
        line.len(),
        show(&mut fsync(folder.path(), &line))
    );
    for batch in [1, 16, 256, 4096] {
        let lines = vec![line.clone(); batch];
        let mut times: Vec<_> =
            (0..ROUNDS).map(|_| timed(|| assert!(log.append(&lines).unwrap().size() > 0))).collect();
        let whole: Duration = times.iter().sum();
        let rate = (batch * ROUNDS) as f64 / whole.as_secs_f64();
        println!("append {batch:>4} at once: {}, {rate:.0} entries/s", show(&mut times));
    }
    let snapshot = log.snapshot().clone();
    let (size, root) = (snapshot.size(), snapshot.checkpoint.root);
    let indices = || (0..PROOFS).map(|n| n * 7919 % size);
    let mut times: Vec<_> =
        indices().map(|index| timed(|| drop(inclusion(&mut &*snapshot, index, size).unwrap()))).collect();
    println!("inclusion proof among {size}: {}", show(&mut times));
    let proofs: Vec<_> =
        indices().map(|index| (index, inclusion(&mut &*snapshot, index, size).unwrap())).collect();
    let mut times: Vec<_> = proofs
        .iter()
        .map(|(index, proof)| timed(|| check_inclusion(&line, *index, size, &root, proof).unwrap()))
        .collect();
    println!("its check: {}", show(&mut times));
    let mut times: Vec<_> =
        indices().map(|old| timed(|| drop(consistency(&mut &*snapshot, old, size).unwrap()))).collect();
    println!("consistency proof: {}", show(&mut times));
    let proof = consistency(&mut &*snapshot, size, size).unwrap();
    check_consistency((size, &root), (size, &root), &proof).unwrap();
    let start = Instant::now();
    let mut read = |name: &str| fs::read(path.join(name)).map_err(|error| error.to_string());
    whole(&mut Reader::open(&key, &mut read).unwrap(), &mut |_| ()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("whole verification: {seconds:.2} s, {:.0} entries/s", size as f64 / seconds);
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// What one durable write costs here, without a log.
fn fsync(folder: &Path, bytes: &[u8]) -> Vec<Duration> {
    let mut file = File::create(folder.join("fsync")).unwrap();
    let mut write = || {
        file.write_all(bytes).unwrap();
        file.sync_data().unwrap();
    };
    (0..ROUNDS).map(|_| timed(&mut write)).collect()
}

fn show(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    format!("p50 {:.0} us, p99 {:.0} us", at(50), at(99))
}
