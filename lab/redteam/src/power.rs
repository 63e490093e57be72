//! How long a host takes from power to reset released, stage by stage; and to be attested and verified. It starts a
//! real installation and measures from outside; nothing in the host knows of it.

use crate::{
    Outcome,
    crew::{Ask, Crew, now},
    tamper::Host,
};
use attest::{Evidence, NONCE, Policy, Question};
use host_api::{Api, AttestHost, Nonce};
use serde::Serialize;
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How often it looks.
const LOOK: Duration = Duration::from_micros(100);
/// Who attests.
const AUDITOR: &str = "auditor";
/// What the chip says when the last line goes.
const RELEASED: &str = "reset released line=Cpu";
/// Times that the same evidence is verified.
const VERIFIED: u32 = 200;

/// Milliseconds, medians and the longest.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    median_ms: f64,
    longest_ms: f64,
}

/// Measures `runs` starts; a table or JSON.
pub fn run(programs: &Path, runs: usize, json: bool) -> Outcome<String> {
    let folder = tempfile::Builder::new().prefix("azote-rt-").tempdir().map_err(|e| e.to_string())?;
    let mut host = Host::new(programs, folder.path(), &[])?;
    let mut starts = Vec::new();
    for _ in 0..runs {
        starts.push(start(&mut host)?);
        host.stop()?;
    }
    let column = |at: usize| starts.iter().filter_map(|start| start.get(at).copied()).collect::<Vec<_>>();
    let mut rows = vec![
        row("the TPM's own start", column(0)),
        row("boot ROM", column(1)),
        row("stage 1", column(2)),
        row("controller, until reset is released", column(3)),
        row("power to reset released", starts.iter().map(|start| start.iter().sum()).collect()),
    ];
    rows.extend(attested(&mut host, runs)?);
    host.down()?;
    if json {
        return serde_json::to_string_pretty(&rows).map_err(|e| e.to_string());
    }
    let line = |row: &Row| format!("{:<38} {:>8.2} {:>8.2}", row.what, row.median_ms, row.longest_ms);
    let head = format!("{:<38} {:>8} {:>8}   ms, of {runs}", "", "median", "longest");
    Ok([head].into_iter().chain(rows.iter().map(line)).collect::<Vec<_>>().join("\n"))
}

fn row(what: &'static str, mut times: Vec<Duration>) -> Row {
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    Row { what, median_ms: ms(times.get(times.len() / 2)), longest_ms: ms(times.last()) }
}

/// One start: how long the TPM and each stage took.
fn start(host: &mut Host) -> Outcome<Vec<Duration>> {
    // The emulated board's own start is not the host's.
    host.power_board()?;
    let chip = host.path("run/chip.log");
    let power = Instant::now();
    host.power_tpm()?;
    let mut marks = vec![power, Instant::now()];
    let log = File::create(host.path("run/controller.log")).map_err(|e| e.to_string())?;
    let (program, words) = host.controller().words().split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let steps = || {
        for stage in ["azote-stage1", "azote-controller"] {
            until(stage, || runs(&child, stage))?;
            marks.push(Instant::now());
        }
        until(RELEASED, || fs::read_to_string(&chip).is_ok_and(|log| log.contains(RELEASED)))?;
        marks.push(Instant::now());
        Ok(marks.windows(2).filter_map(|pair| Some(pair.get(1)?.duration_since(*pair.first()?))).collect())
    };
    let measured = { steps }();
    child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
    measured
}

fn until(what: &str, so: impl Fn() -> bool) -> Outcome<()> {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether a process has become this program.
fn runs(child: &Child, program: &str) -> bool {
    fs::read(format!("/proc/{}/cmdline", child.id())).is_ok_and(|words| words.starts_with(program.as_bytes()))
}

/// Evidence for fresh nonces, and its verification.
fn attested(host: &mut Host, runs: usize) -> Outcome<[Row; 2]> {
    host.restore()?;
    host.power()?;
    let controller = host.controller().clone();
    host.spawn(&controller)?;
    let path = host.scratch("policy")?;
    host.azote(&["attest", "policy", "--out", &path.display().to_string()])?;
    let policy = fs::read(&path).map_err(|e| e.to_string())?;
    let policy = Policy::parse(&policy).map_err(|e| e.to_string())?;
    let crew = Crew::open(&host.path(""))?;
    let (mut asked, mut verified) = (Vec::new(), Vec::new());
    for number in 0..runs {
        let nonce = [u8::try_from(number % 250).unwrap_or_default(); NONCE];
        let token = crew.given(AUDITOR, &Ask::new(Api::AttestHost, crew.here()))?;
        let call = AttestHost { nonce: Nonce::from_bytes(&nonce) };
        let before = Instant::now();
        let answer = crew.call(AUDITOR, &token, &call)?.map_err(|code| format!("no evidence: {code}"))?;
        asked.push(before.elapsed());
        let json = serde_json::to_vec(&answer).map_err(|e| e.to_string())?;
        let evidence = Evidence::parse(&json).map_err(|e| e.to_string())?;
        let question = Question { nonce: &nonce, now: now() / 1000, crl: None, seen: None };
        let before = Instant::now();
        for _ in 0..VERIFIED {
            attest::verify(&evidence, &policy, &question).map_err(|e| e.to_string())?;
        }
        verified.push(before.elapsed() / VERIFIED);
    }
    host.stop()?;
    Ok([row("AttestHost, call and answer", asked), row("verify", verified)])
}
