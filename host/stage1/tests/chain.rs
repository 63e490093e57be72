//! The boot ROM and stage 1 as programs, on a software TPM: what starts, what was measured, and every refusal. This
//! program is also the controller that they start, under the name by which it is called.

// A test without libtest's harness is not a #[test] to clippy.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use boot_rom::{
    events::{Events, MAX_PCR, ROM_PCR, STAGE_1_PCR},
    header::HEADER,
    record::{FLOOR_INDEX, RECORD_INDEX, Record},
};
use ids::Environment;
use parts::{Parts, Tool};
use release::{Folder, Kind, Make, Report, RootKey, Stage1, burn_fuse, sha256};
use std::{
    fs::{self, File},
    io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::{Duration, Instant},
};
use tpm::{Measurement, Tpm};

const STAGE1: &str = env!("CARGO_BIN_EXE_azote-stage1");

/// A host: fuse, release, TPM.
struct Host {
    scratch: tempfile::TempDir,
    key: RootKey,
    tpm: Option<Child>,
}

/// The "controller": says what it was given.
fn controller(arguments: &[String]) {
    io::copy(&mut File::open("/proc/self/fd/3").unwrap(), &mut io::stdout()).unwrap();
    std::env::vars_os().for_each(|(name, value)| eprintln!("{}={}", name.display(), value.display()));
    eprintln!("arguments: {}", arguments.join(" "));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", status.lines().find(|line| line.starts_with("NoNewPrivs")).unwrap());
    let open = (0..300).filter(|number| Path::new(&format!("/proc/self/fd/{number}")).exists());
    open.for_each(|number| eprintln!("open: {number}"));
}

impl Host {
    fn new() -> Option<Self> {
        let Ok(parts) = Parts::locate(&parts::default_dir()) else {
            println!("skipped: the lab's parts are not there");
            return None;
        };
        let (scratch, key) = (tempfile::tempdir().unwrap(), RootKey::generate().unwrap());
        burn_fuse(&scratch.path().join("fuse"), &key.fingerprint()).unwrap();
        let mut host = Self { scratch, key, tpm: None };
        host.release("release", 3, Environment::NonProduction);
        host.power_cycle(&parts);
        Some(host)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn release(&self, name: &str, svn: u32, environment: Environment) {
        let own = std::env::current_exe().unwrap();
        let images = [(Kind::Stage1, STAGE1.as_ref()), (Kind::Controller, own.as_path())];
        let images =
            images.map(|(kind, path)| (kind, kind.name().to_owned(), fs::read(path).unwrap())).to_vec();
        Make { version: "1.2", svn, environment, images }.write(&self.path(name), &self.key).unwrap();
    }

    fn power_cycle(&mut self, parts: &Parts) {
        self.stop();
        let state = self.path("tpm-state");
        fs::create_dir_all(&state).unwrap();
        let mut swtpm = parts.command(Tool::Swtpm);
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={}", state.display())).arg("--server");
        swtpm.arg(format!("type=unixio,path={},mode=0600", self.path("tpm").display()));
        self.tpm = Some(swtpm.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.path("tpm")).is_err() {
            assert!(Instant::now() < deadline, "swtpm does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        if let Some(mut tpm) = self.tpm.take() {
            tpm.kill().unwrap();
            tpm.wait().unwrap();
            let _ = fs::remove_file(self.path("tpm"));
        }
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(boot_rom_image::PROGRAM);
        for (flag, name) in [("--fuse", "fuse"), ("--tpm", "tpm"), ("--report", "report")] {
            command.arg(flag).arg(self.path(name));
        }
        command.arg("--stage1").arg(self.path("release/stage-1")).args(flags).arg("--");
        for (flag, name) in [("--tpm", "tpm"), ("--report", "report"), ("--release", "release")] {
            command.arg(flag).arg(self.path(name));
        }
        command.args(["--", "first", "second"]).env("LD_PRELOAD", "/nowhere");
        command
    }

    fn start(&mut self) -> Output {
        self.power_cycle(&Parts::locate(&parts::default_dir()).unwrap());
        self.command(&[]).output().unwrap()
    }

    /// Nothing started, and the report says why. Gives the code.
    fn refused(&mut self) -> String {
        let output = self.start();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "something ran");
        let report = Report::read(&self.path("report")).unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains(&report.code));
        fs::remove_file(self.path("report")).unwrap();
        let pcrs = self.pcrs();
        let capped = if report.stage == "rom" { ROM_PCR } else { STAGE_1_PCR };
        let reached = !matches!(report.code.as_str(), "rom.fuse" | "rom.arguments");
        assert_eq!(
            pcrs[&capped] != [0; 32],
            reached,
            "a refusal is measured, so that nobody goes on from there"
        );
        assert_eq!(pcrs[&11], [0; 32]);
        report.code
    }

