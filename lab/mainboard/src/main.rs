//! The lab's emulated main board, a stand-in for hardware.
#![forbid(unsafe_code)]

use clap::Parser;
use mainboard::Options;
use rustix::{fs::Mode, process::umask};
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// The lab's emulated main board: hardware's stand-in. QEMU, held in reset by the security chip.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The security chip's reset lines (Unix socket)
    #[arg(long, value_name = "SOCK")]
    line: PathBuf,
    /// The security chip's firmware flash (NBD, Unix socket)
    #[arg(long, value_name = "SOCK")]
    firmware: PathBuf,
    /// The security chip's SPI and I²C buses for the processors (Unix socket) [default: not wired]
    #[arg(long, value_name = "SOCK")]
    cpu_bus: Option<PathBuf>,
    /// The security chip's SPI and I²C buses for the BMC (Unix socket) [default: the BMC has no flash]
    #[arg(long, value_name = "SOCK")]
    bmc_bus: Option<PathBuf>,
    /// Where to listen for the controller (Unix socket)
    #[arg(long, value_name = "SOCK")]
    control: PathBuf,
    /// Where to offer the serial console (Unix stream socket)
    #[arg(long, value_name = "SOCK")]
    console: PathBuf,
    /// Folder of the lab's parts
    #[arg(long, value_name = "DIR", env = "AZOTE_LAB_DIR", default_value_os_t = parts::default_dir())]
    parts: PathBuf,
    /// Memory
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=65536))]
    memory: u32,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    cpus: u8,
}

fn log() {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours);
    builder.with_env_filter(filter.from_env_lossy()).init();
}

fn main() -> ExitCode {
    if let Some(failure) = mainboard::become_machine(std::env::args_os()) {
        log();
        tracing::error!("{failure}");
        return ExitCode::FAILURE;
    }
    let a = Arguments::parse();
    log();
    // Sockets are for this user alone.
    umask(Mode::RWXG | Mode::RWXO);
    let options = Options {
        line: a.line,
        firmware: a.firmware,
        cpu_bus: a.cpu_bus,
        bmc_bus: a.bmc_bus,
        control: a.control,
        console: a.console,
        parts: a.parts,
        memory: a.memory,
        cpus: a.cpus,
    };
    match mainboard::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
