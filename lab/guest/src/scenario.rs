//! The self-checking guest in machines of several shapes, and what must be seen from outside.

use crate::{
    Error, IMAGE, bell,
    card::Card,
    report::{Check, Line, Verdict},
    rig::{Rig, Size, sealed},
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use wire::hypervisor::{Request, State};

/// How often the console is read.
const PACE: Duration = Duration::from_millis(2);
/// How long a machine that moves stays in one process.
const MOVE: Duration = Duration::from_millis(30);
/// The slot of the function that is there from the start, and of those that come later.
const BOOT_SLOT: u8 = 3;
const LATER_SLOT: u8 = 7;
/// The slot of the function that only rings.
const BELL_SLOT: u8 = 9;
/// Bytes of a test volume.
const VOLUME: u64 = 64 << 20;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs(pub PathBuf);

impl Programs {
    /// The hypervisor.
    pub fn hypervisor(&self) -> PathBuf {
        self.0.join("azote-hypervisor")
    }

    /// The volume card.
    pub fn card(&self) -> PathBuf {
        self.0.join("azote-volume-card")
    }

    /// The attestation card.
    pub fn attestation_card(&self) -> PathBuf {
        self.0.join("azote-attestation-card")
    }

    /// What uses a TPM for all that it can.
    pub fn tpm_check(&self) -> PathBuf {
        self.0.join("examples/tpm-check")
    }
}

/// One run of the guest.
#[derive(Debug)]
pub struct Run {
    /// What it reported.
    pub checks: Vec<Check>,
    /// Whether it came to its last line.
    pub ended: bool,
    /// How its machine was in the end.
    pub state: State,
    /// How often it went to another process.
    pub moves: u32,
    /// Most resident memory of the hypervisor that is not the guest's, in KiB.
    pub own_kib: u64,
    /// Nanoseconds since 1970 just before the process was started.
    pub started: u128,
}

/// A row that says how something went.
pub fn row(name: &str, good: bool, text: impl Into<String>) -> Check {
    let verdict = if good { Verdict::Ok } else { Verdict::Failed };
    Check { name: name.to_owned(), verdict, text: text.into() }
}

struct Stage<'a> {
    programs: &'a Programs,
    rig: Rig,
    later: Option<Card>,
    /// How often the machine goes to another process, if it does.
    moves: Option<Duration>,
    /// Whether the tenant is to type a line as soon as it hears from the machine again.
    owes_line: bool,
}

impl Stage<'_> {
    /// Does what the guest asks for.
    fn serve(&mut self, request: &str) -> Result<(), Error> {
        match request {
            "attach" => {
                let card = match &mut self.later {
                    Some(card) => card,
                    none => none.insert(Card::start(&self.programs.card())?),
                };
                let function = card.volume(VOLUME, &[])?;
                self.rig.ask(&Request::Attach { slot: LATER_SLOT }, &[&function])
            }
            "detach" => self.rig.ask(&Request::Detach { slot: LATER_SLOT, force: false }, &[]),
            "pull" => self.rig.ask(&Request::Detach { slot: LATER_SLOT, force: true }, &[]),
            "move" => {
                self.owes_line = true;
                self.rig.move_on(&self.programs.hypervisor()).map(drop)
            }
            "lose" => {
                self.later = None;
                Ok(())
            }
            other => Err(Error::Unexpected(format!("the guest asks for {other:?}"))),
        }
    }

    fn watch(mut self, limit: Duration, mut run: Run) -> Result<Run, Error> {
        let begun = Instant::now();
        let (mut looked, mut moved) = (Instant::now(), Instant::now());
        loop {
            let state = self.rig.statistics()?.state;
            // The lines after the state: none is missed when the machine has just ended.
            for line in self.rig.lines()? {
                match Line::parse(&line) {
                    Line::Check(check) => run.checks.push(check),
                    Line::Request(request) => self.serve(&request)?,
                    Line::End(_) => run.ended = true,
                    Line::Other(_) if self.owes_line => {
                        self.rig.type_line("moved")?;
                        self.owes_line = false;
                    }
                    Line::Other(_) => {}
                }
            }
            if looked.elapsed() > Duration::from_millis(50) || state != State::Running {
                run.own_kib = run.own_kib.max(own_memory(self.rig.pid())?);
                looked = Instant::now();
            }
            if state != State::Running || begun.elapsed() > limit {
                run.state = state;
                self.rig.stop()?;
                return Ok(run);
            }
            // The first check measures the timer, which must stand still for no move.
            if self.moves.is_some_and(|pace| moved.elapsed() > pace) && !run.checks.is_empty() {
                run.moves += u32::from(self.rig.move_on(&self.programs.hypervisor())?);
                moved = Instant::now();
            }
            sleep(PACE);
        }
    }
}

