//! What a volume costs: I/O through the card (encrypted, by our own vfio-user client and NVMe driver, shadow
//! doorbells) beside the same I/O done directly with io_uring and no encryption, on the same file in the same
//! run. The card has one core, the client another; the direct I/O runs on the client's core.
//!
//! `volume-bench [--card BIN] [--dir DIR] [--size MIB] [--rounds N] [--time MS] [--only CASES] [--json]`
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::panic)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use clap::Parser;
use io_uring::{IoUring, opcode, types::Fixed};
use nvme::{
    Operation,
    driver::{Command, Options},
};
use rig::{Card, Disk, GUEST, Guest, boot};
use rustix::{
    fs::{Advice, fadvise},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    fs::File,
    os::fd::AsRawFd,
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Parser)]
struct Arguments {
    /// The card's binary, built for release; usually in the folder above this program's.
    #[arg(long)]
    card: Option<PathBuf>,
    /// Where the test file goes: on the disk to be measured. Usually the folder of the card's binary.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Size of the test file in MiB.
    #[arg(long, default_value_t = 1024)]
    size: u64,
    /// Rounds of each case.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Length of a round in milliseconds.
    #[arg(long, default_value_t = 400)]
    time: u64,
    /// Only the cases whose name holds this text: `page cache read 4K 32`.
    #[arg(long, default_value = "")]
    only: String,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    direct: bool,
    write: bool,
    bytes: u32,
    random: bool,
    depth: usize,
}

impl Case {
    fn name(&self) -> String {
        let path = if self.direct { "O_DIRECT" } else { "page cache" };
        let what = if self.write { "write" } else { "read" };
        format!("{path} {what} {}K {}", self.bytes / 1024, self.depth)
    }
}

fn cases(only: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for direct in [true, false] {
        for write in [false, true] {
            for depth in [1, 32, 128] {
                cases.push(Case { direct, write, bytes: 4096, random: true, depth });
            }
            cases.push(Case { direct, write, bytes: 128 << 10, random: false, depth: 32 });
        }
    }
    cases.retain(|case| case.name().contains(only));
    cases
}

/// Where the next I/O goes, in units of its size.
struct Places {
    random: bool,
    count: u64,
    state: u64,
}

impl Places {
    fn new(case: &Case, size: u64) -> Self {
        Self { random: case.random, count: size / u64::from(case.bytes), state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn next(&mut self) -> u64 {
        if self.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            self.state % self.count
        } else {
            self.state = (self.state + 1) % self.count;
            self.state
        }
    }
}

/// I/O operations in a second, through the card.
fn through_card(guest: &mut Guest, case: &Case, size: u64, time: Duration) -> f64 {
    let mut places = Places::new(case, size);
    let operation = if case.write { Operation::Write } else { Operation::Read };
    let blocks = case.bytes / 512;
    let mut free: Vec<u64> =
        (0..case.depth as u64).map(|index| GUEST / 2 + index * u64::from(case.bytes)).collect();
    let mut buffers = vec![0; 1 << 16];
    let (start, mut done, mut flying) = (Instant::now(), 0_u64, 0);
    let mut over = false;
    while !over || flying > 0 {
        let mut rung = false;
        while !over && let Some(buffer) = free.pop() {
            let lba = places.next() * u64::from(blocks);
            let command = Command { operation, lba, blocks, buffer, durable: false };
            let cid = guest.submit(0, &command).unwrap().unwrap();
            buffers[usize::from(cid)] = buffer;
            flying += 1;
            rung = true;
        }
        if rung {
            guest.ring(0).unwrap();
        }
        let before = done;
        while let Some(completion) = guest.reap(0).unwrap() {
            assert!(completion.status.is_success(), "{completion:?}");
            free.push(buffers[usize::from(completion.cid)]);
            flying -= 1;
            done += 1;
        }
        if done > before {
            guest.acknowledge(0).unwrap();
            over = start.elapsed() >= time;
        }
    }
    done as f64 / start.elapsed().as_secs_f64()
}

/// Plain io_uring on a file: registered file, completions by the submitting thread, buffers in memory of the
/// same kind as guest memory (a shared memory file).
struct Direct {
    ring: IoUring,
    ram: nvme_host::Shared,
}

impl Direct {
    fn new(file: &File) -> Self {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256).unwrap();
        ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
        Self { ring, ram: rig::ram() }
    }

