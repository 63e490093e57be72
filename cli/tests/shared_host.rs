//! Several tenants on one host, everything real: placement, launcher, a hypervisor process each, encrypted volumes,
//! consoles sealed to their tenants, hot-plug. The guests check their machines themselves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, which tell what they skip"
)]

mod common;

use common::{Down, azote, code, json};
use guest::report::{Line, Lines, Verdict};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const WORDS: &str = "only=console only=smbios only=memory only=timer only=idle only=nvme only=nvme-data only=nvme-queues only=hotplug";

/// Why machines cannot be run here, if they cannot.
fn skipped(test: &str) -> bool {
    let why = guest::scenario::missing();
    if let Some(why) = &why {
        println!("skipped: {test}: {why}");
    }
    why.is_some()
}

/// Starts a host whose instances start with the self-checking guest.
fn up(state: &Path, words: &str, more: &[&str]) {
    let kernel = state.with_extension("elf");
    fs::write(&kernel, guest::IMAGE).unwrap();
    let mut all = vec!["up", "--hypervisor", "always", "--guest-kernel", kernel.to_str().unwrap()];
    all.extend(["--guest-command-line", words]);
    all.extend(more);
    let up = azote(state, &all);
    assert!(up.status.success(), "{:#}", json(&up));
}

fn done(state: &Path, words: &[&str]) -> Value {
    let output = azote(state, words);
    assert!(output.status.success(), "{words:?}: {:#}", json(&output));
    json(&output)
}

fn volume(state: &Path) -> String {
    done(state, &["volume", "create", "--size", "64MiB"])["id"].as_str().unwrap().to_owned()
}

fn instance(state: &Path, kind: &str, root: &str) -> String {
    let started = done(state, &["instance", "start", "--type", kind, "--root", root]);
    started["instance"].as_str().unwrap().to_owned()
}

fn state_of(status: &Value, instance: &str) -> String {
    let all = status["instances"].as_array().unwrap();
    let known = all.iter().find(|known| known["instance"] == instance);
    known.map_or_else(String::new, |known| known["state"].as_str().unwrap().to_owned())
}

/// One tenant: an instance, a second volume, and what its console says.
struct Tenant {
    instance: String,
    later: String,
    lines: Lines,
    next: u64,
    good: usize,
    ended: bool,
}

impl Tenant {
    fn new(state: &Path, kind: &str) -> Self {
        let (root, later) = (volume(state), volume(state));
        let instance = instance(state, kind, &root);
        Self { instance, later, lines: Lines::default(), next: 0, good: 0, ended: false }
    }

    /// Reads its console and does what its guest asks for.
    fn serve(&mut self, state: &Path) {
        let after = self.next.to_string();
        let console = done(state, &["instance", "console", &self.instance, "--after", &after]);
        self.next = console["next"].as_u64().unwrap();
        for line in self.lines.take(console["output"].as_str().unwrap().as_bytes()) {
            match Line::parse(&line) {
                Line::Check(check) => {
                    assert_eq!(check.verdict, Verdict::Ok, "{line}");
                    self.good += 1;
                }
                Line::Request(request) => match request.as_str() {
                    "attach" => {
                        done(state, &["volume", "attach", &self.later, "--instance", &self.instance]);
                    }
                    "detach" => {
                        done(state, &["volume", "detach", &self.later]);
                    }
                    other => panic!("the guest asks for {other}"),
                },
                Line::End(_) => self.ended = true,
                Line::Other(_) => {}
            }
        }
    }
}

