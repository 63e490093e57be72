//! azote-security-chip: the shell around the chip's decisions. It owns the firmware flash image files, serves them
//! to the main board over NBD, holds the main board's reset line and obeys the controller. It only listens; after
//! start it opens nothing.
#![forbid(unsafe_code)]

mod board;
mod clients;
mod control;
mod flash;
mod server;

use clap::Parser;
use rustix::{fs::Mode, process::umask};
use std::{
    error::Error,
    fs,
    os::unix::{fs::FileTypeExt, net::UnixListener},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Holds the main board's reset and owns its firmware flash.
#[derive(Debug, Parser)]
#[command(name = "azote-security-chip", version)]
struct Args {
    /// Image of the firmware's code; changed only by authorised updates
    #[arg(long)]
    code: PathBuf,
    /// Image of the firmware's variables; never changed
    #[arg(long)]
    variables: PathBuf,
    /// Socket to make: the main board's flash (NBD exports `code` and `variables`)
    #[arg(long)]
    nbd: PathBuf,
    /// Socket to make: the controller
    #[arg(long)]
    control: PathBuf,
    /// Socket to make: the main board's reset line
    #[arg(long)]
    line: PathBuf,
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter.from_env_lossy())
        .init();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let policy = sandbox::Policy::parse(include_str!("../../../sandbox/security-chip.toml"))?;
    // Sockets are for this user alone.
    umask(Mode::RWXG | Mode::RWXO);
    let flash = flash::FlashFiles::open(&args.code, &args.variables)
        .map_err(|error| format!("cannot own the flash images: {error}"))?;
    for path in [&args.nbd, &args.control, &args.line] {
        remove_stale(path);
    }
    let nbd = UnixListener::bind(&args.nbd).map_err(|error| format!("{}: {error}", args.nbd.display()))?;
    let listen =
        |path: &Path| wire::Listener::bind(path).map_err(|error| format!("{}: {error}", path.display()));
    let (control, line) = (listen(&args.control)?, listen(&args.line)?);
    policy.enter(&[])?;
    tracing::info!("holding reset");
    Ok(server::Server::new(flash, nbd, control, line)?.run()?)
}

/// Removes a socket that a killed predecessor left. The flash is locked, so nobody listens on it.
fn remove_stale(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).unwrap_or_default();
    }
}
