//! Files, memory that can be sealed, and the way to the TPM.
#![forbid(unsafe_code)]

use boot_rom::{
    Refusal,
    report::Line,
    tpm::{Bus, MAX_FRAME, response_size},
};
use core::ffi::CStr;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags, Timespec},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// What this program keeps open lies above what it hands on.
const KEPT: i32 = 16;
/// Longest path in bytes.
const PATH: usize = 4096;

/// Opens a file to read.
pub(crate) fn open(path: &CStr) -> Option<OwnedFd> {
    kept(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?)
}

fn kept(file: OwnedFd) -> Option<OwnedFd> {
    fcntl_dupfd_cloexec(file, KEPT).ok()
}

/// Whether it is a file that nobody may write.
pub(crate) fn is_read_only(file: impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        let writable = Mode::WUSR | Mode::WGRP | Mode::WOTH;
        FileType::from_raw_mode(stat.st_mode).is_file()
            && !Mode::from_raw_mode(stat.st_mode).intersects(writable)
    })
}

/// Reads until `to` is full or nothing is left; gives how much came. `None` if reading fails.
pub(crate) fn fill(from: impl AsFd, to: &mut [u8]) -> Option<usize> {
    let mut have = 0;
    while have < to.len() {
        match rustix::io::read(&from, to.get_mut(have..)?) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(have)
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&to, bytes) {
            Ok(0) => return None,
            Ok(written) => bytes = bytes.get(written..)?,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// Memory that is written once, then sealed against every change, and read from its start.
pub(crate) struct Sealed(OwnedFd);

impl Sealed {
    /// Empty memory.
    pub(crate) fn new(name: &CStr) -> Option<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the flag that says that it will be executed, and need it not.
        let made = rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC);
        kept(made.or_else(|_| rustix::fs::memfd_create(name, flags)).ok()?).map(Self)
    }

    /// Appends.
    pub(crate) fn write(&self, bytes: &[u8]) -> Option<()> {
        write_all(&self.0, bytes)
    }

    /// Ends writing.
    pub(crate) fn seal(self) -> Option<OwnedFd> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.0, seals).ok()?;
        rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Start(0)).ok()?;
        Some(self.0)
    }
}

/// The TPM: a Unix socket or a character device.
pub(crate) struct Port(OwnedFd);

impl Port {
    pub(crate) fn open(path: &CStr) -> Option<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::stat(path).ok()?.st_mode);
        if kind.is_socket() {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            let socket = kept(socket.ok()?)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
            Some(Self(socket))
        } else {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            kept(rustix::fs::open(path, flags, Mode::empty()).ok()?).map(Self)
        }
    }
}

impl Bus for Port {
    fn exchange(&mut self, command: &[u8], response: &mut [u8; MAX_FRAME]) -> Option<usize> {
        write_all(&self.0, command)?;
        // A device gives a whole response to one read; a socket may give it in pieces.
        let mut have = 0;
        loop {
            match rustix::io::read(&self.0, response.get_mut(have..)?) {
                Ok(0) => return None,
                Ok(more) => have += more,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
            if have >= 6 {
                let size = response_size(response.get(..have)?)?;
                if have >= size {
                    return (have == size).then_some(have);
                }
            }
        }
    }

    fn pause(&mut self) {
        // Being woken early is no harm.
        let _ = rustix::thread::nanosleep(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 });
    }
}

/// Says a line on standard error; if that is closed, nobody listens.
pub(crate) fn say(line: core::fmt::Arguments<'_>) {
    let _ = write_all(crate::machine::standard_error(), Line::of(line).bytes());
}

/// Removes the report of an earlier start.
pub(crate) fn forget_report(path: &CStr) {
    // Mostly there is none.
    let _ = rustix::fs::unlink(path);
}

/// Writes the report beside its place, then puts it there whole. What cannot be written was said on standard error.
pub(crate) fn write_report(path: &CStr, line: &[u8]) {
    let _ = replace(path, line);
}

fn replace(path: &CStr, line: &[u8]) -> Option<()> {
    let mut beside = [0; PATH];
    for (to, from) in beside.iter_mut().zip(path.to_bytes().iter().chain(b".new")) {
        *to = *from;
    }
    let beside = CStr::from_bytes_until_nul(&beside).ok()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::open(beside, flags, Mode::from_raw_mode(0o644)).ok()?;
    write_all(&file, line)?;
    rustix::fs::fsync(&file).ok()?;
    rustix::fs::rename(beside, path).ok()
}

/// Gives up what was inherited by chance; nothing that this process becomes gains rights by what it executes.
pub(crate) fn renounce() -> Result<(), Refusal> {
    crate::machine::close_inherited()?;
    rustix::thread::set_no_new_privs(true).map_err(|_| Refusal::Start)
}

/// A descriptor to be handed on.
pub(crate) fn hand_on(file: &OwnedFd, at: i32) -> Result<(), Refusal> {
    let file: BorrowedFd<'_> = file.as_fd();
    crate::machine::place(file, at)
}