#[test]
fn tenants_share_a_host_take_turns_and_read_their_own_consoles() {
    if skipped("tenants_share_a_host_take_turns_and_read_their_own_consoles") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    up(&state, WORDS, &[]);
    let before = done(&state, &["status"]);
    assert_eq!(before["in_service"], true, "{before:#}");
    let mut tenants = [Tenant::new(&state, "t2.nano"), Tenant::new(&state, "t2.nano")];
    let begun = Instant::now();
    while tenants.iter().any(|tenant| !tenant.ended) {
        assert!(begun.elapsed() < Duration::from_secs(120), "the guests never end");
        tenants.iter_mut().for_each(|tenant| tenant.serve(&state));
    }
    for tenant in &tenants {
        assert_eq!(tenant.good, WORDS.split(' ').count());
        wait(|| state_of(&done(&state, &["status"]), &tenant.instance) == "off");
    }
    let after = done(&state, &["status"]);
    for what in ["free_cores", "free_memory_mib"] {
        assert_eq!(before["hypervisor"][what], after["hypervisor"][what], "{what}");
    }
    let kernel = &after["instances"][0]["measurement"];
    assert!(kernel.is_null() || kernel["kernel"].as_str().unwrap().len() == 64);
    // Neither a console nor a volume is to be read on the host.
    let plain = |path: &Path| fs::read(path).is_ok_and(|bytes| find(&bytes, b"azote-guest 1"));
    assert!(!files(&state.join("host")).iter().chain(&files(&state.join("run"))).any(|path| plain(path)));
    // The status may tell it before the log does.
    wait(|| String::from_utf8_lossy(&azote(&state, &["log"]).stdout).contains("instance.off"));
    for tenant in &tenants {
        done(&state, &["instance", "stop", &tenant.instance]);
        let console = done(&state, &["instance", "console", &tenant.instance]);
        assert!(console["output"].as_str().unwrap().contains("azote-guest 1"), "kept after the end");
    }
}

#[test]
fn a_hypervisor_that_breaks_out_is_ended_and_told() {
    if skipped("a_hypervisor_that_breaks_out_is_ended_and_told") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    // Without its answer the guest waits for the first hot-plug.
    up(&state, "only=timer only=hotplug", &[]);
    let (victim, other) =
        (instance(&state, "t2.nano", &volume(&state)), instance(&state, "t2.nano", &volume(&state)));
    let controller = fs::read_to_string(state.join("run/controller.pid")).unwrap();
    let hypervisors = descendants(controller.split(' ').next().unwrap());
    assert_eq!(hypervisors.len(), 2, "{hypervisors:?}");
    // As the kernel does it for a call that the sandbox forbids.
    assert!(Command::new("kill").args(["-SYS", &hypervisors[0]]).status().unwrap().success());
    let failed = || {
        let status = done(&state, &["status"]);
        [&victim, &other].map(|id| state_of(&status, id)).iter().filter(|state| *state == "failed").count()
    };
    wait(|| failed() == 1);
    let told = || {
        let log = azote(&state, &["log"]);
        String::from_utf8_lossy(&log.stdout).contains("\"code\":\"sandbox.")
    };
    wait(told);
    assert_eq!(failed(), 1, "the other one goes on");
}

#[test]
fn a_production_host_that_cannot_keep_tenants_apart_starts_none() {
    if skipped("a_production_host_that_cannot_keep_tenants_apart_starts_none") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("host");
    let _down = Down(&state);
    up(&state, WORDS, &["--production"]);
    let status = done(&state, &["status"]);
    let weaknesses = status["hypervisor"]["weaknesses"].as_array().unwrap().len();
    let start = azote(&state, &["instance", "start", "--type", "t2.nano", "--root", &volume(&state)]);
    assert_eq!(start.status.success(), weaknesses == 0, "{status:#}");
    if weaknesses > 0 {
        assert_eq!(code(&start), "host.not-isolated");
    }
    let none = azote(&state, &["instance", "start", "--type", "t9.none", "--root", &volume(&state)]);
    assert_eq!((none.status.code(), code(&none)), (Some(2), "usage".to_owned()));
}

fn wait(come: impl Fn() -> bool) {
    let begun = Instant::now();
    while !come() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it never came");
        sleep(Duration::from_millis(200));
    }
}

fn find(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The hypervisors that a process started, or processes that it started.
fn descendants(of: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let mut found = Vec::new();
    for child in children.split_whitespace() {
        let name = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if name.starts_with(b"azote-hypervisor") {
            found.push(child.to_owned());
        }
        found.extend(descendants(child));
    }
    found
}
