//! The installation, the crew, and what the red team has brought along.

use crate::{
    Outcome,
    crew::Crew,
    inbox::Inbox,
    rack::{Rack, Unit},
};
use audit::client::SourceStatus;
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

/// Everything that scenarios use.
pub(crate) struct Stage {
    pub(crate) rack: Rack,
    pub(crate) crew: Crew,
    /// Where alarms arrive.
    pub(crate) inbox: Inbox,
    /// A second receiver, which can be closed.
    pub(crate) spare: Inbox,
    tools: PathBuf,
    orders: File,
}

impl Stage {
    /// Starts an installation whose alarms go to both inboxes.
    pub(crate) fn start(programs: &Path, folder: &Path) -> Outcome<Self> {
        let state = folder.join("s");
        let tools = folder.join("tools");
        fs::create_dir_all(&tools).map_err(|e| e.to_string())?;
        let orders = build(programs, &tools)?;
        let mut rack = Rack::up(programs, &state)?;
        let (inbox, spare) = (Inbox::open()?, Inbox::open()?);
        rack.again("audit", rustix::process::Signal::TERM, |unit| {
            let unit = unit.add("--webhook", &inbox.url()).add("--webhook", &spare.url());
            unit.set("--silence", &SILENCE.as_millis().to_string())
        })?;
        copy(&state.join("host/log"), &tools.join("early-log"))?;
        let crew = Crew::open(&state)?;
        Ok(Self { rack, crew, inbox, spare, tools, orders })
    }

    /// Puts the shim into a process that will be started.
    pub(crate) fn shimmed(&self, unit: Unit) -> Unit {
        unit.with("LD_PRELOAD", &self.tools.join("shim.so").display().to_string())
    }

    /// The program of a card with the shim inside.
    pub(crate) fn hostile_card(&self) -> String {
        self.tools.join("card").display().to_string()
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

/// Compiles the shim; gives the file through which it takes orders.
fn build(programs: &Path, tools: &Path) -> Outcome<File> {
    let orders = tools.join("orders");
    fs::write(&orders, [0; 16]).map_err(|e| e.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim");
    let shim = tools.join("shim.so");
    let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    let card = programs.join("azote-volume-card");
    for (output, file, more) in [
        (&shim, "shim.c", vec!["-shared".to_owned(), "-fPIC".to_owned(), text("ORDERS", &orders)]),
        (&tools.join("card"), "card.c", vec![text("SHIM", &shim), text("CARD", &card)]),
    ] {
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
