//! The installation, the crew, and what the red team has brought along.

use crate::{
    Outcome,
    crew::Crew,
    inbox::Inbox,
    rack::{Rack, Unit},
};
use audit::client::SourceStatus;
use rustix::process::Signal;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// After so long the audit service calls a source silent, here; by default it waits longer, for real networks.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// Longest that a scenario waits for its own alarm before it puts things right again.
const ALARM: Duration = Duration::from_secs(20);

/// The programs that a scenario puts the shim into.
const SHIMMED: [&str; 2] = ["azote-controller", "azote-volume-card"];

/// Everything that scenarios use.
pub(crate) struct Stage {
    pub(crate) rack: Rack,
    pub(crate) crew: Crew,
    /// Where alarms arrive.
    pub(crate) inbox: Inbox,
    /// A second receiver, which can be closed.
    pub(crate) spare: Inbox,
    tools: PathBuf,
    programs: PathBuf,
    orders: File,
}

impl Stage {
    /// Starts an installation whose alarms go to both inboxes.
    pub(crate) fn start(programs: &Path, folder: &Path) -> Outcome<Self> {
        let state = folder.join("s");
        let tools = folder.join("tools");
        fs::create_dir_all(&tools).map_err(|e| e.to_string())?;
        let orders = build(programs, &tools)?;
        let mut rack = Rack::up(programs, &state, &[])?;
        let (inbox, spare) = (Inbox::open()?, Inbox::open()?);
        rack.again("audit", Signal::TERM, |unit| {
            let unit = unit.add("--webhook", &inbox.url()).add("--webhook", &spare.url());
            unit.set("--silence", &SILENCE.as_millis().to_string())
        })?;
        copy(&state.join("host/log"), &tools.join("early-log"))?;
        let crew = Crew::open(&state)?;
        Ok(Self { rack, crew, inbox, spare, tools, programs: programs.to_owned(), orders })
    }

    /// Runs the host with the shim inside one of its programs, which takes a release that the lab's own root key
    /// signed; then as before.
    pub(crate) fn shimmed<T>(
        &mut self,
        program: &str,
        attempt: impl FnOnce(&mut Self) -> Outcome<T>,
    ) -> Outcome<T> {
        let unit = self.rack.unit("controller")?;
        self.take(&self.tools.join(program), &unit)?;
        let tried = attempt(self);
        self.take(&self.programs.clone(), &unit)?;
        tried
    }

    fn take(&mut self, programs: &Path, unit: &Unit) -> Outcome<()> {
        let out = tempfile::tempdir_in(&self.tools).map_err(|e| e.to_string())?;
        self.rack.end("controller", Signal::TERM)?;
        self.rack.install(programs, out.path())?;
        self.rack.start(unit)
    }

    /// Sets the clock of shimmed processes this far from the machine's.
    pub(crate) fn set_clock(&self, seconds: i64) -> Outcome<()> {
        self.orders.write_all_at(&seconds.to_ne_bytes(), 0).map_err(|e| e.to_string())
    }

    /// Makes shimmed processes connect outward, once.
    pub(crate) fn connect_outward(&self) -> Outcome<()> {
        self.orders.write_all_at(&1_i64.to_ne_bytes(), 8).map_err(|e| e.to_string())
    }

    /// A copy of the host's log from the beginning of the run.
    pub(crate) fn early_log(&self) -> PathBuf {
        self.tools.join("early-log")
    }

    /// Waits until a rule has raised an alarm since a moment.
    pub(crate) fn told(&self, rule: &str, since: Instant) -> Outcome<()> {
        self.until(&format!("an alarm of {rule}"), ALARM, |stage| {
            stage.inbox.arrived().iter().any(|one| one.at >= since && one.alarm.rule == rule)
        })
    }

    /// Whether the audit service has read the host, and reads every source without anything wrong.
    pub(crate) fn is_read(&self) -> bool {
        self.has_read(1)
    }

    /// The same, and at least so many records of the host.
    pub(crate) fn has_read(&self, records: u64) -> bool {
        let status = self
            .crew
            .service("audit", "log-reader")
            .ok()
            .and_then(|client| self.crew.wait(audit::client::status(&client)).ok());
        status.is_some_and(|status| {
            let read = |source: &SourceStatus| source.source.starts_with("host/") && source.seq >= records;
            status.sources.iter().any(read) && status.sources.iter().all(|source| source.code.is_none())
        })
    }

    /// Waits until something is so.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        mut so: impl FnMut(&Self) -> bool,
    ) -> Outcome<()> {
        let start = Instant::now();
        while !so(self) {
            if start.elapsed() > limit {
                return Err(format!("{what}: not within {} s", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Copies a folder that has no folders in it over another.
pub(crate) fn copy(from: &Path, to: &Path) -> Outcome<()> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}

/// A folder with every program of another, as links, but for the one that the folder is named after.
fn links(programs: &Path, folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(programs)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("azote-") && folder.file_name() != Some(&name) {
            std::os::unix::fs::symlink(entry.path(), folder.join(name))?;
        }
    }
    Ok(())
}

/// Compiles the shim; gives the file through which it takes orders.
fn build(programs: &Path, tools: &Path) -> Outcome<File> {
    let orders = tools.join("orders");
    fs::write(&orders, [0; 16]).map_err(|e| e.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim");
    let shim = tools.join("shim.so");
    let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let mut outputs = vec![(
        shim.clone(),
        "shim.c",
        vec!["-shared".to_owned(), "-fPIC".to_owned(), text("ORDERS", &orders)],
    )];
    for program in SHIMMED {
        // All the other programs stay as they are.
        let folder = tools.join(program);
        links(programs, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let more = vec![text("SHIM", &shim), text("PROGRAM", &programs.join(program))];
        outputs.push((folder.join(program), "wrapper.c", more));
    }
    for (output, file, more) in outputs {
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O1", "-Wall", "-Werror", "-o"])
            .arg(output)
            .args(more)
            .arg(source.join(file))
            .arg("-ldl");
        let done = compiler.output().map_err(|e| format!("cc: {e}"))?;
        if !done.status.success() {
            return Err(format!("cc {file}: {}", String::from_utf8_lossy(&done.stderr)));
        }
    }
    File::options().read(true).write(true).open(&orders).map_err(|e| e.to_string())
}
