//! azote-audit: the audit service.

use audit::{
    api::{Audit, router},
    book::{Book, Input},
    entry::Observed,
    keeper::Thread,
    note::{Purpose, Signer, VerifierKey},
    pull::{Puller, origin},
    readers::Readers,
    reconcile::GRACE,
    store::Log,
    witnesses::Witnesses,
};
use clap::{Parser, Subcommand};
use monitor::{Alertmanager, Monitor, Rules, Sink, Webhook};
use rights::Sources;
use sandbox::Policy;
use service::{
    Key,
    process::{self, Door, Failure, Home},
    seal_to, unseal_from, write_atomic,
};
use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::mpsc;

const SANDBOX: &str = include_str!("../../../sandbox/audit.toml");
const LOG_KEY: &str = "log.sealed";
const PUBLIC_KEY: &str = "log.vkey";
const LOG: &str = "log";
const SOURCES: &str = "sources";

/// Pulls every host's log into one log that others can verify.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the identity key and the log's key, seal them in the TPM, write the log's public key into the state
    /// folder (log.vkey), and print a certificate request
    Enrol(Home),
    /// Serve, and read the sources that the file `sources` in the state folder names: `tokens <ip:port>`, and for
    /// each host `host/h-… <ip:port> <public key>`
    Run(Box<Run>),
}

#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    home: Home,
    #[command(flatten)]
    door: Door,
    /// Folder with the rights configuration that says who may read, the one that the token service has; without it,
    /// the one that was compiled in
    #[arg(long, value_name = "DIR", requires = "review")]
    rights: Option<PathBuf>,
    /// Review of the rights configuration, signed by two people; without it, the one that was compiled in counts as it is
    #[arg(long, value_name = "FILE", requires = "reviewers")]
    review: Option<PathBuf>,
    /// Who may review, and their keys
    #[arg(long, value_name = "FILE", requires = "review")]
    reviewers: Option<PathBuf>,
    /// How often each source is read, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..))]
    every: u64,
    /// How long the second side of a call may take to be told, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = GRACE)]
    grace: u64,
    /// After how long a source that cannot be read is told of, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 15_000)]
    silence: u64,
    /// Public key of a witness (name+id+key); repeat for more
    #[arg(long = "witness", value_name = "KEY")]
    witnesses: Vec<VerifierKey>,
    /// Where alarms are posted; repeat for more
    #[arg(long = "webhook", value_name = "URL")]
    webhooks: Vec<String>,
    /// An Alertmanager that alarms are given to; repeat for more
    #[arg(long = "alertmanager", value_name = "URL")]
    alertmanagers: Vec<String>,
}

fn main() -> ExitCode {
    process::main(|Arguments { command }| match command {
        Command::Enrol(home) => enrol(&home),
        Command::Run(run) => run.serve(),
    })
}

fn enrol(home: &Home) -> Result<(), Failure> {
    let path = home.state.join(LOG_KEY);
    if !path.exists() {
        if home.state.join(LOG).exists() {
            return Err(format!("{} is gone, but there is a log under it: restore it", path.display()).into());
        }
        seal_to(&path, &mut home.tpm()?, Key::generate()?.seed())?;
    }
    let public = signer(home)?.public().to_string();
    write_atomic(&home.state.join(PUBLIC_KEY), format!("{public}\n").as_bytes())?;
    home.enrol()
}

fn signer(home: &Home) -> Result<Signer, Failure> {
    let key = Key::from_seed(&unseal_from(&home.state.join(LOG_KEY), &mut home.tpm()?)?)?;
    Ok(Signer::new(&origin(&key.public()), Purpose::Log, key)?)
}

impl Run {
    fn serve(self: Box<Self>) -> Result<(), Failure> {
        let state = &self.home.state;
        let signer = signer(&self.home)?;
        let public = signer.public().clone();
        let log = Log::open(&state.join(LOG), signer)?;
        let witnesses = Witnesses::open(state, &public, log.snapshot().size(), self.witnesses.clone())?;
        let readers = self.readers()?;
        let book = Book::new(Monitor::new(Rules::embedded()?), self.grace, self.silence);
        let (sinks, key) = (self.sinks()?, self.home.key()?);
        let trust = self.door.trust()?;
        let opened = self.door.open(key, &trust)?;
        let me = Arc::clone(&opened.me);
        Policy::parse(SANDBOX)?.enter(&[("state", state.as_path())])?;
        let (tell, alarms) = mpsc::unbounded_channel();
        let thread = Thread::start(log, book, state, tell)?;
        let keeper = thread.keeper();
        for told in &readers.told {
            keeper.take_blocking(Input::Observed(Box::new(told.clone())))?;
        }
        readers.keep()?;
        let every = Duration::from_millis(self.every);
        let sources = state.join(SOURCES);
        let puller = Puller { keeper: keeper.clone(), me, trust, sources, every };
        pull(puller, sinks, alarms)?;
        let watching = keeper.clone();
        let audit = Audit { keeper, rights: readers.rights, key: public, witnesses: Mutex::new(witnesses) };
        let served = opened.serve_and_tell(router(audit), move |incident| {
            let mut observed = Observed::event(incident.code, &format!("{}", incident.address));
            observed.subject.clone_from(&incident.peer);
            if let Err(error) = watching.take_blocking(Input::Refused(Box::new(observed))) {
                tracing::warn!(%error, "an incident is not in the log");
            }
        });
        thread.stop();
        Ok(served?)
    }

    fn readers(&self) -> Result<Readers, Failure> {
        let text =
            |path: &PathBuf| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
        let Some((review, reviewers)) = self.review.as_ref().zip(self.reviewers.as_ref()) else {
            return Ok(Readers::open(&self.home.state, None)?);
        };
        let (sources, review, reviewers) =
            (Sources::of(self.rights.as_deref())?, text(review)?, text(reviewers)?);
        Ok(Readers::open(&self.home.state, Some((&sources, &review, &reviewers)))?)
    }

    fn sinks(&self) -> Result<Vec<Box<dyn Sink>>, Failure> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        for url in &self.webhooks {
            sinks.push(Box::new(Webhook::new(url, None, None)?));
        }
        for url in &self.alertmanagers {
            sinks.push(Box::new(Alertmanager::new(url, None)?));
        }
        Ok(sinks)
    }
}

/// Pulls on a thread of its own, so that readers do not wait for hosts.
fn pull(
    puller: Puller,
    sinks: Vec<Box<dyn Sink>>,
    alarms: mpsc::UnboundedReceiver<monitor::Alarm>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = move || runtime.block_on(puller.run(sinks, alarms));
    std::thread::Builder::new().name("puller".to_owned()).spawn(work)?;
    Ok(())
}
