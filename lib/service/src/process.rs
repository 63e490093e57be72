//! What the processes of services have in common: flags, logs, exit codes, and the order of a start. A
//! service opens its key, its files and its listener first, confines itself then, and starts threads and
//! reads input last.

use crate::{
    Credentials, Incident, Key, KeyError, Limits, Renewable, Service, TlsError, Trust, bind, certificates,
    enrol, load_key, revocations, serve, server_config_trusting, stop_signal,
};
use axum::Router;
use rustls::ServerConfig;
use std::{
    error::Error,
    fs, io,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use tpm::Tpm;

/// Number of threads that serve requests: fixed, so that a confined process need not ask the system.
const WORKERS: usize = 2;
/// Most threads for work that blocks.
const BLOCKING: usize = 16;

/// Why a service does not start.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Runs a program: reads its command line `C` (exit code 2 if it is wrong), logs to stderr (levels by
/// `RUST_LOG`, default `info`), and gives 0 or, with the reason in the log, 1.
pub fn main<C: clap::Parser>(run: impl FnOnce(C) -> Result<(), Failure>) -> ExitCode {
    let command = C::parse();
    let levels = tracing_subscriber::EnvFilter::try_from_default_env();
    let levels = levels.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(levels).with_writer(io::stderr).init();
    // Before any key is read: a crash on the way into the sandbox must not leave one in a dump.
    match sandbox::undumpable().map_err(Failure::from).and_then(|()| run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// Where a service keeps what must survive it.
#[derive(Debug, Clone, clap::Args)]
pub struct Home {
    /// The state directory; it must exist and be private
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// The TPM: a Unix socket of a software TPM, or a device
    #[arg(long, value_name = "SOCKET")]
    pub tpm: PathBuf,
}

impl Home {
    /// Connects to the TPM, for what may be seen on its bus.
    pub fn connect(&self) -> Result<Tpm, KeyError> {
        Ok(Tpm::connect(&self.tpm)?)
    }

    /// Connects to the TPM, secured. The first time takes its word for which TPM it is, and remembers: whoever can take
    /// the file away could as well have written it.
    pub fn tpm(&self) -> Result<Tpm, KeyError> {
        let mut tpm = self.connect()?;
        let known = self.known_tpm()?;
        let name = tpm.secure(known.as_ref())?;
        if known.is_none() {
            self.remember_tpm(&name)?;
        }
        Ok(tpm)
    }

    /// Makes the identity key if there is none, and prints the certificate request on stdout.
    pub fn enrol(&self) -> Result<(), Failure> {
        let request = enrol(&self.state, &mut self.tpm()?)?;
        Ok(io::stdout().write_all(request.as_bytes())?)
    }

    /// The identity key.
    pub fn key(&self) -> Result<Key, KeyError> {
        load_key(&self.state, &mut self.tpm()?)
    }
}

/// Where and as whom a service listens.
#[derive(Debug, Clone, clap::Args)]
pub struct Door {
    /// Certificate (PEM) of the environment's authority
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// This service's certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub certificate: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where to write the address once connections are taken
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,
}

/// A door that is open; nobody has been let in yet.
pub struct Opened {
    listener: TcpListener,
    tls: ServerConfig,
    /// What every service can be brought.
    common: Router,
    /// What the service shows, and as whom it calls others.
    pub me: Arc<Renewable>,
}

impl Door {
    /// The authority's certificate, and the revocation list that may be with it.
    pub fn trust(&self) -> Result<Arc<Trust>, TlsError> {
        Ok(Arc::new(Trust::new(&read(&self.ca)?)?))
    }

    /// Listens for callers with certificates, by the newest revocation list that `trust` is offered. The address file
    /// says that the service is there: open everything else first.
    pub fn open(&self, key: Key, trust: &Arc<Trust>) -> Result<Opened, Failure> {
        self.listen(key, trust, false)
    }

    /// The same, also for callers without a certificate; for them the handlers get no [`crate::Peer`].
    pub fn open_to_all(&self, key: Key, trust: &Arc<Trust>) -> Result<Opened, Failure> {
        self.listen(key, trust, true)
    }

    fn listen(&self, key: Key, trust: &Arc<Trust>, or_none: bool) -> Result<Opened, Failure> {
        let credentials = Credentials::new(&read(&self.certificate)?, key)?;
        let me = Renewable::new(credentials, Arc::clone(trust))?;
        let tls = server_config_trusting(me.served(), Arc::clone(trust), or_none)?;
        let common = revocations(Arc::clone(trust)).merge(certificates(Arc::clone(&me)));
        let listener = bind(self.listen, self.address_file.as_deref())?;
        Ok(Opened { listener, tls, common, me })
    }
}

impl Opened {
    /// Serves until SIGTERM or SIGINT. Incidents go to the log.
    pub fn serve(self, router: Router) -> io::Result<()> {
        self.serve_and_tell(router, |_| ())
    }

    /// The same; incidents also go to `observer`, on a thread that may block.
    pub fn serve_and_tell(
        self,
        router: Router,
        observer: impl Fn(&Incident) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let service = Service {
                router: router.merge(self.common),
                tls: self.tls,
                limits: Limits::default(),
                observer: Arc::new(move |incident| {
                    log(&incident);
                    observer(&incident);
                }),
            };
            let stop = stop_signal()?;
            tracing::info!(address = %self.listener.local_addr()?, "serving");
            serve(self.listener, service, stop).await
        })
    }
}

fn log(Incident { address, peer, code, detail }: &Incident) {
    let peer = peer.as_ref().map(ToString::to_string);
    tracing::warn!(%address, peer, code, detail, "refused");
}

fn read(path: &PathBuf) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::File { path: path.display().to_string(), source })
}