/// Resident memory of a process in KiB, without mappings that are as large as a guest's memory. Where only root may
/// look at mappings: without everything shared, which is the same for a process whose guest's memory is a file.
pub fn own_memory(pid: u32) -> Result<u64, Error> {
    const GUEST_KIB: u64 = 60 << 10;
    let number = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let Ok(mappings) = fs::read_to_string(format!("/proc/{pid}/smaps")) else {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let own = |line: &&str| line.starts_with("RssAnon:") || line.starts_with("RssFile:");
        return Ok(status.lines().filter(own).filter_map(number).sum());
    };
    let (mut total, mut size) = (0, 0);
    for line in mappings.lines() {
        if line.starts_with("Size:") {
            size = number(line).unwrap_or_default();
        } else if line.starts_with("Rss:") && size < GUEST_KIB {
            total += number(line).unwrap_or_default();
        }
    }
    Ok(total)
}

/// Runs the guest with `words` on its command line; with a volume card's function from the start if asked.
pub fn run(
    programs: &Programs,
    size: &Size,
    words: &str,
    volume: bool,
    limit: Duration,
) -> Result<Run, Error> {
    run_moving(programs, size, words, volume, limit, None)
}

/// The same, and the machine goes to another process every so often.
fn run_moving(
    programs: &Programs,
    size: &Size,
    words: &str,
    volume: bool,
    limit: Duration,
    moves: Option<Duration>,
) -> Result<Run, Error> {
    let kernel = sealed("guest", IMAGE)?;
    let mut card = if volume { Some(Card::start(&programs.card())?) } else { None };
    let started = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let rig = Rig::start(&programs.hypervisor())?;
    rig.create(size, words, &kernel, None)?;
    if let Some(card) = &mut card {
        let function = card.volume(VOLUME, &[])?;
        rig.ask(&Request::Attach { slot: BOOT_SLOT }, &[&function])?;
    }
    if words == "exits" {
        rig.ask(&Request::Attach { slot: BELL_SLOT }, &[&bell::start()?])?;
    }
    rig.ask(&Request::Resume, &[])?;
    let run = Run { checks: Vec::new(), ended: false, state: State::Running, moves: 0, own_kib: 0, started };
    Stage { programs, rig, later: None, moves, owes_line: false }.watch(limit, run)
}

/// Every scenario, one after the other; `said` hears of each check as its machine ends.
pub fn all(programs: &Programs, said: &mut dyn FnMut(&Check)) -> Result<Vec<Check>, Error> {
    let mut rows = Vec::new();
    let mut add = |check: Check| {
        said(&check);
        rows.push(check);
    };
    let size = |cpus, memory_mib| Size { cpus, memory_mib };
    let limit = Duration::from_secs(60);
    let whole = run(programs, &size(2, 128), "", true, limit)?;
    let good = whole.ended && whole.state == State::Off;
    whole.checks.into_iter().for_each(&mut add);
    add(row("soft-off", good, format!("{:?}", whole.state)));
    for (name, words, shape) in [
        ("smallest-memory", "only=memory", size(1, 64)),
        ("memory-past-4-gib", "only=memory", size(1, 5 << 10)),
        ("eight-processors", "only=timer only=processors", size(8, 64)),
    ] {
        let run = run(programs, &shape, words, false, limit)?;
        let last = run.checks.last().map_or_else(String::new, |check| check.text.clone());
        let good = run.ended
            && run.state == State::Off
            && run.checks.iter().all(|check| check.verdict == Verdict::Ok);
        add(row(name, good, last));
    }
    let words = "only=timer only=processors only=nvme only=nvme-data only=nvme-queues only=nvme-restart";
    let moved = run_moving(programs, &size(2, 128), words, true, limit, Some(MOVE))?;
    let failed = moved.checks.iter().find(|check| check.verdict == Verdict::Failed);
    let text = failed.map_or_else(String::new, |check| format!(", {}: {}", check.name, check.text));
    let good = moved.ended && moved.state == State::Off && moved.moves > 0 && text.is_empty();
    add(row("other-processes", good, format!("{} moves under load{text}", moved.moves)));
    for (name, words, wanted) in [
        ("memory-after-another", "plant", State::Off),
        ("triple-fault", "fault", State::Reset),
        ("reset", "reset", State::Reset),
        ("console-flood", "flood", State::Off),
    ] {
        let run = run(programs, &size(1, 128), words, false, limit)?;
        let mut good = run.state == wanted;
        let mut text = format!("{:?}, {} KiB of the process's own", run.state, run.own_kib);
        if words == "plant" {
            let next = self::run(programs, &size(1, 128), "only=memory", false, limit)?;
            good &= next.ended && next.checks.iter().all(|check| check.verdict == Verdict::Ok);
            text = next.checks.last().map_or_else(String::new, |check| check.text.clone());
        }
        add(row(name, good, text));
    }
    Ok(rows)
}

/// Why the guest cannot be run here, if it cannot.
pub fn missing() -> Option<String> {
    let open = fs::File::options().read(true).write(true).open("/dev/kvm");
    open.err().map(|error| format!("/dev/kvm: {error}"))
}

/// What virtualisation this machine's processor has: its name for people, and whether it runs kernels.
pub fn virtualisation() -> (&'static str, bool) {
    let flags = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    match (has("vmx"), has("svm")) {
        (true, _) => ("VMX", true),
        (_, true) => ("SVM", true),
        _ => ("neither VMX nor SVM", false),
    }
}
