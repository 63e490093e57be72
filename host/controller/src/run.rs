//! From a power-on to an open door. Everything that needs a path, a program or a connection happens here, in
//! one thread; then the process confines itself; then it starts threads and reads input.

use crate::{
    Refusal,
    board::Board,
    boot::{self, Boot, KnownGood, Verdict, out_of_service},
    card::{Card, Image},
    chip::{Chip, Firmware},
    door::{self, Door, opens},
    host::{Booted, Components, Host, Identity, Rules},
    hypervisors::{
        Hypervisors,
        setup::{self, Facts, Outcome},
    },
    limits::{self, Bounds},
    log::{Entry, Log, Writer},
    peer::{Peer, Side},
    settings::Settings,
    storage::Storage,
    watch,
};
use host_api::{OutOfService, Sha256};
use host_log::LogKey;
use ids::HostId;
use sandbox::{Policy, SandboxError};
use service::{
    Callers, Credentials,
    process::{Failure, Home},
    server_config, stop_signal,
};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    net::{SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};
use token::Keys;
use tpm::Tpm;
use zeroize::Zeroizing;

const SANDBOX: &str = include_str!("../../../sandbox/controller.toml");
/// Threads that serve connections, and threads that act: fixed, so that nothing has to be asked of the system.
const WORKERS: usize = 2;
const ACTORS: usize = 32;
/// Longest file that is read at start, the card's image aside, in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// How long a main board that was powered together with the controller may take to reach the reset line.
const BOARD_WAIT: Duration = Duration::from_secs(10);
const BOARD_LOOK: Duration = Duration::from_millis(50);
const NO_KNOWN_GOOD: &str =
    "the known-good set is missing, empty or not readable: install it, then boot anew";
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
    /// The volume card's program
    #[arg(long, value_name = "FILE")]
    pub card: PathBuf,
    /// Hashes of main-board firmware that may run: lines of `<SHA-256>  <name>`
    #[arg(long, value_name = "FILE")]
    pub known_good: PathBuf,
    /// Public keys of the token service
    #[arg(long, value_name = "FILE")]
    pub token_keys: PathBuf,
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
    /// Most MiB in the host's log; when it is full, the host refuses everything
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub log_capacity: u64,
    /// Seconds that a guest has to switch itself off when its instance is stopped, or to let go of a volume
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    pub stop_grace: u64,
    /// Instances that share the host
    #[command(flatten)]
    pub guests: setup::Guests,
}

