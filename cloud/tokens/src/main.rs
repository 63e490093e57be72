//! azote-tokens: the token service.

use clap::{Parser, Subcommand};
use ids::Identity;
use sandbox::Policy;
use service::{
    Key,
    process::{self, Door, Failure, Home},
    seal_to, unseal_from,
};
use std::{fs, path::PathBuf, process::ExitCode};
use tokens::{Issuer, Rights, router};

const SANDBOX: &str = include_str!("../../../sandbox/tokens.toml");
const RIGHTS: &str = include_str!("../../../policies/rights.toml");
const SIGNING_FILE: &str = "signing.sealed";
const NAME: &str = "azote:service/tokens";

/// Signs short-lived bearer tokens from the rights configuration.
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
    Run {
        #[command(flatten)]
        home: Home,
        #[command(flatten)]
        door: Door,
        /// Rights configuration; without it, the one that was compiled in
        #[arg(long, value_name = "FILE")]
        rights: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    process::main(|Arguments { command }| match command {
        Command::Enrol(home) => enrol(&home),
        Command::Run { home, door, rights } => run(&home, &door, rights),
    })
}

fn enrol(home: &Home) -> Result<(), Failure> {
    let path = home.state.join(SIGNING_FILE);
    if !path.exists() {
        seal_to(&path, &mut home.tpm()?, Key::generate()?.seed())?;
    }
    home.enrol()
}

fn run(home: &Home, door: &Door, rights: Option<PathBuf>) -> Result<(), Failure> {
    let rights = match rights {
        Some(path) => Rights::parse(&fs::read_to_string(path)?)?,
        None => Rights::parse(RIGHTS)?,
    };
    let signing = Key::from_seed(&unseal_from(&home.state.join(SIGNING_FILE), &mut home.tpm()?)?)?;
    let opened = door.open(home.key()?)?;
    Policy::parse(SANDBOX)?.enter(&[])?;
    let name: Identity = NAME.parse()?;
    Ok(opened.serve(router(Issuer::new(name, signing, rights)))?)
}
