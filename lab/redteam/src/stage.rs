//! The installation, the crew, and what the red team has brought along.

use crate::{
    Outcome,
    crew::Crew,
    inbox::Inbox,
    rack::{Rack, Unit},
};
use audit::client::SourceStatus;
use rustix::{
    fs::{FlockOperation, flock},
    process::Signal,
};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// After so long the audit service calls a source silent, here; by default it waits longer, for real networks.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// Longest that a scenario waits for its own alarm before it puts things right again.
const ALARM: Duration = Duration::from_secs(20);

/// The programs that have a build with the shim inside.
const SHIMMED: [&str; 2] = ["azote-controller", "azote-volume-card"];
/// Where that shim takes its orders.
const ORDERS: &str = env!("ORDERS");

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
        let orders = shims(programs, &tools)?;
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

/// A folder with every program of another, as links; in place of the one that it is named after, its shimmed build.
fn links(programs: &Path, folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(programs)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(short) = name.to_str().and_then(|name| name.strip_prefix("azote-")) else { continue };
        let shimmed = folder.file_name() == Some(&name);
        let from = if shimmed { programs.join(format!("shimmed-{short}")) } else { entry.path() };
        symlink(from, folder.join(&name))?;
    }
    Ok(())
}

/// Puts each shimmed program among all the others as they are; gives the file through which the shim takes orders.
fn shims(programs: &Path, tools: &Path) -> Outcome<File> {
    for program in SHIMMED {
        let folder = tools.join(program);
        links(programs, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    let failed = |e: std::io::Error| format!("{ORDERS}: {e}");
    let orders = File::options().read(true).write(true).create(true).truncate(false).open(ORDERS);
    let orders = orders.map_err(failed)?;
    flock(&orders, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| format!("{ORDERS} is in use: one red team at a time"))?;
    orders.write_all_at(&[0; 16], 0).map_err(failed)?;
    Ok(orders)
}