/// Boots the host and serves its door until SIGTERM or SIGINT.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut tpm = options.home.tpm()?;
    let mut log = open_log(options, &mut tpm)?;
    note(&mut log, Entry::event("host.started", ""))?;
    let mut boot = Boot::new(tpm);
    let started = start(options, &mut boot)?;
    let (measurements, pcr) = boot.finish()?;
    let Started { identity, tls, settings, mut parts, known_good, firmware, mut objection, hypervisors } =
        started;
    if let (None, Some(firmware)) = (&objection, &firmware) {
        note(&mut log, Entry::event("host.releases-reset", &format!("firmware {firmware}")))?;
        let bmc = patiently(|| parts.chip.release_bmc(firmware));
        objection = failed("boot.chip", "the security chip", bmc.err().as_ref())
            .or_else(|| failed("boot.board", "the main board", clear(&mut parts.board).err().as_ref()))
            .or_else(|| {
                failed("boot.chip", "the security chip", parts.chip.release(firmware).err().as_ref())
            });
    }
    let event = match &objection {
        None => Entry::event("host.in-service", ""),
        Some(reason) => Entry::event("host.out-of-service", &format!("{}: {}", reason.code, reason.message)),
    };
    note(&mut log, event)?;
    let (clock, opened) = (log.clock().clone(), opens(log.resumed()));
    // Only where the last run ended just now: who comes early would hear that a good proof is stale.
    sleep(Duration::from_secs(opened).saturating_sub(clock.now()));
    let bounds = Bounds::of_policies().ok_or("the policies name no bounds of a host")?;
    let limits = limits::Limits::new(bounds);
    let listener = service::bind(options.listen, options.address_file.as_deref())?;
    let paths = [
        ("volumes", options.volumes.canonicalize()?),
        ("functions", options.functions.canonicalize()?),
        ("log", log_folder(options).canonicalize()?),
    ];
    let paths = paths.each_ref().map(|(name, path)| (*name, path.as_path()));
    policy(!options.guests.passthrough.is_empty())?.enter(&paths)?;
    let history = log.take_history();
    let log = Writer::new(log);
    let booted = Booted { measurements, pcr: Some(pcr), firmware, out_of_service: objection };
    let hypervisors = hypervisors.map(|(hypervisors, facts)| (Arc::new(hypervisors), facts));
    let turns = hypervisors.as_ref().map(|(hypervisors, _)| Arc::clone(hypervisors));
    let stop_grace = Duration::from_secs(options.stop_grace);
    let rules = Rules { known_good, stop_grace, settings, hypervisors };
    let host = Arc::new(Host::new(identity, parts, rules, booted, log.clone(), clock.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let watching = watch::start(Arc::clone(&host), clock.clone(), log.clone(), Arc::clone(&stop))?;
    let turns = turns.map(|hypervisors| watch::take_turns(hypervisors, Arc::clone(&stop))).transpose()?;
    let opened = opened.max(clock.seconds());
    let door = Arc::new(Door::new(host, log.clone(), clock, opened, limits, &history));
    let served = serve(listener, tls, door);
    stop.store(true, Ordering::Relaxed);
    // The threads have nothing to give; if one panicked, the process ends here anyway.
    for thread in [Some(watching), turns].into_iter().flatten() {
        let _ = thread.join();
    }
    log.append(Entry { trusted: true, ..Entry::event("host.stopped", "") })?;
    Ok(served?)
}

/// What this process may do from now on. Only one that hands out functions of the host's hardware asks VFIO for them.
fn policy(passthrough: bool) -> Result<Policy, SandboxError> {
    let mut policy = Policy::parse(SANDBOX)?;
    policy.syscalls.retain(|call| passthrough || call.kept_for.is_none());
    Ok(policy)
}

/// What a boot brings up.
struct Started {
    identity: Identity,
    tls: rustls::ServerConfig,
    settings: Settings,
    parts: Components,
    known_good: KnownGood,
    firmware: Option<Firmware>,
    objection: Option<OutOfService>,
    hypervisors: Option<(Hypervisors, Facts)>,
}

/// Holds reset, measures and verifies; tells what speaks against releasing reset.
fn start(options: &Options, boot: &mut Boot<Tpm>) -> Result<Started, Failure> {
    boot.measure("controller", &fs::read("/proc/self/exe")?)?;
    let token_keys = read(&options.token_keys)?;
    boot.measure("configuration", configuration(options, &token_keys).as_bytes())?;
    let known_good = read(&options.known_good).unwrap_or_default();
    boot.measure("known-good set", known_good.as_bytes())?;
    let known_good = KnownGood::parse(&known_good);
    let image = Image::read(&options.card, "azote-volume-card")
        .map_err(|error| format!("{}: {error}", options.card.display()))?;
    boot.measure_digest("volume card", *image.digest())?;

    let (identity, tls) = identify(options, boot.register())?;
    let key = service::Key::from_seed(identity.key.seed())?;
    let (path, installed) = (options.home.state.join("settings"), read_keys(&token_keys)?);
    let settings = Settings::open(&path, key, identity.host.clone(), installed)?;
    if let Some(kept) = &settings.kept().keys {
        boot.measure("token keys", &kept.bytes())?;
    }
    let mut chip = Chip::new(connect(&options.chip));
    // A controller that starts is a host that starts: whatever ran before is in reset from here on.
    let held = chip.hold_all();
    let verdict = boot::verify(&mut chip, known_good.as_ref().unwrap_or(&KnownGood::default()));
    let firmware = match &verdict {
        Verdict::Good(hash) | Verdict::Unknown(hash) => Some(hash.clone()),
        Verdict::Unmeasured(_) => None,
    };
    for (what, hash) in
        ["main-board firmware", "bmc firmware"].iter().zip(firmware.iter().flat_map(Firmware::all))
    {
        boot.measure_digest(what, hash.to_digest())?;
    }
    let mut board = Board::new(connect(&options.board));
    let card = Card::start(&image);
    let known = known_good.clone().unwrap_or_default();
    let (hypervisors, unfit) = match setup::bring_up(&options.guests, boot, &known)? {
        Outcome::Absent => (None, None),
        Outcome::Up(up) => (Some(*up), None),
        Outcome::Objection(objection) => (None, objection),
    };
    let objections = [
        match &known_good {
            Some(_) => None,
            None => out_of_service("boot.known-good", NO_KNOWN_GOOD),
        },
        verdict.objection(),
        failed("boot.chip", "the security chip", held.as_ref().err()),
        failed("boot.card", "the volume card", card.as_ref().err()),
        failed("boot.board", "the main board", board.status().err().as_ref()),
        unfit,
    ];
    let objection = objections.into_iter().flatten().next();
    let card = card.unwrap_or_else(|_| Card::absent(Sha256::from_digest(image.digest())));
    let storage = Storage::open(&options.volumes, &options.functions)?;
    let parts = Components { chip, board, card, storage };
    Ok(Started { identity, tls, settings, parts, known_good: known, firmware, objection, hypervisors })
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

/// Takes functions of an earlier controller's volumes out of the board.
fn clear(board: &mut Board) -> Result<(), Refusal> {
    let slots = board.status()?.slots;
    slots.into_iter().try_for_each(|slot| board.unplug(slot))
}

fn failed(code: &str, what: &str, refusal: Option<&Refusal>) -> Option<OutOfService> {
    refusal.and_then(|refusal| out_of_service(code, &format!("{what} failed at boot: {}", refusal.message)))
}

fn connect<S: Side>(path: &Path) -> Peer<S> {
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

/// The host's key out of the TPM, and the certificate that goes with it.
fn identify(options: &Options, tpm: &mut Tpm) -> Result<(Identity, rustls::ServerConfig), Failure> {
    let certificate = read(&options.certificate)?;
    let key = service::load_key(&options.home.state, tpm)?;
    let credentials = Credentials::new(&certificate, service::Key::from_seed(key.seed())?)?;
    let ids::Identity::Host(host) = credentials.identity()? else {
        return Err("the certificate is not a host's: ask the authority for one that names this host".into());
    };
    if options.host.as_ref().is_some_and(|wanted| *wanted != host) {
        return Err(format!("the certificate is for {host}, another host: enrol this one").into());
    }
    let tls = server_config(&credentials, Callers::Anyone)?;
    Ok((Identity { host, certificate: certificate.parse()?, key }, tls))
}

/// One public key a line, in base64url without padding.
fn read_keys(text: &str) -> Result<Keys, Failure> {
    let keys: Result<Vec<_>, _> = text.split_whitespace().map(|key| key.to_owned().try_into()).collect();
    let wrong = "the file of token keys: want one or two keys of the token service, a line each";
    Keys::new(keys.map_err(|_| wrong)?).ok_or_else(|| wrong.into())
}

/// Everything that an operator can set and that changes what the host admits or records.
fn configuration(options: &Options, token_keys: &str) -> String {
    let Options { log_capacity, stop_grace, .. } = options;
    let guests = setup::configuration(&options.guests);
    format!("log-capacity={log_capacity}\nstop-grace={stop_grace}\n{guests}token-keys={token_keys}\n")
}

/// The log, with the key that the TPM sealed for it when it was begun.
fn open_log(options: &Options, tpm: &mut Tpm) -> Result<Log, Failure> {
    let (folder, sealed) = (log_folder(options), options.home.state.join("log.sealed"));
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    if !sealed.exists() {
        let mut key = Zeroizing::new([0; LogKey::LENGTH]);
        aws_lc_rs::rand::fill(&mut *key).map_err(|_| "no random bytes")?;
        service::seal_to(&sealed, tpm, &*key)?;
    }
    let key =
        LogKey::new(&service::unseal_from(&sealed, tpm)?).ok_or("the sealed log key has a wrong length")?;
    let identity = service::load_key(&options.home.state, tpm)?;
    let log = Log::open(&folder, options.log_capacity.saturating_mul(MIB), key, identity);
    Ok(log.inspect_err(|error| tracing::error!(code = error.code(), "the host's log cannot be opened"))?)
}

fn log_folder(options: &Options) -> PathBuf {
    options.home.state.join("log")
}

fn note(log: &mut Log, entry: Entry) -> Result<(), Failure> {
    log.append(&[Entry { trusted: true, ..entry }]).into_iter().try_for_each(|result| result.map(drop))?;
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 <= MAX_FILE => Ok(text),
        Ok(_) => Err(format!("{}: longer than {MAX_FILE} bytes", path.display()).into()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

fn serve(listener: TcpListener, tls: rustls::ServerConfig, door: Arc<Door>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(ACTORS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
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
