//! azote-security-chip: the shell around the chip's decisions. It owns the firmware flash image files, serves them
//! to the main board over NBD, serves the board's SPI and I²C buses, holds its reset lines and obeys the controller.
//! It only listens; after start it opens nothing.
#![forbid(unsafe_code)]

mod board;
mod buses;
mod clients;
mod control;
mod flash;
mod identity;
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
    /// Image of the processors' firmware; changed only by authorised updates
    #[arg(long)]
    code: PathBuf,
    /// Image of the BMC's firmware; changed only by authorised updates [default: the BMC has no flash]
    #[arg(long)]
    bmc: Option<PathBuf>,
    /// Image of the firmware's variables; never changed
    #[arg(long)]
    variables: PathBuf,
    /// Socket to make: the main board's flash (NBD exports `code` and `variables`)
    #[arg(long)]
    nbd: PathBuf,
    /// Socket to make: the controller
    #[arg(long)]
    control: PathBuf,
    /// Socket to make: the main board's reset lines
    #[arg(long)]
    line: PathBuf,
    /// Socket to make: the processors' SPI and I²C buses [default: not wired]
    #[arg(long)]
    cpu_bus: Option<PathBuf>,
    /// Socket to make: the BMC's SPI and I²C buses [default: not wired]
    #[arg(long)]
    bmc_bus: Option<PathBuf>,
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
    let flash = flash::FlashFiles::open(&args.code, &args.variables, args.bmc.as_deref())
        .map_err(|error| format!("cannot own the flash images: {error}"))?;
    let paths = [
        Some(&args.nbd),
        Some(&args.control),
        Some(&args.line),
        args.cpu_bus.as_ref(),
        args.bmc_bus.as_ref(),
    ];
    paths.into_iter().flatten().for_each(|path| remove_stale(path));
    let nbd = UnixListener::bind(&args.nbd).map_err(|error| format!("{}: {error}", args.nbd.display()))?;
    let listen =
        |path: &Path| wire::Listener::bind(path).map_err(|error| format!("{}: {error}", path.display()));
    let sockets = server::Sockets {
        flash: nbd,
        control: listen(&args.control)?,
        line: listen(&args.line)?,
        buses: [
            args.cpu_bus.as_deref().map(listen).transpose()?,
            args.bmc_bus.as_deref().map(listen).transpose()?,
        ],
    };
    policy.enter(&[])?;
    tracing::info!("holding every line");
    Ok(server::Server::new(flash, sockets)?.run()?)
}

/// Removes a socket that a killed predecessor left. The flash is locked, so nobody listens on it.
fn remove_stale(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path).unwrap_or_default();
    }
}