    /// I/O operations in a second.
    fn run(&mut self, case: &Case, size: u64, time: Duration) -> f64 {
        let mut places = Places::new(case, size);
        let mut free: Vec<u64> = (0..case.depth as u64).collect();
        let (start, mut done, mut flying) = (Instant::now(), 0_u64, 0);
        let mut over = false;
        while !over || flying > 0 {
            while !over && let Some(slot) = free.pop() {
                let memory = self.ram.pointer(slot * u64::from(case.bytes)).unwrap().as_ptr();
                let offset = places.next() * u64::from(case.bytes);
                let entry = if case.write {
                    opcode::Write::new(Fixed(0), memory, case.bytes).offset(offset).build()
                } else {
                    opcode::Read::new(Fixed(0), memory, case.bytes).offset(offset).build()
                };
                // SAFETY: each slot has its own part of the memory, which lives on.
                unsafe { self.ring.submission().push(&entry.user_data(slot)) }.unwrap();
                flying += 1;
            }
            self.ring.submit_and_wait(1).unwrap();
            for completion in self.ring.completion() {
                assert_eq!(completion.result(), case.bytes.cast_signed());
                free.push(completion.user_data());
                flying -= 1;
                done += 1;
            }
            over = start.elapsed() >= time;
        }
        done as f64 / start.elapsed().as_secs_f64()
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Row {
    case: Case,
    card: f64,
    plain: f64,
    ratio: f64,
}

fn measure(arguments: &Arguments, size: u64, guests: &mut [Guest; 2], files: &[File; 2]) -> Vec<Row> {
    let mut plain = [Direct::new(&files[0]), Direct::new(&files[1])];
    let time = Duration::from_millis(arguments.time);
    let mut rows = Vec::new();
    for case in cases(&arguments.only) {
        prepare(&files[1], &case, size);
        let which = usize::from(!case.direct);
        let (mut card, mut direct, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..arguments.rounds {
            // Turn about, so that neither always comes second.
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    direct.push(plain[which].run(&case, size, time));
                } else {
                    card.push(through_card(&mut guests[which], &case, size, time));
                }
            }
            ratio.push(card[round] / direct[round]);
        }
        files[1].sync_data().unwrap();
        let (card, plain, ratio) = (median(&mut card), median(&mut direct), median(&mut ratio));
        rows.push(Row { case, card, plain, ratio });
        eprint!("\r{} cases measured", rows.len());
    }
    rows
}

/// Direct I/O on a file that is in the page cache is another matter; what is to come from there must be there.
fn prepare(cached: &File, case: &Case, size: u64) {
    if case.direct {
        cached.sync_data().unwrap();
        fadvise(cached, 0, None, Advice::DontNeed).unwrap();
    } else {
        let mut block = vec![0; 1 << 20];
        for offset in (0..size).step_by(1 << 20) {
            std::os::unix::fs::FileExt::read_exact_at(cached, &mut block, offset).unwrap();
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}

fn kilobytes(card: &Card, name: &str) -> u64 {
    card.proc_status(name).split(' ').next().unwrap().parse().unwrap()
}

fn main() {
    let arguments = Arguments::parse();
    let size = arguments.size << 20;
    let built = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let program = arguments.card.clone().unwrap_or(built.join("azote-volume-card"));
    let folder = tempfile::tempdir_in(arguments.dir.as_ref().unwrap_or(&built)).unwrap();
    let mut disks = [Disk::new(folder.path(), 1, size), Disk::new(folder.path(), 2, size)];
    disks[0].direct = true;
    std::fs::remove_file(disks[1].image()).unwrap();
    std::fs::hard_link(disks[0].image(), disks[1].image()).unwrap();
    let cached = disks[1].open();
    for offset in (0..size).step_by(1 << 20) {
        std::os::unix::fs::FileExt::write_all_at(&cached, &[0x5a; 1 << 20], offset).unwrap();
    }
    cached.sync_all().unwrap();

    let allowed = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let (first, second) = (cpus[0], *cpus.get(1).unwrap_or(&cpus[0]));
    // The card inherits its core, and keeps the kernel's workers there too.
    pin(first);
    let card = Card::start(&program);
    pin(second);
    disks.iter().for_each(|disk| assert_eq!(card.attach(disk), "done"));
    let options = Options { entries: 256, shadow_doorbells: true, ..Options::default() };
    let mut guests = [boot(&disks[0], &options), boot(&disks[1], &options)];
    let files = [disks[0].open(), cached];
    let rows = measure(&arguments, size, &mut guests, &files);

    std::thread::sleep(Duration::from_millis(200));
    let before = card.cpu_time();
    std::thread::sleep(Duration::from_secs(3));
    let idle = (card.cpu_time() - before) / 3.0;
    let resident = kilobytes(&card, "RssAnon") + kilobytes(&card, "RssFile");
    let guest = kilobytes(&card, "RssShmem");
    if arguments.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "direct": row.case.direct, "write": row.case.write, "bytes": row.case.bytes,
                    "random": row.case.random, "depth": row.case.depth,
                    "card_iops": row.card, "plain_iops": row.plain, "ratio": row.ratio,
                })
            })
            .collect();
        let all = serde_json::json!({
            "cases": rows, "resident_kib": resident, "bounce_kib": 4096, "guest_memory_kib": guest,
            "idle_cpu": idle,
        });
        println!("{all}");
        return;
    }
    print(&rows, resident, guest, idle);
}

fn print(rows: &[Row], resident: u64, guest: u64, idle: f64) {
    println!("\r{:<26} {:>12} {:>12} {:>6}", "", "card IO/s", "plain IO/s", "ratio");
    for Row { case, card, plain, ratio } in rows {
        println!("{:<26} {card:>12.0} {plain:>12.0} {ratio:>6.2}", case.name());
    }
    println!(
        "resident: {resident} KiB, of which up to 4096 are bounce buffers; guest memory mapped: {guest} KiB"
    );
    println!("idle: {:.2} % of a core", idle * 100.0);
}
