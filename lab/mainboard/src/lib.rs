//! The lab's main board: **an emulator in the place of hardware**. It is QEMU with firmware flash that belongs
//! to the security chip (NBD), a reset line that the chip holds, sixteen PCIe slots for functions that cards
//! serve (vfio-user), a serial port, and a management controller (BMC) that the host's controller speaks to.
//! Never shipped to a host: there a real board does this. It verifies nothing and keeps nothing; it owns no
//! disk, no network and no TPM.
//!
//! Everything inside QEMU belongs to the guest and is hostile to the host. What comes out of it is handled
//! with bounds: QMP lines, console bytes, QEMU's own messages. The chip decides when processors run; when its
//! line is cut, the board holds. Each start, and each reset by the guest, is a fresh QEMU, so that the flash is
//! read from the chip again.
#![forbid(unsafe_code)]

mod arguments;
mod bmc;
mod board;
mod buses;
mod console;
mod links;
mod machine;
mod qmp;

pub use arguments::Accelerator;
pub use machine::{MachineError, become_machine};

use board::{Board, Event, Machine};
use console::Console;
use links::Published;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
};
use wire::{Fault, LinkError};

/// What the board is made of and where its sockets are.
#[derive(Debug, Clone)]
pub struct Options {
    /// The security chip's reset line: connected to, again and again if it is cut.
    pub line: PathBuf,
    /// The security chip's NBD socket with the exports `code` and `variables`.
    pub firmware: PathBuf,
    /// The security chip's socket for the processors' SPI and I²C buses; none if they are not wired.
    pub cpu_bus: Option<PathBuf>,
    /// Its socket for the BMC's buses, if the BMC has a flash of its own.
    pub bmc_bus: Option<PathBuf>,
    /// The BMC's socket, bound here.
    pub control: PathBuf,
    /// The serial console's socket, bound here.
    pub console: PathBuf,
    /// The folder of the lab's parts.
    pub parts: PathBuf,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u8,
}

impl Options {
    /// Where the emulator finds the function that is the processors' way to the buses.
    fn buses(&self) -> PathBuf {
        let mut path = self.control.clone().into_os_string();
        path.push(".buses");
        path.into()
    }
}

/// Why the board could not be powered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No QEMU.
    #[error(transparent)]
    Parts(#[from] parts::Error),
    /// QEMU did not start.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A socket could not be bound.
    #[error("cannot listen at {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A private socket could not be bound.
    #[error("cannot listen at {}: {source}", path.display())]
    Link {
        /// Where.
        path: PathBuf,
        /// Why.
        source: LinkError,
    },
    /// Signals could not be caught.
    #[error("cannot catch signals: {0}")]
    Signals(#[source] io::Error),
}

/// What the board's one loop acts on.
pub(crate) enum Message {
    /// From a link; the answer goes back.
    Event(Event, mpsc::SyncSender<Result<(), Fault>>),
    /// The guest of this generation of QEMU stopped, or that QEMU is gone.
    Machine { generation: u64, event: Event },
    /// Stop everything.
    Terminate,
}

/// Powers the board, held in reset, and works until SIGTERM or SIGINT. Must run on the process's first
/// thread: QEMU dies with the thread that started it.
pub fn run(options: &Options) -> Result<(), Error> {
    let parts = parts::Parts::locate(&options.parts)?;
    let (messages, inbox) = mpsc::channel();
    let console = Arc::new(Console::default());
    let buses = options.buses();
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Listen { path, source }
    };
    let mut machine = machine::Qemu::new(parts, options, Arc::clone(&console), messages.clone());
    tracing::info!(
        accelerator = machine.accelerator().name(),
        reason = machine.accelerator().reason(),
        "this is an emulated main board, a stand-in for hardware"
    );
    if let Some(chip) = &options.cpu_bus {
        let _ = fs::remove_file(&buses);
        buses::serve(&buses, chip).map_err(refused(&buses))?;
    }
    machine.try_park()?;
    let mut board = Board::default();
    let published: Published = Arc::new(Mutex::new(board.status(machine.accelerator().name())));

    let _ = fs::remove_file(&options.console);
    console.listen(&options.console).map_err(refused(&options.console))?;
    let _ = fs::remove_file(&options.control);
    let control = wire::Listener::bind(&options.control)
        .map_err(|source| Error::Link { path: options.control.clone(), source })?;
    links::serve_control(control, messages.clone(), Arc::clone(&published));
    links::follow_line(options.line.clone(), messages.clone());
    terminate_on_signal(messages).map_err(Error::Signals)?;

    for message in inbox {
        match message {
            Message::Event(event, answer) => {
                let result = board.handle(event, &mut machine);
                publish(&published, &board, &machine);
                let _ = answer.send(result);
            }
            Message::Machine { generation, event } if generation == machine.generation() => {
                if let Err(fault) = board.handle(event, &mut machine) {
                    tracing::error!(code = fault.code, "{}", fault.message);
                }
                publish(&published, &board, &machine);
            }
            Message::Machine { .. } => {}
            Message::Terminate => break,
        }
    }
    machine.stop();
    for socket in [&options.console, &options.control, &buses] {
        let _ = fs::remove_file(socket);
    }
    Ok(())
}

fn publish(published: &Published, board: &Board, machine: &machine::Qemu) {
    *published.lock().unwrap_or_else(PoisonError::into_inner) = board.status(machine.accelerator().name());
}

fn terminate_on_signal(messages: mpsc::Sender<Message>) -> io::Result<()> {
    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        iterator::Signals,
    };
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = messages.send(Message::Terminate);
        }
    });
    Ok(())
}
