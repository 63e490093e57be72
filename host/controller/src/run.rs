//! From a power-on to an open door. Everything that needs a path, a program or a connection happens here, in
//! one thread; then the process confines itself; then it starts threads and reads input.

use crate::{
    boot::{
        self, Boot, Halt, compartments::Early, forget, measurements, out_of_service, start::Start,
        state::State,
    },
    chip::{Chip, Firmware},
    door::{self, Door, opens},
    firmware::Shelf,
    host::{Booted, Certificates, Eraser, Host, Identity, Rules},
    limits::{self, Bounds},
    log::{Entry, Log, Writer},
    settings::Settings,
};
use boot_rom::events::Events;
use host_api::OutOfService;
use host_log::LogKey;
use ids::HostId;
use sandbox::{Policy, SandboxError};
use service::{
    Callers, Served,
    process::{Failure, Home},
    server_config_of, stop_signal,
};
use std::{
    fs::DirBuilder,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::sleep,
    time::Duration,
};
use tokio::sync::Notify;
use tpm::Tpm;
use zeroize::Zeroizing;

mod opened;
mod papers;
mod parts;
mod threads;

use opened::{Opened, confirm};
use papers::{attester, authority, identify, instances_papers, settings};
pub(crate) use parts::connect;
use parts::{Brought, bring_up, failed, release};
use threads::Threads;

const SANDBOX: &str = include_str!("../../../sandbox/controller.toml");
/// Threads that serve connections, and threads that act: fixed, so that nothing has to be asked of the system.
const WORKERS: usize = 2;
const ACTORS: usize = 32;
/// Longest certificate chain in bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;
const MIB: u64 = 1024 * 1024;

/// How a controller is started.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// State and TPM
    #[command(flatten)]
    pub home: Home,
    /// The security chip's control socket
    #[arg(long, value_name = "SOCKET")]
    pub chip: PathBuf,
    /// The main board's control socket
    #[arg(long, value_name = "SOCKET")]
    pub board: PathBuf,
    /// Folder for the functions' sockets
    #[arg(long, value_name = "DIR")]
    pub functions: PathBuf,
    /// Folder with the volumes' backing files
    #[arg(long, value_name = "DIR")]
    pub volumes: PathBuf,
    /// This host's certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub certificate: PathBuf,
    /// The host that this must be; without it, the one that the certificate names
    #[arg(long, value_name = "ID")]
    pub host: Option<HostId>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where to write the address once connections are taken
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,
    /// The removable half of the store's key, for hosts that have one
    #[arg(long, value_name = "FILE")]
    pub security_key: Option<PathBuf>,
}

/// Boots the host and serves its door until SIGTERM or SIGINT. `handed`: what the stages before have measured.
/// `report`: where the report of an earlier start that came to nothing lies.
pub fn run(options: &Options, handed: Events, report: Option<&Path>) -> Result<(), Failure> {
    let state = State::new(&options.home.state);
    let mut chip = Chip::new(connect(&options.chip));
    // A controller that starts is a host that starts: whatever ran before is in reset from here on.
    let held = chip.hold_all();
    let flash = chip.measure();
    let mut boot = Boot::new(options.home.connect()?, handed);
    let begun = begin(options, &state, &mut boot, flash.as_ref().ok());
    let Begun { start, identity, served, settings, mut log, opened } = begun.inspect_err(|_| boot.close())?;
    let tls = server_config_of(Arc::clone(&served), Callers::Anyone)?;
    let (opened, mut unfit) = match opened {
        Ok(opened) => (Some(opened), None),
        Err(halt) => (None, halt.out_of_service()),
    };
    let (mut tpm, events) = boot.finish();
    let (images, custody, bounds) = opened.map(Opened::split).unwrap_or_default();
    let papers = instances_papers(&state, &identity, &events)?;
    let Brought { mut parts, hypervisors, objection } = bring_up(options, &start, chip, images, papers)?;
    unfit = failed("boot.chip", "the security chip", held.err().or(flash.as_ref().err().cloned()).as_ref())
        .or(unfit)
        .or(objection);
    let firmware = flash.ok();
    if let (None, Some(firmware)) = (&unfit, &firmware) {
        note(&mut log, Entry::event("host.releases-reset", &format!("firmware {firmware}")))?;
        unfit = release(&mut parts, firmware);
    }
    let lockout = custody.as_ref().map(|(custody, _)| Zeroizing::new(custody.lockout().to_vec()));
    if let (None, Some(custody)) = (&unfit, custody)
        && let Err(error) = confirm(&state, &start, custody, &mut tpm)
    {
        unfit = out_of_service("boot.tpm", &format!("the start cannot be confirmed: {error}"));
        parts.chip.hold_all()?;
    }
    note(&mut log, outcome(unfit.as_ref()))?;
    report.map_or(Ok(()), forget)?;
    let booted = booted(&mut tpm, &events, &start, firmware, unfit)?;
    let tpm = Arc::new(Mutex::new(tpm));
    let attester = Some(attester(&state, &start, &tpm)?);
    let environment = start.signed.set.environment;
    let eraser = lockout.map(|lockout| Eraser { tpm, lockout, environment });
    let certificates = Some(Certificates { served, authority: authority(&state)?, environment });
    let (firmware, shelf) = (start.expected(), Some(Shelf::open(&state, &start)));
    let hypervisors = hypervisors.map(|(hypervisors, facts)| (Arc::new(hypervisors), facts));
    let stop_grace = Duration::from_secs(start.configured.stop_grace);
    let rules = Rules { firmware, shelf, stop_grace, settings, hypervisors, attester, certificates, eraser };
    let limits = limits::Limits::new(bounds.unwrap_or(Bounds::CLOSED));
    let (clock, history) = (log.clock().clone(), log.take_history());
    // Only where the last run ended just now: who comes early would hear that a good proof is stale.
    let opened = opens(log.resumed());
    sleep(Duration::from_secs(opened).saturating_sub(clock.now()));
    let listener = service::bind(options.listen, options.address_file.as_deref())?;
    confine(options, &state, &start)?;
    let log = Writer::new(log);
    let turns = rules.hypervisors.as_ref().map(|(hypervisors, _)| Arc::clone(hypervisors));
    let host = Arc::new(Host::new(identity, parts, rules, booted, log.clone(), clock.clone()));
    let ended = host.ended();
    let threads = Threads::start(&host, turns, &clock, &log)?;
    let opened = opened.max(clock.seconds());
    let door = Arc::new(Door::new(host, log.clone(), clock, opened, limits, &history));
    let served = serve(listener, tls, door, &ended);
    threads.end();
    log.append(Entry { trusted: true, ..Entry::event("host.stopped", "") })?;
    Ok(served?)
}