    fn tpm(&self) -> Tpm {
        Tpm::connect(&self.path("tpm")).unwrap()
    }

    fn pcrs(&self) -> tpm::PcrValues {
        self.tpm().pcr_read(&(0..=MAX_PCR).collect::<Vec<_>>()).unwrap()
    }

    /// Flips a bit of a file for the time of `with`.
    fn with_changed<T>(&mut self, name: &str, at: usize, with: impl FnOnce(&mut Self) -> T) -> T {
        let path = self.path(name);
        let (good, mode) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().permissions());
        let mut bad = good.clone();
        bad[at] ^= 1;
        replace(&path, &bad, mode.clone());
        let done = with(self);
        replace(&path, &good, mode);
        done
    }

    fn enrol(&self, environment: boot_rom::Environment, floor: u32) {
        let mut tpm = self.tpm();
        let floor_base = tpm.nv_define_counter(&[], FLOOR_INDEX).unwrap();
        let record = Record { environment, host: *b"h-0123456789abcdef0", floor_base };
        tpm.nv_write_once(&[], RECORD_INDEX, &record.write()).unwrap();
        for _ in 0..floor {
            tpm.nv_increment(&[], FLOOR_INDEX).unwrap();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

fn replace(path: &Path, bytes: &[u8], mode: fs::Permissions) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

fn an_intact_host_starts_and_what_it_measured_is_in_the_tpm() {
    let Some(mut host) = Host::new() else { return };
    fs::write(host.path("report"), "an old one").unwrap();
    let output = host.start();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!host.path("report").exists(), "a start that goes on has no report");
    let events = Events::parse(&output.stdout).unwrap();
    let file = |name: &str| sha256(&[&fs::read(host.path(name)).unwrap()]);
    let expected = [
        (8, "root key", host.key.fingerprint()),
        (8, "stage 1", file("release/stage-1")),
        (9, "release", file("release/manifest")),
        (9, "controller", file("release/controller")),
    ];
    let measured: Vec<_> = events
        .iter()
        .map(|event| Measurement {
            pcr: event.pcr(),
            digest: event.sha256(),
            description: event.name().to_owned(),
        })
        .collect();
    let expected =
        expected.map(|(pcr, name, digest)| Measurement { pcr, digest, description: name.to_owned() });
    assert_eq!(measured, expected);
    let replayed = tpm::replay(&measured).unwrap();
    for (pcr, value) in host.pcrs() {
        assert_eq!(replayed.get(&pcr).copied().unwrap_or_default(), value, "PCR {pcr}");
    }
    assert!(said.contains("arguments: first second") && said.contains("NoNewPrivs:\t1"), "{said}");
    let open: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("open: ")).collect();
    assert_eq!(open, ["0", "1", "2", "3"], "{said}");
    assert!(!said.contains("LD_PRELOAD"), "nobody's environment reaches a stage: {said}");
}

fn a_start_needs_a_power_cycle() {
    let Some(mut host) = Host::new() else { return };
    assert!(host.start().status.success());
    let output = host.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(Report::read(&host.path("report")).unwrap().code, "rom.tpm");
}

