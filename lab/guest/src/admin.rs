//! Commands to an NVMe controller of this machine, by the kernel's driver: what it takes to bring a virtual function
//! to life (NVM Express 1.4 §8.5).
#![allow(unsafe_code)]

use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
};
use std::{fs::File, path::Path};

/// Virtualization Management.
const MANAGE: u8 = 0x1c;
/// Whose resources, as controller ids.
const PRIMARY: u32 = 0;
const SECONDARY: u32 = 1;
/// What is done with them.
const PRIMARY_ALLOCATE: u32 = 1;
const SECONDARY_ASSIGN: u32 = 8;
const SECONDARY_ONLINE: u32 = 9;

/// `struct nvme_admin_cmd` of `linux/nvme_ioctl.h`.
#[derive(Default)]
#[repr(C)]
struct Command {
    operation: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_len: u32,
    data_len: u32,
    words_10: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

/// A controller that has secondary ones.
pub(crate) struct Controller(File);

impl Controller {
    /// By its device file.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }

    /// Takes all flexible resources from the controller itself; it must be reset then.
    pub(crate) fn release(&self) -> Result<(), Errno> {
        [0, 1].into_iter().try_for_each(|kind| self.manage(PRIMARY, kind, PRIMARY_ALLOCATE, 0))
    }

    /// Gives the first secondary controller so many queue pairs and as many interrupts, and starts it.
    pub(crate) fn start_secondary(&self, count: u32) -> Result<(), Errno> {
        [0, 1].into_iter().try_for_each(|kind| self.manage(SECONDARY, kind, SECONDARY_ASSIGN, count))?;
        self.manage(SECONDARY, 0, SECONDARY_ONLINE, 0)
    }

    /// `kind` of resource: 0 queues, 1 interrupts.
    fn manage(&self, controller: u32, kind: u32, action: u32, count: u32) -> Result<(), Errno> {
        const ADMIN: Opcode = opcode::read_write::<Command>(b'N', 0x41);
        let words_10 = [controller << 16 | kind << 8 | action, count, 0, 0, 0, 0];
        let mut command = Command { operation: MANAGE, words_10, ..Default::default() };
        // SAFETY: the request takes this structure.
        let call = unsafe { Updater::<ADMIN, Command>::new(&mut command) };
        // SAFETY: the kernel reads and writes the structure alone: the command has neither data nor metadata.
        unsafe { ioctl(&self.0, call) }?;
        Ok(())
    }
}
