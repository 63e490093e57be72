//! azote-kms: the key service.

use clap::{Parser, Subcommand};
use kms::{Kms, router};
use sandbox::Policy;
use seal::Secret;
use service::{
    process::{self, Door, Failure, Home},
    seal_to, unseal_from,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

const SANDBOX: &str = include_str!("../../../sandbox/kms.toml");
const ROOT_FILE: &str = "root.sealed";
const STORE_FILE: &str = "kms.redb";

/// Keeps customer keys, and opens volume keys for one host's card alone.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the identity key and the root key, seal them in the TPM, and print a certificate request
    Enrol(Home),
    /// Serve
    Run {
        #[command(flatten)]
        home: Home,
        #[command(flatten)]
        door: Door,
        /// What hosts must show that they are (`azote attest policy` makes it); without it, no host gets a key
        #[arg(long, value_name = "FILE")]
        attestation_policy: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    process::main(|Arguments { command }| match command {
        Command::Enrol(home) => enrol(&home),
        Command::Run { home, door, attestation_policy } => run(&home, &door, attestation_policy.as_deref()),
    })
}

fn enrol(home: &Home) -> Result<(), Failure> {
    let path = home.state.join(ROOT_FILE);
    if !path.exists() {
        if home.state.join(STORE_FILE).exists() {
            return Err(format!("{} is gone, but keys are under it: restore it", path.display()).into());
        }
        let mut root = Secret::<32>::zeroed()?;
        aws_lc_rs::rand::fill(root.expose_mut()).map_err(|_| "no random bytes")?;
        seal_to(&path, &mut home.tpm()?, root.expose())?;
    }
    home.enrol()
}

fn run(home: &Home, door: &Door, policy: Option<&Path>) -> Result<(), Failure> {
    let mut root = Secret::<32>::zeroed()?;
    let sealed = unseal_from(&home.state.join(ROOT_FILE), &mut home.tpm()?)?;
    let bytes: &[u8; 32] = sealed.as_slice().try_into()?;
    root.expose_mut().copy_from_slice(bytes);
    drop(sealed);
    let trust = door.trust()?;
    let policy = policy.map(read_policy).transpose()?;
    let kms = Kms::open(&home.state.join(STORE_FILE), root, Arc::clone(&trust), policy)?;
    let opened = door.open(home.key()?, &trust)?;
    Policy::parse(SANDBOX)?.enter(&[])?;
    Ok(opened.serve(router(kms))?)
}

fn read_policy(path: &Path) -> Result<attest::Policy, Failure> {
    let json = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(attest::Policy::parse(&json).map_err(|refusal| format!("{}: {refusal}", path.display()))?)
}
