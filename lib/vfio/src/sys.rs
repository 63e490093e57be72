//! VFIO's requests to the kernel (`linux/vfio.h`), and the only unsafe code of this crate.
#![allow(unsafe_code)]

use rustix::{
    io::{Errno, Result},
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode},
};
use std::{
    ffi::{CStr, c_void},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr::{null_mut, without_provenance_mut},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const fn request(number: u8) -> Opcode {
    opcode::none(b';', 100 + number)
}

// Of a container.
const CHECK_EXTENSION: Opcode = request(1);
const SET_IOMMU: Opcode = request(2);
const MAP_DMA: Opcode = request(13);
pub(crate) const UNMAP_DMA: Opcode = request(14);
// Of a group.
pub(crate) const GROUP_GET_STATUS: Opcode = request(3);
const GROUP_SET_CONTAINER: Opcode = request(4);
const GROUP_UNSET_CONTAINER: Opcode = request(5);
const GROUP_GET_DEVICE: Opcode = request(6);
// Of a device.
pub(crate) const GET_INFO: Opcode = request(7);
pub(crate) const GET_REGION_INFO: Opcode = request(8);
pub(crate) const GET_IRQ_INFO: Opcode = request(9);
pub(crate) const SET_IRQS: Opcode = request(10);
const RESET: Opcode = request(11);

/// The IOMMU of type 1, version 2: maps are taken back as they were given.
pub(crate) const TYPE1_V2: usize = 3;
/// The extension by which DMA is in step with the processors' caches.
pub(crate) const COHERENT: usize = 4;

pub(crate) const GROUP_VIABLE: u32 = 1;
pub(crate) const DEVICE_RESET: u32 = 1;
pub(crate) const DEVICE_PCI: u32 = 1 << 1;
pub(crate) const REGION_READ: u32 = 1;
pub(crate) const REGION_WRITE: u32 = 1 << 1;
pub(crate) const REGION_MMAP: u32 = 1 << 2;
pub(crate) const REGION_CAPS: u32 = 1 << 3;
pub(crate) const CAP_SPARSE_MMAP: u16 = 1;
pub(crate) const IRQ_NONE: u32 = 1 | 1 << 5;
pub(crate) const IRQ_EVENTFD: u32 = 1 << 2 | 1 << 5;
const MAP_READ_WRITE: u32 = 3;

macro_rules! structures {
    ($($name:ident { $($field:ident: $type:ty),* })*) => { $(
        #[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name { pub(crate) argsz: u32, $(pub(crate) $field: $type),* }
    )* };
}

structures! {
    GroupStatus { flags: u32 }
    DeviceInfo { flags: u32, regions: u32, irqs: u32 }
    RegionInfo { flags: u32, index: u32, capabilities: u32, size: u64, offset: u64 }
    IrqInfo { flags: u32, index: u32, count: u32 }
    IrqSet { flags: u32, index: u32, start: u32, count: u32 }
    Map { flags: u32, address: u64, iova: u64, size: u64 }
    Unmap { flags: u32, iova: u64, size: u64 }
}

/// The head of a region's capability.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Capability {
    pub(crate) id: u16,
    pub(crate) version: u16,
    pub(crate) next: u32,
}

struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: it answers with the number that the kernel returns. What the argument must be is up to who makes one.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(output)
    }
}

/// A request whose argument is a number.
fn number(fd: impl AsFd, opcode: Opcode, argument: usize) -> Result<i32> {
    let call = Call { opcode, argument: without_provenance_mut(argument) };
    // SAFETY: the few callers below name requests that take a number, no address.
    unsafe { ioctl(fd, call) }
}

