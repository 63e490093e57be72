//! The messages: fixed structures in the host's byte order, and requests parsed with every length checked.

use guest_memory::DmaMap;
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::device::IrqAction;

/// Most bytes that one region read or write carries (`max_data_xfer_size`).
pub const MAX_TRANSFER: usize = 64 * 1024;
/// Most descriptors beside one message (`max_msg_fds`; QEMU takes no higher value).
pub const MAX_FDS: usize = 16;
/// Longest message in bytes that is looked at; longer ones are read to their end and refused.
pub const MAX_MESSAGE: usize = HEADER + size_of::<RegionAccess>() + MAX_TRANSFER;

pub(crate) const HEADER: usize = size_of::<Header>();

pub(crate) const VERSION: u16 = 1;
pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const DMA_UNMAP: u16 = 3;
pub(crate) const GET_INFO: u16 = 4;
pub(crate) const GET_REGION_INFO: u16 = 5;
pub(crate) const GET_REGION_IO_FDS: u16 = 6;
pub(crate) const GET_IRQ_INFO: u16 = 7;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const REGION_READ: u16 = 9;
pub(crate) const REGION_WRITE: u16 = 10;
pub(crate) const RESET: u16 = 13;
pub(crate) const REGION_WRITE_MULTI: u16 = 15;

pub(crate) const FLAG_TYPE: u32 = 0xf;
pub(crate) const FLAG_REPLY: u32 = 1;
pub(crate) const FLAG_NO_REPLY: u32 = 1 << 4;
pub(crate) const FLAG_ERROR: u32 = 1 << 5;

pub(crate) const MAP_READ: u32 = 1;
pub(crate) const MAP_WRITE: u32 = 1 << 1;
pub(crate) const UNMAP_ALL: u32 = 1 << 1;

pub(crate) const DEVICE_RESET: u32 = 1;
pub(crate) const DEVICE_PCI: u32 = 1 << 1;

pub(crate) const REGION_READABLE: u32 = 1;
pub(crate) const REGION_WRITABLE: u32 = 1 << 1;
pub(crate) const REGION_MMAP: u32 = 1 << 2;
pub(crate) const REGION_CAPS: u32 = 1 << 3;
pub(crate) const CAP_SPARSE_MMAP: u16 = 1;

pub(crate) const IRQ_EVENTFD: u32 = 1;
pub(crate) const IRQ_MASKABLE: u32 = 1 << 1;
pub(crate) const IRQ_NO_RESIZE: u32 = 1 << 3;

pub(crate) const DATA_NONE: u32 = 1;
pub(crate) const DATA_BOOL: u32 = 1 << 1;
pub(crate) const DATA_EVENTFD: u32 = 1 << 2;
pub(crate) const ACTION_MASK: u32 = 1 << 3;
pub(crate) const ACTION_UNMASK: u32 = 1 << 4;
pub(crate) const ACTION_TRIGGER: u32 = 1 << 5;

pub(crate) const IO_EVENTFD: u32 = 0;
pub(crate) const IO_DATAMATCH: u32 = 1;

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* })*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $type),* }
    )* };
}

wire! {
    Header { id: u16, command: u16, size: u32, flags: u32, error: u32 }
    Version { major: u16, minor: u16 }
    Map { argsz: u32, flags: u32, offset: u64, address: u64, size: u64 }
    Unmap { argsz: u32, flags: u32, address: u64, size: u64 }
    Info { argsz: u32, flags: u32, regions: u32, irqs: u32 }
    RegionInfo { argsz: u32, flags: u32, index: u32, cap_offset: u32, size: u64, offset: u64 }
    /// Capability header and the fixed part of the sparse mmap capability.
    SparseMmap { id: u16, version: u16, next: u32, areas: u32, reserved: u32 }
    SparseArea { offset: u64, size: u64 }
    /// Request and fixed part of the reply of GET_REGION_IO_FDS and GET_IRQ_INFO.
    Indexed { argsz: u32, flags: u32, index: u32, count: u32 }
    IoFd { offset: u64, size: u64, fd_index: u32, kind: u32, flags: u32, padding: u32, value: u64 }
    SetIrqs { argsz: u32, flags: u32, index: u32, start: u32, count: u32 }
    RegionAccess { offset: u64, region: u32, count: u32 }
    MultiCount { count: u64 }
    MultiWrite { offset: u64, region: u32, count: u32, data: [u8; 8] }
}

impl Header {
    /// The header of the answer, without payload.
    pub(crate) fn reply(&self) -> Self {
        Self { flags: FLAG_REPLY, error: 0, ..*self }
    }

    pub(crate) fn wants_reply(&self) -> bool {
        self.flags & FLAG_NO_REPLY == 0
    }
}

