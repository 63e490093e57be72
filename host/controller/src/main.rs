//! azote-controller: root of trust of a host, and its only door.

use clap::{Parser, Subcommand};
use controller::run::{Options, run};
use ids::HostId;
use service::process::{self, Failure, Home};
use std::{
    io::{Write, stdout},
    process::ExitCode,
};

/// Root of trust of a host, and its only door.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the host's key, seal it in the TPM, and print a certificate request
    Enrol {
        #[command(flatten)]
        home: Home,
        /// The host that the authority will name in the certificate
        #[arg(long, value_name = "ID")]
        host: HostId,
    },
    /// Measure, verify, release reset, and serve the controller API
    Run(Box<Options>),
    /// Print the OpenAPI document of the controller API
    Openapi,
}

fn main() -> ExitCode {
    process::main(|Arguments { command }| match command {
        Command::Enrol { home, host } => enrol(&home, &host),
        Command::Run(options) => run(&options),
        Command::Openapi => Ok(stdout().write_all(host_api::openapi().as_bytes())?),
    })
}

fn enrol(home: &Home, host: &HostId) -> Result<(), Failure> {
    tracing::info!(%host, "enrolling: the authority must certify this request for this host");
    home.enrol()
}