/// A request whose argument is a structure that begins with its own size, and what follows it.
pub(crate) fn exchange(fd: impl AsFd, opcode: Opcode, bytes: &mut [u8]) -> Result<()> {
    let size = u32::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
    // What the kernel reads before it looks at the size.
    let least = match opcode {
        GROUP_GET_STATUS => size_of::<GroupStatus>(),
        GET_INFO => size_of::<DeviceInfo>(),
        GET_REGION_INFO => size_of::<RegionInfo>(),
        GET_IRQ_INFO => size_of::<IrqInfo>(),
        SET_IRQS => size_of::<IrqSet>(),
        UNMAP_DMA => size_of::<Unmap>(),
        _ => return Err(Errno::INVAL),
    };
    if bytes.len() < least {
        return Err(Errno::INVAL);
    }
    bytes.get_mut(..4).ok_or(Errno::INVAL)?.copy_from_slice(&size.to_ne_bytes());
    let call = Call { opcode, argument: bytes.as_mut_ptr().cast() };
    // SAFETY: one of the six requests above. VFIO reads their fixed part, for which there is room, and beyond it reads and
    // writes no more than the size that the structure begins with, which is that of `bytes`. None has an address in it.
    unsafe { ioctl(fd, call) }.map(drop)
}

/// The same for one structure.
pub(crate) fn ask<T: FromBytes + IntoBytes>(fd: impl AsFd, opcode: Opcode, structure: &mut T) -> Result<()> {
    exchange(fd, opcode, structure.as_mut_bytes())
}

pub(crate) fn has_extension(container: impl AsFd, extension: usize) -> Result<bool> {
    number(container, CHECK_EXTENSION, extension).map(|answer| answer > 0)
}

pub(crate) fn set_iommu(container: impl AsFd, kind: usize) -> Result<()> {
    number(container, SET_IOMMU, kind).map(drop)
}

pub(crate) fn leave_container(group: impl AsFd) -> Result<()> {
    number(group, GROUP_UNSET_CONTAINER, 0).map(drop)
}

pub(crate) fn enter_container(group: impl AsFd, container: impl AsFd) -> Result<()> {
    let mut number = container.as_fd().as_raw_fd();
    let call = Call { opcode: GROUP_SET_CONTAINER, argument: (&raw mut number).cast() };
    // SAFETY: the kernel reads one descriptor's number there, and keeps no address.
    unsafe { ioctl(group, call) }.map(drop)
}

pub(crate) fn device(group: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let call = Call { opcode: GROUP_GET_DEVICE, argument: name.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads a string with its end there, writes nothing, and keeps no address.
    let fd = unsafe { ioctl(group, call) }?;
    // SAFETY: the answer is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn reset(device: impl AsFd) -> Result<()> {
    let call = Call { opcode: RESET, argument: null_mut() };
    // SAFETY: no argument. What it resets is the function, not memory of this process.
    unsafe { ioctl(device, call) }.map(drop)
}

/// # Safety
///
/// The function behind the container reads and writes `size` bytes at `address` of this process from now on, as
/// another process would with shared memory: nothing may be there that must not change by itself.
pub(crate) unsafe fn map(container: impl AsFd, iova: u64, size: u64, address: u64) -> Result<()> {
    let argsz = u32::try_from(size_of::<Map>()).map_err(|_| Errno::INVAL)?;
    let mut map = Map { argsz, flags: MAP_READ_WRITE, address, iova, size };
    let call = Call { opcode: MAP_DMA, argument: (&raw mut map).cast() };
    // SAFETY: the kernel reads one structure there; what lies at its address is up to the caller.
    unsafe { ioctl(container, call) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A machine without such hardware cannot try it: the rules are compared instead.
    #[test]
    fn the_controllers_sandbox_has_the_requests_of_connect_and_release_and_no_others() {
        let requests =
            [GROUP_UNSET_CONTAINER, GROUP_SET_CONTAINER, SET_IOMMU, CHECK_EXTENSION, GROUP_GET_DEVICE];
        let made: BTreeSet<_> = requests.iter().map(|request| format!("{request:#x}")).collect();
        let policy = include_str!("../../../sandbox/controller.toml");
        let ioctls = policy.split("[[syscall]]").filter(|rule| rule.contains("\"ioctl\""));
        let allowed = ioctls.map(|rule| {
            let (_, value) = rule.split_once("index = 1, op = \"eq\", value = ").unwrap();
            value.split_once(',').unwrap().0.to_owned()
        });
        assert_eq!(allowed.collect::<BTreeSet<_>>(), made);
    }
}
