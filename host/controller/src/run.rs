//! From a power-on to an open door. Everything that needs a path, a program or a connection happens here, in
//! one thread; then the process confines itself; then it starts threads and reads input.

use crate::{
    Refusal,
    attest::{Attester, Papers, SharedTpm},
    attestation::{self, Attestation},
    board::Board,
    boot::{
        self, Boot, Halt,
        compartments::Early,
        custody::{Custody, settle},
        forget, images, measurements, out_of_service,
        start::Start,
        state::{State, need},
    },
    card::Card,
    chip::{Chip, Firmware},
    clock::Clock,
    door::{self, Door, opens},
    firmware::Shelf,
    host::{Booted, Certificates, Components, Eraser, Host, Identity, Rules},
    hypervisors::{
        Hypervisors,
        setup::{self, Facts, Outcome},
    },
    limits::{self, Bounds},
    log::{Entry, Log, Writer},
    peer::{Peer, Side},
    settings::{Settings, SettingsError},
    storage::Storage,
    watch,
};
use boot_rom::events::Events;
use firmware_store::Store;
use host_api::{OutOfService, Sha256};
use host_log::LogKey;
use ids::HostId;
use nsm::{Chain, HostKey};
use sandbox::{Policy, SandboxError};
use service::{
    Callers, Credentials, Served,
    process::{Failure, Home},
    server_config_of, stop_signal,
};
use std::{
    fs::DirBuilder,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tpm::Tpm;
use zeroize::Zeroizing;

const SANDBOX: &str = include_str!("../../../sandbox/controller.toml");
/// Threads that serve connections, and threads that act: fixed, so that nothing has to be asked of the system.
const WORKERS: usize = 2;
const ACTORS: usize = 32;
/// Longest certificate chain in bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;
/// How long a main board that was powered together with the controller may take to reach the reset line.
const BOARD_WAIT: Duration = Duration::from_secs(10);
const BOARD_LOOK: Duration = Duration::from_millis(50);
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

/// What goes on beside serving.
struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(
        host: &Arc<Host>,
        turns: Option<Arc<Hypervisors>>,
        clock: &Clock,
        log: &Writer,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let watching = watch::start(Arc::clone(host), clock.clone(), log.clone(), Arc::clone(&stop))?;
        let turns = turns.map(|hypervisors| watch::take_turns(hypervisors, Arc::clone(&stop))).transpose()?;
        Ok(Self { stop, threads: [Some(watching), turns].into_iter().flatten().collect() })
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // The threads have nothing to give; if one panicked, the process ends here anyway.
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
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

/// A start that has reached service: an update is settled, and no older release starts any more.
fn confirm(
    state: &State,
    start: &Start,
    (custody, mut store): (Custody, Store),
    tpm: &mut Tpm,
) -> Result<(), Failure> {
    settle(state, start, &mut store)?;
    custody.take(tpm)?;
    custody.raise_floor(tpm, start)
}

/// What this process may do from now on. Only one that hands out functions of the host's hardware asks VFIO for them.
fn policy(passthrough: bool) -> Result<Policy, SandboxError> {
    let mut policy = Policy::parse(SANDBOX)?;
    policy.syscalls.retain(|call| passthrough || call.kept_for.is_none());
    Ok(policy)
}

/// Who gives evidence of this start.
fn attester(state: &State, start: &Start, tpm: &SharedTpm) -> Result<Attester, Failure> {
    let certificate = boot::state::read(&state.path("ak-certificate"), MAX_CERTIFICATE).unwrap_or_default();
    let papers = Papers {
        attestation_certificate: certificate,
        manifest: start.signed.set.manifest.clone(),
        configuration: start.configuration.clone(),
    };
    Attester::new(tpm, &papers)
}

/// By what instances are certified. A host that has no certificate for that yet is offered one later.
fn instances_papers(
    state: &State,
    identity: &Identity,
    events: &Events,
) -> Result<attestation::Papers, Failure> {
    let key = HostKey::derive(identity.key.seed())?;
    let pem = boot::state::read(&state.path("attestation-chain.pem"), MAX_CERTIFICATE).unwrap_or_default();
    let chain = String::from_utf8(pem).ok().and_then(|pem| Chain::from_pem(&pem).ok());
    let release = events.iter().find(|event| event.pcr() == 9 && event.name() == "release");
    let host = nsm::of_host(release.map(|event| event.sha256()).as_ref(), events.bytes());
    Ok(attestation::Papers { chain: chain.filter(|chain| key.is_certified_by(chain)), key, host })
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

/// What came out of the open store.
struct Opened {
    store: Store,
    images: images::Images,
    custody: Custody,
    bounds: Bounds,
}

impl Opened {
    fn take(store: Store, start: &Start) -> Result<Self, Halt> {
        let images = images::Images::take(&store, &start.manifest)?;
        let policies = images.policies();
        let halt = |error: &dyn std::fmt::Display| Halt::new("boot.policies", "policies", &error.to_string());
        let bounds = Bounds::of_policies(policies).ok_or_else(|| halt(&"they name no bounds of a host"))?;
        let custody = Custody::of(&store).map_err(|error| halt(&error))?;
        Ok(Self { store, images, custody, bounds })
    }

    fn split(self) -> (Option<images::Images>, Option<(Custody, Store)>, Option<Bounds>) {
        (Some(self.images), Some((self.custody, self.store)), Some(self.bounds))
    }
}

/// What a start brings up.
struct Brought {
    parts: Components,
    hypervisors: Option<(Hypervisors, Facts)>,
    objection: Option<OutOfService>,
}

/// Starts what came out of the store; tells what speaks against releasing reset.
fn bring_up(
    options: &Options,
    start: &Start,
    chip: Chip,
    images: Option<images::Images>,
    papers: attestation::Papers,
) -> Result<Brought, Failure> {
    let mut board = Board::new(connect(&options.board));
    let (card, attests, guests) = images.map_or((None, None, None), |images| {
        let (card, attests, guests) = images.split();
        (Some(card), attests, guests)
    });
    let image = card.as_ref().map(|image| Sha256::from_digest(image.digest()));
    let card = card.map_or_else(|| Err(Refusal::of("card.gone")), |image| Card::start(&image));
    let attestation =
        attests.map_or_else(|| Ok(Attestation::none()), |image| Attestation::start(&image, papers));
    let (hypervisors, unfit) = match setup::bring_up(&start.configured, guests)? {
        Outcome::Absent => (None, None),
        Outcome::Up(up) => (Some(*up), None),
        Outcome::Objection(objection) => (None, objection),
    };
    let objections = [
        failed("boot.card", "the volume card", card.as_ref().err()),
        failed("boot.attestation", "the attestation card", attestation.as_ref().err()),
        failed("boot.board", "the main board", board.status().err().as_ref()),
        unfit,
    ];
    let objection = objections.into_iter().flatten().next();
    let card = card.unwrap_or_else(|_| Card::absent(image.unwrap_or_else(|| Sha256::from_digest(&[0; 32]))));
    let storage = Storage::open(&options.volumes, &options.functions)?;
    let attestation = attestation.unwrap_or_else(|_| Attestation::none());
    let parts = Components { chip, board, card, attestation, storage };
    Ok(Brought { parts, hypervisors, objection })
}

/// Releases the board's management controller, takes functions of an earlier controller's volumes out of the board,
/// and releases the rest; tells what failed.
fn release(parts: &mut Components, firmware: &Firmware) -> Option<OutOfService> {
    let Components { chip, board, .. } = parts;
    let bmc = patiently(|| chip.release_bmc(firmware));
    failed("boot.chip", "the security chip", bmc.err().as_ref())
        .or_else(|| failed("boot.board", "the main board", clear(board).err().as_ref()))
        .or_else(|| failed("boot.chip", "the security chip", chip.release(firmware).err().as_ref()))
}

/// Releases reset, and waits for a main board that is still connecting to the reset lines.
fn patiently(mut release: impl FnMut() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let end = Instant::now() + BOARD_WAIT;
    loop {
        match release() {
            Err(Refusal { code: "chip.board-silent", .. }) if Instant::now() < end => sleep(BOARD_LOOK),
            other => return other,
        }
    }
}

fn clear(board: &mut Board) -> Result<(), Refusal> {
    let slots = board.status()?.slots;
    slots.into_iter().try_for_each(|slot| board.unplug(slot))
}

fn failed(code: &str, what: &str, refusal: Option<&Refusal>) -> Option<OutOfService> {
    refusal.and_then(|refusal| out_of_service(code, &format!("{what} failed at boot: {}", refusal.message)))
}

/// Connects to a component; one that cannot be reached is absent.
pub(crate) fn connect<S: Side>(path: &Path) -> Peer<S> {
    match wire::connect(path)
        .map_err(|error| error.to_string())
        .and_then(|link| Peer::new(link).map_err(|refusal| refusal.to_string()))
    {
        Ok(peer) => peer,
        Err(error) => {
            tracing::error!(path = %path.display(), error, "a component cannot be reached");
            Peer::absent()
        }
    }
}

/// Who the host is: the TPM's record, the certificate and the sealed key must agree.
fn identify(
    options: &Options,
    state: &State,
    start: &Start,
    early: Early,
) -> Result<(Identity, Arc<Served>), Failure> {
    let halt = |message: &str| Halt::new("boot.identity", "certificate", message);
    let certificate = need(&options.certificate, MAX_CERTIFICATE, "boot.identity", "certificate")?;
    let certificate = String::from_utf8(certificate).map_err(|_| halt("it is no PEM text"))?;
    let key = service::Key::from_seed(early.identity.seed())?;
    let credentials = Credentials::new(&certificate, key).map_err(|error| halt(&error.to_string()))?;
    let named = credentials.identity().map_err(|error| halt(&error.to_string()))?;
    let ids::Identity::Host(host) = named else {
        return Err(halt("it is not a host's: ask the authority for one that names this host").into());
    };
    let expected = options.host.as_ref().unwrap_or(&host);
    if *expected != host || start.host()? != host {
        return Err(halt(&format!("it is for {host}, another host: enrol this one")).into());
    }
    // One that has ended is no obstacle: a host that was off for long is offered another once it is up.
    let authority = authority(state)?;
    let ends = service::ends(&certificate).ok_or_else(|| halt("it cannot be read"))?;
    service::certified_by(&authority, &certificate, ends).map_err(|error| halt(&error.to_string()))?;
    let served = Served::new(&credentials)?;
    let certificate = certificate.parse().map_err(|_| halt("it is too long for this API"))?;
    Ok((Identity { host, certificate, key: early.identity }, served))
}

/// The certificate (PEM) of the environment's authority.
fn authority(state: &State) -> Result<String, Halt> {
    let pem = need(&state.path("authority.pem"), MAX_CERTIFICATE, "boot.identity", "authority")?;
    String::from_utf8(pem).map_err(|_| Halt::new("boot.identity", "authority", "it is no PEM text"))
}

/// What the host remembers; the token service's keys in it follow those of the configuration.
fn settings(state: &State, start: &Start, identity: &Identity) -> Result<Settings, Failure> {
    let key = service::Key::from_seed(identity.key.seed())?;
    let installed = start.configured.token_keys.clone();
    Settings::open(&state.path("settings"), key, identity.host.clone(), installed).map_err(
        |error| match error {
            SettingsError::Broken(_) => Halt::new("boot.token-keys", "token keys", &error.to_string()).into(),
            SettingsError::File { .. } => error.into(),
        },
    )
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
