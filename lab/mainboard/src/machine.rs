//! One QEMU process at a time.

use crate::{
    Message, Options,
    arguments::{Accelerator, Hardware, arguments, function},
    bmc::Bmc,
    board::{Event, Functions, Machine},
    console::Console,
    qmp::{Notice, Qmp, QmpError},
};
use ids::Slot;
use parts::{Parts, Tool};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde_json::{Value, json};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead, BufReader, Read},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use wire::Fault;

/// First argument of this program when it is about to become QEMU.
const BECOME: &str = "become-machine";
/// How long QEMU may take until it speaks.
const START: Duration = Duration::from_secs(20);
/// How many bytes of QEMU's own messages are logged, for each start.
const MAX_MESSAGES: u64 = 32 * 1024;

/// Why QEMU does not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It could not be started.
    #[error("cannot start QEMU: {0}")]
    Start(#[from] io::Error),
    /// It ended at once; what it said is in the log.
    #[error("QEMU ended at once: are the firmware's and the functions' sockets there?")]
    Ended,
    /// It does not speak.
    #[error("QEMU did not speak within {} s", START.as_secs())]
    Silent,
    /// Its machine protocol.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

/// If these are the arguments of a process that is to become QEMU, becomes it: one that the kernel kills when
/// its main board ends, however that ends. Comes back with why that failed, or with nothing if the arguments
/// are others.
pub fn become_machine(mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    if arguments.nth(1)? != BECOME {
        return None;
    }
    let (parent, program) = (arguments.next(), arguments.next());
    let parent = parent.and_then(|text| Pid::from_raw(text.to_str()?.parse().ok()?));
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Some(format!("cannot bind QEMU's life to the main board's: {error}"));
    }
    // The main board may have ended before the kernel was told.
    let (Some(program), true) = (program, parent.is_some() && parent == getppid()) else {
        return Some("only the main board becomes a machine".to_owned());
    };
    Some(format!("{}: {}", program.to_string_lossy(), Command::new(&program).args(arguments).exec()))
}

#[derive(Debug)]
struct Running {
    child: Child,
    qmp: Qmp,
}

/// QEMU as the board's machine.
pub(crate) struct Qemu {
    parts: Parts,
    accelerator: Accelerator,
    firmware: PathBuf,
    /// Where the function is that leads to the buses.
    buses: Option<PathBuf>,
    bmc: Bmc,
    memory: u32,
    cpus: u8,
    qmp: PathBuf,
    console: Arc<Console>,
    messages: mpsc::Sender<Message>,
    generation: u64,
    running: Option<Running>,
}

impl Qemu {
    pub(crate) fn new(
        parts: Parts,
        options: &Options,
        console: Arc<Console>,
        messages: mpsc::Sender<Message>,
    ) -> Self {
        let mut qmp = options.control.clone().into_os_string();
        qmp.push(".qmp");
        Self {
            parts,
            accelerator: Accelerator::of_this_machine(),
            firmware: options.firmware.clone(),
            buses: options.cpu_bus.as_ref().map(|_| options.buses()),
            bmc: Bmc::new(options.bmc_bus.clone()),
            memory: options.memory,
            cpus: options.cpus,
            qmp: qmp.into(),
            console,
            messages,
            generation: 0,
            running: None,
        }
    }

    pub(crate) fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Counts QEMU processes, so that a message from one that was ended is known as such.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// A fresh QEMU, powered, processors held, no functions.
    pub(crate) fn try_park(&mut self) -> Result<(), MachineError> {
        self.launch(&Functions::new())
    }

    fn try_start(&mut self, functions: &Functions) -> Result<(), MachineError> {
        self.launch(functions)?;
        self.ask("cont", &json!({}))
    }

    fn ask(&mut self, command: &'static str, arguments: &Value) -> Result<(), MachineError> {
        let running = self.running.as_mut().ok_or(MachineError::Ended)?;
        running.qmp.execute(command, arguments)?;
        Ok(())
    }

