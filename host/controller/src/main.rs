//! azote-controller: root of trust of a host, and its only door.

use clap::{Parser, Subcommand};
use controller::{boot, enrol, run, update};
use service::process::{self, Failure};
use std::{
    fs,
    io::{Write, stdout},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Root of trust of a host, and its only door.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where to write why the host does not come up
    #[arg(long, value_name = "FILE", global = true)]
    report: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Make the keys of a host in its first state, have the authority say who it is, and install its first release
    Enrol(Box<enrol::Options>),
    /// Install the next release, the next configuration, or both, for the next start
    Update(Box<update::Options>),
    /// Measure, verify, release reset, and serve the controller API
    Run(Box<run::Options>),
    /// Print the OpenAPI document of the controller API
    Openapi,
}

fn main() -> ExitCode {
    let log = inherited_log();
    process::main(|Arguments { command, report }| {
        let report = report.as_deref();
        match command {
            Command::Enrol(options) => enrol::enrol(&options, &boot::handed(log)?),
            Command::Update(options) => reported(
                report,
                boot::handed(log).map_err(Into::into).and_then(|log| update::update(&options, &log)),
            ),
            Command::Run(options) => reported(
                report,
                boot::handed(log).map_err(Into::into).and_then(|log| run::run(&options, log, report)),
            ),
            Command::Openapi => Ok(stdout().write_all(host_api::openapi().as_bytes())?),
        }
    })
}

/// What the stages before have measured: they leave it in memory at a descriptor of its own. Whatever else may be there
/// was left by somebody who knows nothing of stages.
fn inherited_log() -> Option<OwnedFd> {
    let descriptor = boot_rom::events::DESCRIPTOR;
    let place = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    // SAFETY: it is open, and nothing in this process owns it: this is the first that the process does.
    place.to_str()?.starts_with("/memfd:").then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Reports why a host does not come up.
fn reported(report: Option<&Path>, outcome: Result<(), Failure>) -> Result<(), Failure> {
    if let (Some(path), Err(failure)) = (report, &outcome) {
        boot::report(path, &boot::halt(failure))?;
    }
    outcome
}