fn every_changed_part_is_refused_by_the_stage_that_looks_at_it() {
    let Some(mut host) = Host::new() else { return };
    let signed = HEADER - 64;
    let image = HEADER + 5000;
    for (file, at, code) in [
        ("fuse", 0, "rom.fuse"),
        ("fuse", 20, "rom.root-key"),
        ("release/stage-1", 0, "rom.header"),
        ("release/stage-1", 27, "rom.signature"),
        ("release/stage-1", signed - 1, "rom.root-key"),
        ("release/stage-1", signed + 1, "rom.signature"),
        ("release/stage-1", image, "rom.hash"),
        ("release/manifest", 60, "stage-1.signature"),
        ("release/controller", 5000, "stage-1.controller"),
    ] {
        assert_eq!(host.with_changed(file, at, Host::refused), code, "byte {at} of {file}");
    }
    let path = host.path("release/stage-1");
    let good = fs::read(&path).unwrap();
    for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat(), &good[..HEADER]] {
        fs::write(&path, bad).unwrap();
        assert_eq!(host.refused(), "rom.hash", "{} bytes", bad.len());
    }
    fs::write(&path, &good[..HEADER - 1]).unwrap();
    assert_eq!(host.refused(), "rom.header");
    fs::write(&path, good).unwrap();
    fs::set_permissions(host.path("fuse"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(host.refused(), "rom.fuse", "what can be written is no fuse");
    fs::set_permissions(host.path("fuse"), fs::Permissions::from_mode(0o444)).unwrap();
    assert!(host.start().status.success());
}

fn a_stage_that_is_not_whole_is_refused_by_the_one_before() {
    let Some(mut host) = Host::new() else { return };
    let linked = fs::read("/bin/sh").unwrap();
    let stage1 = Stage1::sign(&linked, Environment::NonProduction, 3, "1.2", &host.key).unwrap();
    let path = host.path("release/stage-1");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &stage1.bytes).unwrap();
    assert_eq!(host.refused(), "rom.program");
    fs::write(&path, good).unwrap();
    let mut manifest = Folder::open(&host.path("release"), &host.key.public()).unwrap().manifest;
    let image = manifest.images.iter_mut().find(|image| image.kind == Kind::Controller).unwrap();
    (image.length, image.sha256) = (linked.len() as u64, sha256(&[&linked]));
    fs::write(host.path("release/controller"), linked).unwrap();
    fs::write(host.path("release/manifest"), manifest.sign(host.key.pair()).unwrap()).unwrap();
    assert_eq!(host.refused(), "stage-1.program");
}

fn rollback_and_foreign_environments_are_refused() {
    let Some(mut host) = Host::new() else { return };
    host.enrol(boot_rom::Environment::NonProduction, 3);
    assert!(host.start().status.success(), "the floor itself is new enough");
    host.tpm().nv_increment(&[], FLOOR_INDEX).unwrap();
    assert_eq!(host.refused(), "rom.rollback");
    fs::rename(host.path("release"), host.path("old")).unwrap();
    host.release("release", 4, Environment::NonProduction);
    assert!(host.start().status.success());
    // A new stage 1 does not take an old manifest.
    fs::rename(host.path("release/manifest"), host.path("manifest")).unwrap();
    fs::copy(host.path("old/manifest"), host.path("release/manifest")).unwrap();
    assert_eq!(host.refused(), "stage-1.rollback");
    fs::remove_dir_all(host.path("release")).unwrap();
    host.release("release", 9, Environment::Production);
    assert_eq!(host.refused(), "rom.environment");
}

fn the_jumper_clears_the_tpm_and_nothing_else_can() {
    let Some(mut host) = Host::new() else { return };
    host.enrol(boot_rom::Environment::Production, 0);
    assert_eq!(host.refused(), "rom.environment");
    let parts = Parts::locate(&parts::default_dir()).unwrap();
    host.power_cycle(&parts);
    let output = host.command(&["--clear"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(host.tpm().nv_public(RECORD_INDEX).unwrap().is_none());
    host.enrol(boot_rom::Environment::NonProduction, 0);
    assert!(host.start().status.success());
}

fn without_a_tpm_nothing_starts() {
    let Some(mut host) = Host::new() else { return };
    host.stop();
    let output = host.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(Report::read(&host.path("report")).unwrap().code, "rom.tpm");
}

fn stage_1_alone_starts_nothing() {
    let Some(host) = Host::new() else { return };
    let mut command = Command::new(STAGE1);
    for (flag, name) in [("--tpm", "tpm"), ("--report", "report"), ("--release", "release")] {
        command.arg(flag).arg(host.path(name));
    }
    let output = command.args(["--", "ran"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert_eq!(Report::read(&host.path("report")).unwrap().code, "stage-1.start");
    let usage = Command::new(STAGE1).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0] == "azote-controller" {
        return controller(&arguments[1..]);
    }
    let wanted = |name: &str| {
        !arguments.iter().skip(1).any(|arg| !arg.starts_with('-') && !name.contains(arg.as_str()))
    };
    macro_rules! cases {
        ($($case:ident)*) => { [$((stringify!($case), $case as fn())),*] };
    }
    let cases = cases!(
        an_intact_host_starts_and_what_it_measured_is_in_the_tpm
        a_start_needs_a_power_cycle
        every_changed_part_is_refused_by_the_stage_that_looks_at_it
        a_stage_that_is_not_whole_is_refused_by_the_one_before
        rollback_and_foreign_environments_are_refused
        the_jumper_clears_the_tpm_and_nothing_else_can
        without_a_tpm_nothing_starts
        stage_1_alone_starts_nothing
    );
    for (name, case) in cases.into_iter().filter(|(name, _)| wanted(name)) {
        case();
        println!("test {name} ... ok");
    }
}
