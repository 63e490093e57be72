//! One hypervisor process with one machine, its controller's and its tenant's parts played here.

use crate::{Error, report::Lines};
use ids::InstanceId;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use seal::console::Tenant;
use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};
use wire::{
    Link,
    hypervisor::{Create, Reply, Request, State, Statistics},
};

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Size {
    /// Virtual processors.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// A machine.
pub struct Rig {
    child: Child,
    control: Link<Request, Reply>,
    /// Functions of the host's hardware may come; to be said before the machine is built.
    pub passthrough: bool,
    console: Tenant,
    read: u64,
    lines: Lines,
}

/// A file of these bytes that nobody can change any more.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd, Error> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// A new process and its controller's end.
fn start(program: &Path) -> Result<(Link<Request, Reply>, Child), Error> {
    let (control, theirs) = Link::<Request, Reply>::pair()?;
    let mut command = Command::new(program);
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let child = command.spawn().map_err(Error::start(program))?;
    Ok((control, child))
}

fn kvm() -> Result<File, Error> {
    Ok(File::options().read(true).write(true).open("/dev/kvm")?)
}

impl Rig {
    /// Starts `program`, the hypervisor, with nothing in it.
    pub fn start(program: &Path) -> Result<Self, Error> {
        let (control, child) = start(program)?;
        Ok(Self {
            child,
            control,
            passthrough: false,
            console: Tenant::new(InstanceId::from_random(1))?,
            read: 0,
            lines: Lines::default(),
        })
    }

    /// Builds the machine, paused.
    pub fn create(
        &self,
        size: &Size,
        words: &str,
        kernel: &OwnedFd,
        initrd: Option<&OwnedFd>,
    ) -> Result<(), Error> {
        let create = Create {
            instance: InstanceId::from_random(1),
            instance_type: "azote.test".to_owned(),
            cpus: size.cpus,
            threads_per_core: 1,
            pins: Vec::new(),
            memory_mib: size.memory_mib,
            command_line: words.to_owned(),
            console_key: Some(self.console.public_key().to_vec()),
            passthrough: self.passthrough,
            instructions: wire::hypervisor::Instructions::All,
            reserved: false,
        };
        let kvm = kvm()?;
        let mut fds = vec![kvm.as_fd(), kernel.as_fd()];
        fds.extend(initrd.map(AsFd::as_fd));
        match self.control.call(&Request::Create(Box::new(create)), &fds)? {
            Reply::Created(_) => Ok(()),
            other => Err(Error::refused(other)),
        }
    }

    /// Lets the machine go on in a new process of `program`; `false` if it came to its end before it moved.
    pub fn move_on(&mut self, program: &Path) -> Result<bool, Error> {
        let (control, mut child) = start(program)?;
        let kvm = kvm()?;
        let (out, into) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        self.ask(&Request::Pause, &[])?;
        if self.statistics()?.state != State::Paused {
            drop(control);
            child.wait()?;
            return Ok(false);
        }
        control.send(&Request::StateIn, &[kvm.as_fd(), into.as_fd()])?;
        drop(into);
        self.ask(&Request::StateOut { copy: false }, &[&out])?;
        match control.receive()?.0 {
            Reply::Done => {}
            other => return Err(Error::refused(other)),
        }
        self.ask(&Request::Stop, &[])?;
        self.control = control;
        std::mem::replace(&mut self.child, child).wait()?;
        // Another process has another key.
        self.console.trust(None);
        self.ask(&Request::Resume, &[])?;
        Ok(true)
    }

    /// Asks for something that is done or refused.
    pub fn ask(&self, request: &Request, fds: &[&OwnedFd]) -> Result<(), Error> {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        match self.control.call(request, &fds)? {
            Reply::Done => Ok(()),
            other => Err(Error::refused(other)),
        }
    }

    /// Numbers.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        match self.control.call(&Request::Statistics, &[])? {
            Reply::Statistics(numbers) => Ok(*numbers),
            other => Err(Error::refused(other)),
        }
    }

    /// The lines that came since the last call.
    pub fn lines(&mut self) -> Result<Vec<String>, Error> {
        let mut lines = Vec::new();
        loop {
            match self.control.call(&Request::ConsoleRead { after: self.read }, &[])? {
                Reply::Console { sealed, .. } if sealed.is_empty() => return Ok(lines),
                Reply::Console { next, sealed } => {
                    lines.extend(self.lines.take(&self.console.open(next, &sealed)?.bytes));
                    self.read = next;
                }
                other => return Err(Error::refused(other)),
            }
        }
    }

    /// Types a line on the console; the machine must have been heard from.
    pub fn type_line(&mut self, line: &str) -> Result<(), Error> {
        let sealed = self.console.seal(format!("{line}\n").as_bytes())?;
        let sealed =
            sealed.ok_or_else(|| Error::Unexpected("nothing was heard from the machine".to_owned()))?;
        self.ask(&Request::ConsoleWrite { sealed }, &[])
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the machine in order and gives the process's status.
    pub fn stop(mut self) -> Result<ExitStatus, Error> {
        self.ask(&Request::Stop, &[])?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