    /// Ends what runs and starts a fresh QEMU that waits.
    fn launch(&mut self, functions: &Functions) -> Result<(), MachineError> {
        self.stop();
        let began = Instant::now();
        self.generation += 1;
        let _ = fs::remove_file(&self.qmp);
        let listener = UnixListener::bind(&self.qmp)?;
        let (port, serial) = UnixStream::pair()?;
        let hardware = Hardware {
            accelerator: self.accelerator,
            firmware: &self.firmware,
            buses: self.buses.as_deref(),
            memory: self.memory,
            cpus: self.cpus,
            functions,
        };
        let mut command = bound_to_this_process(&self.parts.command(Tool::Qemu))?;
        command.args(arguments(&hardware, &self.qmp)).stderr(Stdio::piped());
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(serial.try_clone()?)));
        command.stdout(Stdio::from(std::os::fd::OwnedFd::from(serial)));
        let mut child = command.spawn()?;
        // The command keeps the guest's end of the serial line open: the console would never see it end.
        drop(command);
        if let Some(pipe) = child.stderr.take() {
            std::thread::spawn(move || log_messages(pipe));
        }
        let greeted = accept(&listener, &mut child).and_then(|stream| {
            let (generation, messages) = (self.generation, self.messages.clone());
            let tell = move |event| drop(messages.send(Message::Machine { generation, event }));
            Ok(Qmp::new(stream, move |notice| event_of(&notice).into_iter().for_each(&tell))?)
        });
        let _ = fs::remove_file(&self.qmp);
        match greeted {
            Ok(qmp) => self.running = Some(Running { child, qmp }),
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        }
        self.console.attach(port)?;
        tracing::info!(generation = self.generation, took = ?began.elapsed(), "QEMU waits, processors held");
        Ok(())
    }
}

impl Machine for Qemu {
    fn start(&mut self, functions: &Functions) -> Result<(), Fault> {
        self.try_start(functions).map_err(|error| {
            self.stop();
            fault(&error)
        })
    }

    fn park(&mut self) -> Result<(), Fault> {
        self.try_park().map_err(|error| fault(&error))
    }

    fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            end(&mut running.child);
        }
    }

    fn hot_plug(&mut self, slot: Slot, socket: &Path) -> Result<(), Fault> {
        self.ask("device_add", &function(slot, socket)).map_err(|error| fault(&error))
    }

    fn start_bmc(&mut self) -> Result<(), Fault> {
        self.bmc.start()
    }

    fn press_power_button(&mut self) -> Result<(), Fault> {
        self.ask("system_powerdown", &json!({})).map_err(|error| fault(&error))
    }
}

/// QEMU's own words stay in the log.
fn fault(error: &MachineError) -> Fault {
    tracing::error!(%error);
    Fault::new("board.machine", "the emulator did not follow: the main board's log says why")
}

/// What the board must follow of what QEMU says.
fn event_of(notice: &Notice) -> Option<Event> {
    match notice {
        Notice::Ended => Some(Event::Died),
        Notice::Event { name, data } if name == "SHUTDOWN" => {
            let reset = data.get("reason").and_then(Value::as_str) == Some("guest-reset");
            Some(if reset { Event::GuestReset } else { Event::GuestOff })
        }
        Notice::Event { .. } => None,
    }
}

/// This program, about to become `command`.
fn bound_to_this_process(command: &Command) -> io::Result<Command> {
    let mut bound = Command::new(std::env::current_exe()?);
    bound.arg(BECOME).arg(std::process::id().to_string()).arg(command.get_program()).args(command.get_args());
    let known = |(name, value): (&'_ OsStr, Option<&'_ OsStr>)| Some((name.to_owned(), value?.to_owned()));
    bound.envs(command.get_envs().filter_map(known));
    Ok(bound)
}

/// Waits for QEMU's connection, and for QEMU's end if that comes first.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream, MachineError> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + START;
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if child.try_wait()?.is_some() => return Err(MachineError::Ended),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Err(MachineError::Silent)
}

fn end(child: &mut Child) {
    if let Err(error) = child.kill() {
        tracing::warn!(%error, "cannot end QEMU");
    }
    match child.wait() {
        Ok(status) => tracing::info!(%status, "QEMU ended"),
        Err(error) => tracing::warn!(%error, "cannot wait for QEMU"),
    }
}

/// QEMU's messages, as far as they are few; the guest can make it say much.
fn log_messages(pipe: impl Read) {
    let mut reader = BufReader::new(pipe);
    for line in reader.by_ref().take(MAX_MESSAGES).lines().map_while(Result::ok) {
        tracing::warn!(target: "qemu", "{line}");
    }
    if let Ok(1..) = io::copy(&mut reader, &mut io::sink()) {
        tracing::warn!(target: "qemu", "more was said and left out");
    }
}