/// A request whose payload has the right form. Addresses, indexes and ranges are not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Version { version: Version, data: &'a [u8] },
    Map(DmaMap),
    Unmap(Unmap),
    UnmapAll(Unmap),
    Info,
    RegionInfo { index: u32, room: u32 },
    RegionIoFds { index: u32, room: u32 },
    IrqInfo { index: u32 },
    SetIrqs { set: SetIrqs, action: IrqAction, data: IrqKind<'a> },
    Read(RegionAccess),
    Write(RegionAccess, &'a [u8]),
    WriteMulti(&'a [MultiWriteBytes]),
    Reset,
}

/// What follows a SET_IRQS.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IrqKind<'a> {
    None,
    Bool(&'a [u8]),
    Eventfds,
}

/// One write of REGION_WRITE_MULTI, unaligned.
pub(crate) type MultiWriteBytes = [u8; size_of::<MultiWrite>()];

fn fixed<T: FromBytes>(payload: &[u8]) -> Result<(T, &[u8]), Errno> {
    T::read_from_prefix(payload).map_err(|_| Errno::INVAL)
}

impl<'a> Request<'a> {
    /// Parses the payload of `command`.
    pub(crate) fn parse(command: u16, payload: &'a [u8]) -> Result<Self, Errno> {
        match command {
            VERSION => fixed(payload).map(|(version, data)| Self::Version { version, data }),
            DMA_MAP => parse_map(payload),
            DMA_UNMAP => parse_unmap(payload),
            GET_INFO => at_least::<Info>(fixed::<Info>(payload)?.0.argsz).map(|_| Self::Info),
            GET_REGION_INFO => {
                let (RegionInfo { argsz, index, .. }, _) = fixed(payload)?;
                Ok(Self::RegionInfo { index, room: at_least::<RegionInfo>(argsz)? })
            }
            GET_REGION_IO_FDS => {
                let (Indexed { argsz, flags: 0, index, .. }, _) = fixed(payload)? else {
                    return Err(Errno::INVAL);
                };
                Ok(Self::RegionIoFds { index, room: at_least::<Indexed>(argsz)? })
            }
            GET_IRQ_INFO => {
                let (Indexed { argsz, index, .. }, _) = fixed(payload)?;
                at_least::<Indexed>(argsz).map(|_| Self::IrqInfo { index })
            }
            SET_IRQS => parse_set_irqs(payload),
            REGION_READ => {
                let (access, _): (RegionAccess, _) = fixed(payload)?;
                if access.count as usize > MAX_TRANSFER { Err(Errno::INVAL) } else { Ok(Self::Read(access)) }
            }
            REGION_WRITE => {
                let (access, data): (RegionAccess, _) = fixed(payload)?;
                if access.count as usize == data.len() {
                    Ok(Self::Write(access, data))
                } else {
                    Err(Errno::INVAL)
                }
            }
            REGION_WRITE_MULTI => {
                let (MultiCount { count }, data) = fixed(payload)?;
                let (writes, rest) = data.as_chunks();
                if count == writes.len() as u64 && rest.is_empty() {
                    Ok(Self::WriteMulti(writes))
                } else {
                    Err(Errno::INVAL)
                }
            }
            RESET => Ok(Self::Reset),
            _ => Err(Errno::OPNOTSUPP),
        }
    }
}

/// The room that the client leaves for the reply's payload must hold the fixed part.
fn at_least<T>(argsz: u32) -> Result<u32, Errno> {
    if argsz as usize >= size_of::<T>() { Ok(argsz) } else { Err(Errno::INVAL) }
}

fn parse_map(payload: &[u8]) -> Result<Request<'_>, Errno> {
    let (Map { flags, offset, address, size, .. }, _) = fixed(payload)?;
    if flags & !(MAP_READ | MAP_WRITE) != 0 {
        return Err(Errno::INVAL);
    }
    let (readable, writable) = (flags & MAP_READ != 0, flags & MAP_WRITE != 0);
    Ok(Request::Map(DmaMap { iova: address, len: size, offset, readable, writable }))
}

fn parse_unmap(payload: &[u8]) -> Result<Request<'_>, Errno> {
    let (unmap, _) = fixed(payload)?;
    match unmap {
        Unmap { flags: 0, .. } => Ok(Request::Unmap(unmap)),
        Unmap { flags: UNMAP_ALL, address: 0, size: 0, .. } => Ok(Request::UnmapAll(unmap)),
        _ => Err(Errno::INVAL),
    }
}

fn parse_set_irqs(payload: &[u8]) -> Result<Request<'_>, Errno> {
    let (set, rest): (SetIrqs, _) = fixed(payload)?;
    let action = match set.flags & !(DATA_NONE | DATA_BOOL | DATA_EVENTFD) {
        ACTION_MASK => IrqAction::Mask,
        ACTION_UNMASK => IrqAction::Unmask,
        ACTION_TRIGGER => IrqAction::Trigger,
        _ => return Err(Errno::INVAL),
    };
    let data = match set.flags & (DATA_NONE | DATA_BOOL | DATA_EVENTFD) {
        DATA_NONE => IrqKind::None,
        DATA_BOOL => IrqKind::Bool(rest.get(..set.count as usize).ok_or(Errno::INVAL)?),
        DATA_EVENTFD => IrqKind::Eventfds,
        _ => return Err(Errno::INVAL),
    };
    // A count of 0 disables the index, and means nothing else.
    let disables = data == IrqKind::None && action == IrqAction::Trigger && set.start == 0;
    if set.count == 0 && !disables {
        return Err(Errno::INVAL);
    }
    Ok(Request::SetIrqs { set, action, data })
}

/// Parses one payload as a request, for fuzzing.
#[doc(hidden)]
pub fn parses(command: u16, payload: &[u8]) -> bool {
    Request::parse(command, payload).is_ok()
}
