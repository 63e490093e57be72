//! azote-tokens: the token service.

use clap::{Parser, Subcommand};
use ids::Identity;
use rights::{Reviewed, Rights, Sources};
use sandbox::Policy;
use service::{
    Key,
    process::{self, Door, Failure, Home},
    seal_to, unseal_from,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokens::{
    Inventory, Issuer, JOURNAL_CAPACITY, Oidc, Opened, Prepared, Schedule, WRAPPING_KEY, router, watch,
    watch_hosts,
};

const SANDBOX: &str = include_str!("../../../sandbox/tokens.toml");
const WRAPPING_FILE: &str = "wrapping.sealed";
const STORE_FILE: &str = "tokens.redb";
const NAME: &str = "azote:service/tokens";

/// Signs short-lived bearer tokens from the rights configuration, and writes down each decision first.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the keys, seal them in the TPM, and print a certificate request
    Enrol(Home),
    /// Serve
    Run(Box<Run>),
}

#[derive(clap::Args)]
struct Run {
    #[command(flatten)]
    home: Home,
    #[command(flatten)]
    door: Door,
    /// Folder with the rights configuration; without it, the one that was compiled in
    #[arg(long, value_name = "DIR")]
    rights: Option<PathBuf>,
    /// Review of the rights configuration, signed by two people
    #[arg(long, value_name = "FILE")]
    review: PathBuf,
    /// Who may review, and their keys
    #[arg(long, value_name = "FILE")]
    reviewers: PathBuf,
    /// Every host with its fleet, environment and attestation
    #[arg(long, value_name = "FILE")]
    inventory: PathBuf,
    /// OpenID provider for operators who come without a certificate
    #[arg(long, value_name = "FILE")]
    oidc: Option<PathBuf>,
    /// Decisions that are kept until the audit service has taken them over
    #[arg(long, value_name = "ENTRIES", default_value_t = JOURNAL_CAPACITY, value_parser = clap::value_parser!(u64).range(16..))]
    journal: u64,
    /// Seconds from the announcement of a signing key to its first signature: hosts must hear of it in between
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    overlap: u64,
    /// Follow each signing key by the next one after so many seconds; without it, only when the pipeline asks
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    rotate_after: Option<u64>,
    /// For how many seconds a host that was found to be what it should be counts as that; afterwards as unknown
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    appraised_for: u64,
    /// How far hosts' clocks may be behind this one: so much longer is an old key trusted than its tokens live
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    skew: u64,
}

fn main() -> ExitCode {
    process::main(|Arguments { command }| match command {
        Command::Enrol(home) => enrol(&home),
        Command::Run(run) => run.serve(),
    })
}

fn enrol(home: &Home) -> Result<(), Failure> {
    let path = home.state.join(WRAPPING_FILE);
    if !path.exists() {
        // A random key of the same length as a seed.
        seal_to(&path, &mut home.tpm()?, Key::generate()?.seed())?;
    }
    home.enrol()
}

impl Run {
    fn serve(self) -> Result<(), Failure> {
        let inventory = Inventory::parse(&text(&self.inventory)?)?;
        let oidc = self.oidc.as_deref().map(provider).transpose()?;
        let state = &self.home.state;
        let mut store = Opened::open(&state.join(STORE_FILE), self.journal)?;
        let rights = self.reviewed(&mut store)?;
        let wrapping = unseal_from(&state.join(WRAPPING_FILE), &mut self.home.tpm()?)?;
        if wrapping.len() != WRAPPING_KEY {
            return Err(format!("{WRAPPING_FILE} is of another release").into());
        }
        let hosts = store.hosts()?;
        let keys = Prepared::open(&mut store, &wrapping)?;
        drop(wrapping);
        let key = self.home.key()?;
        let trust = self.door.trust()?;
        let opened =
            if oidc.is_some() { self.door.open_to_all(key, &trust) } else { self.door.open(key, &trust) }?;
        Policy::parse(SANDBOX)?.enter(&[])?;
        let life = rights.quotas().token.longest_seconds.saturating_add(self.skew);
        let recorder = store.start();
        let schedule = Schedule { overlap: self.overlap, rotate_after: self.rotate_after, life };
        let keyring = keys.start(recorder.clone(), schedule);
        let name: Identity = NAME.parse()?;
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let inventory = inventory.knowing(hosts, self.appraised_for, now);
        let issuer = Arc::new(Issuer { name, rights, inventory, oidc, recorder, keyring });
        watch_hosts(&issuer, Duration::from_secs((self.appraised_for / 10).clamp(1, 60)));
        let watching = issuer.clone();
        Ok(opened.serve_and_tell(router(issuer), move |incident| watch(&watching, incident))?)
    }

    /// The rights configuration, if two people other than its author have reviewed it as a change of the one in
    /// force. What is refused is in the journal, for the audit service to see when the service runs again.
    fn reviewed(&self, store: &mut Opened) -> Result<Rights, Failure> {
        let sources = Sources::of(self.rights.as_deref())?;
        let (review, reviewers) = (text(&self.review)?, text(&self.reviewers)?);
        store.reviewers_are(&reviewers)?;
        match Reviewed::check(&sources, &review, &reviewers, store.rights()?) {
            Ok(reviewed) => {
                tracing::info!(set = %reviewed.set, by = reviewed.by, "the rights configuration is reviewed");
                store.put_in_force(&reviewed)?;
                Ok(reviewed.rights)
            }
            Err(unfit) => {
                store.refuse_rights(unfit.code, &unfit.why)?;
                Err(unfit.into())
            }
        }
    }
}

fn provider(path: &Path) -> Result<Oidc, Failure> {
    let beside = path.parent().unwrap_or(Path::new("."));
    Ok(Oidc::parse(&text(path)?, |keys| fs::read_to_string(beside.join(keys)))?)
}

fn text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()).into())
}