/// What became of the start, as the log tells it.
fn outcome(unfit: Option<&OutOfService>) -> Entry {
    unfit.map_or_else(
        || Entry::event("host.in-service", ""),
        |reason| Entry::event("host.out-of-service", &format!("{}: {}", reason.code, reason.message)),
    )
}

/// What the start found, as the API tells it.
fn booted(
    tpm: &mut Tpm,
    events: &Events,
    start: &Start,
    firmware: Option<Firmware>,
    out_of_service: Option<OutOfService>,
) -> Result<Booted, Failure> {
    let registers = tpm.pcr_read(&boot::known_good::ALL.collect::<Vec<_>>())?;
    let (measurements, registers) = (measurements(events), boot::registers(&registers));
    let release = boot::release(&start.manifest);
    Ok(Booted { measurements, registers, release, firmware, out_of_service })
}

/// A start whose settings are known to be good.
struct Begun {
    start: Start,
    identity: Identity,
    served: Arc<Served>,
    settings: Settings,
    log: Log,
    opened: Result<Opened, Halt>,
}

/// Measures, and takes out what the TPM gives. Afterwards it gives nothing out any more until the next power cycle.
fn begin(
    options: &Options,
    state: &State,
    boot: &mut Boot,
    flash: Option<&Firmware>,
) -> Result<Begun, Failure> {
    boot.secure(&options.home)?;
    let start = Start::measure(state, boot, flash)?;
    let early = start.open_early(state, boot)?;
    let mut log = open_log(state, &start, &early)?;
    note(&mut log, Entry::event("host.started", ""))?;
    let (identity, served) = identify(options, state, &start, early)?;
    let store = start.open_store(state, boot, options.security_key.as_deref());
    let opened = store.and_then(|store| Opened::take(store, &start));
    let settings = settings(state, &start, &identity)?;
    boot.measure(10, "token keys", settings.fingerprint())?;
    Ok(Begun { start, identity, served, settings, log, opened })
}

/// What this process may do from now on. Only one that hands out functions of the host's hardware asks VFIO for them.
fn policy(passthrough: bool) -> Result<Policy, SandboxError> {
    let mut policy = Policy::parse(SANDBOX)?;
    policy.syscalls.retain(|call| passthrough || call.kept_for.is_none());
    Ok(policy)
}

/// Gives up every right that serving does not need.
fn confine(options: &Options, state: &State, start: &Start) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(state.store())?;
    let paths = [
        ("volumes", options.volumes.canonicalize()?),
        ("functions", options.functions.canonicalize()?),
        ("log", state.path("log").canonicalize()?),
        ("store", state.store().canonicalize()?),
    ];
    let paths = paths.each_ref().map(|(name, path)| (*name, path.as_path()));
    Ok(policy(!start.configured.passthrough.is_empty())?.enter(&paths)?)
}

/// The log, with the key of the early compartment.
fn open_log(state: &State, start: &Start, early: &Early) -> Result<Log, Failure> {
    let folder = state.path("log");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let key = LogKey::new(&early.log).ok_or("the sealed log key has a wrong length")?;
    let identity = service::Key::from_seed(early.identity.seed())?;
    let capacity = start.configured.log_capacity.saturating_mul(MIB);
    let log = Log::open(&folder, capacity, key, identity);
    Ok(log.inspect_err(|error| tracing::error!(code = error.code(), "the host's log cannot be opened"))?)
}

fn note(log: &mut Log, entry: Entry) -> Result<(), Failure> {
    log.append(&[Entry { trusted: true, ..entry }]).into_iter().try_for_each(|result| result.map(drop))?;
    Ok(())
}

/// Serves until the process is to stop, or the host is no more.
fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    door: Arc<Door>,
    ended: &Notify,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(ACTORS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let signal = stop_signal()?;
        let stop = async {
            tokio::select! { () = signal => {}, () = ended.notified() => {} }
        };
        tracing::info!(address = %listener.local_addr()?, "serving");
        service::serve(listener, door::service(door, tls), stop).await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_controller_with_functions_to_hand_out_asks_vfio() {
        assert!(!policy(false).unwrap().allows("ioctl"));
        let of = |policy: Policy| {
            policy.syscalls.into_iter().filter(|call| call.names.contains(&"ioctl".to_owned()))
        };
        assert!(of(policy(true).unwrap()).all(|call| !call.args.is_empty() && call.kept_for.is_some()));
        assert!(policy(true).unwrap().allows("ioctl"));
    }
}
