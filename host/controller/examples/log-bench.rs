//! What a durable record costs: appends to the host's log by writers at the same time, beside plain writes with
//! `fdatasync` of blocks of the same lengths into a file beside it, in turns, in the same run. A plain write is what
//! one frame of the log cost the disk: so the ratio is what encryption, signature, chain and waiting for others add.
//!
//! `log-bench [--dir DIR] [--writers N]… [--rounds N] [--records N] [--json]`
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use clap::Parser;
use controller::log::{Entry, Log, Writer};
use host_api::{Api, RecordKind, Resource};
use host_log::LogKey;
use rustix::fs::{FallocateFlags, fallocate};
use service::Key;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const CAPACITY: u64 = 1 << 30;
/// More than all records of a measurement take, in bytes.
const ROOM: u64 = 1 << 26;

#[derive(Parser)]
struct Arguments {
    /// Where the log goes: on the disk to be measured.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writers at the same time; may be given several times.
    #[arg(long, default_values_t = [1, 4, 16, 32])]
    writers: Vec<usize>,
    /// Turns of log and plain file.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Records of each writer in a turn.
    #[arg(long, default_value_t = 20)]
    records: usize,
    /// For programs.
    #[arg(long)]
    json: bool,
}

/// Times of single waits for the disk.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    /// The time that so many in a thousand do not exceed, in microseconds.
    fn at(&mut self, thousandth: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * thousandth).div_ceil(1000).max(1) - 1;
        self.0[at].as_secs_f64() * 1e6
    }
}

struct Case {
    writers: usize,
    log: Times,
    plain: Times,
    records: usize,
    elapsed: Duration,
}

fn main() {
    let arguments = Arguments::parse();
    let mut cases: Vec<_> = arguments.writers.iter().map(|writers| measure(&arguments, *writers)).collect();
    if !arguments.json {
        println!(
            "{:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7} {:>7}",
            "writers", "records/s", "log p50", "log p99", "plain p50", "plain p99", "p50", "p99"
        );
    }
    for case in &mut cases {
        let rate = case.records as f64 / case.elapsed.as_secs_f64();
        let [log, plain] = [&mut case.log, &mut case.plain].map(|times| [times.at(500), times.at(990)]);
        let ratio = [log[0] / plain[0], log[1] / plain[1]];
        if arguments.json {
            let line = serde_json::json!({
                "writers": case.writers, "records_per_second": rate, "log_p50_us": log[0], "log_p99_us": log[1],
                "fdatasync_p50_us": plain[0], "fdatasync_p99_us": plain[1], "p50_ratio": ratio[0], "p99_ratio": ratio[1],
            });
            println!("{line}");
        } else {
            println!(
                "{:>7} {rate:>10.0} {:>8.0}us {:>8.0}us {:>8.0}us {:>8.0}us {:>7.2} {:>7.2}",
                case.writers, log[0], log[1], plain[0], plain[1], ratio[0], ratio[1]
            );
        }
    }
}

fn measure(arguments: &Arguments, writers: usize) -> Case {
    let dir = tempfile::tempdir_in(&arguments.dir).unwrap();
    let path = dir.path().join("log");
    fs::create_dir(&path).unwrap();
    let key = LogKey::new(&[7; LogKey::LENGTH]).unwrap();
    let log = Log::open(&path, CAPACITY, key.clone(), Key::generate().unwrap()).unwrap();
    let log = Writer::new(log);
    // With room, as the log's segments have.
    let mut plain = File::create(dir.path().join("plain")).unwrap();
    fallocate(&plain, FallocateFlags::empty(), 0, ROOM).unwrap();
    plain.sync_all().unwrap();
    let mut case =
        Case { writers, log: Times::default(), plain: Times::default(), records: 0, elapsed: Duration::ZERO };
    let mut done = 0;
    for round in 0..=arguments.rounds {
        let (times, elapsed) = append(&log, writers, arguments.records);
        let frames = lengths(&path, &key);
        let plain_times = write_plain(&mut plain, &frames[done..]);
        done = frames.len();
        // The first turn makes files and caches warm.
        if round > 0 {
            case.records += times.len();
            case.elapsed += elapsed;
            case.log.0.extend(times);
            case.plain.0.extend(plain_times);
        }
    }
    case
}

/// Every writer appends its records one after the other; gives each one's time.
fn append(log: &Writer, writers: usize, records: usize) -> (Vec<Duration>, Duration) {
    let start = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let log = log.clone();
            thread::spawn(move || {
                let mut times = Vec::with_capacity(records);
                for _ in 0..records {
                    let start = Instant::now();
                    log.append(entry()).unwrap();
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let times = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    (times, start.elapsed())
}

/// What a caller's refused request leaves: nothing stays open.
fn entry() -> Entry {
    Entry {
        api: Some(Api::AttachVolume),
        subject: "azote:service/control-plane".parse().ok(),
        resources: vec![Resource::Volume(ids::VolumeId::from_random(1))],
        code: "volume.exists".parse().ok(),
        trusted: true,
        ..Entry::new(RecordKind::Refusal)
    }
}

/// How many bytes each write of the log had.
fn lengths(path: &Path, key: &LogKey) -> Vec<usize> {
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let segments = files.iter().map(|file| host_log::read(key, &fs::read(file).unwrap()).unwrap().unwrap());
    segments.flat_map(|segment| segment.frames).map(|frame| frame.at.len()).collect()
}

fn write_plain(file: &mut File, lengths: &[usize]) -> Vec<Duration> {
    let write = |length: &usize| {
        let block = vec![0xa5; *length];
        let start = Instant::now();
        file.write_all(&block).unwrap();
        file.sync_data().unwrap();
        start.elapsed()
    };
    lengths.iter().map(write).collect()
}
