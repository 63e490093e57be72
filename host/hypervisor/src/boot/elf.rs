//! 64-bit ELF executables: what to load where, and the PVH entry note.

use super::{BootError, Source};
use crate::layout::KERNEL;
use std::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const CLASS64_LITTLE: [u8; 6] = *b"\x7fELF\x02\x01";
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY: u32 = 18;
/// Kernels have about five; some toolchains a few more.
const MAX_SEGMENTS: u16 = 64;
const MAX_NOTES: u64 = 64 << 10;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    segments: u64,
    sections: u64,
    flags: u32,
    header_size: u16,
    segment_size: u16,
    segment_count: u16,
    rest: [u16; 3],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// A piece of the file and where it goes. What memory holds beyond the file's part is zero already.
pub(super) struct Piece {
    /// In the file.
    pub(super) file: Range<u64>,
    /// In the guest, with the part that is not in the file.
    pub(super) guest: Range<u64>,
}

/// What an ELF file says.
pub(super) struct Executable {
    /// In the file's order.
    pub(super) pieces: Vec<Piece>,
    /// The 32-bit physical entry.
    pub(super) entry: u64,
}

/// Reads the headers of `kernel`.
pub(super) fn parse(kernel: &Source) -> Result<Executable, BootError> {
    let mut header = Header::new_zeroed();
    kernel.read_at(0, header.as_mut_bytes())?;
    if !header.ident.starts_with(&CLASS64_LITTLE) || header.machine != MACHINE_X86_64 {
        return Err(BootError::Format("not a 64-bit x86 ELF file"));
    }
    if usize::from(header.segment_size) != size_of::<Segment>() || header.segment_count > MAX_SEGMENTS {
        return Err(BootError::Format("its ELF program headers"));
    }
    let (mut pieces, mut entry) = (Vec::new(), None);
    for index in 0..u64::from(header.segment_count) {
        let mut segment = Segment::new_zeroed();
        let at = header.segments.saturating_add(index * u64::from(header.segment_size));
        kernel.read_at(at, segment.as_mut_bytes())?;
        match segment.kind {
            PT_LOAD if segment.memory_size > 0 => pieces.push(piece(&segment)?),
            PT_NOTE if entry.is_none() => entry = pvh_entry(kernel, &segment)?,
            _ => {}
        }
    }
    let entry = entry.ok_or(BootError::Format("an ELF file without a PVH entry note"))?;
    if pieces.iter().any(|piece| piece.guest.contains(&entry)) {
        Ok(Executable { pieces, entry })
    } else {
        Err(BootError::Format("its PVH entry is outside of what it loads"))
    }
}

fn piece(segment: &Segment) -> Result<Piece, BootError> {
    let range = |start: u64, len: u64| start.checked_add(len).map(|end| start..end);
    let file = range(segment.offset, segment.file_size);
    let guest = range(segment.physical_address, segment.memory_size);
    match (file, guest) {
        (Some(file), Some(guest)) if segment.file_size <= segment.memory_size && guest.start >= KERNEL => {
            Ok(Piece { file, guest })
        }
        _ => {
            Err(BootError::Format("a segment of it lies below 1 MiB or is longer in the file than in memory"))
        }
    }
}

/// Notes are: length of the name, length of the value, kind, name, value; both padded to 4 bytes.
fn pvh_entry(kernel: &Source, segment: &Segment) -> Result<Option<u64>, BootError> {
    if segment.file_size > MAX_NOTES {
        return Err(BootError::Format("its ELF notes are too long"));
    }
    let mut notes = vec![0; usize::try_from(segment.file_size).unwrap_or_default()];
    kernel.read_at(segment.offset, &mut notes)?;
    let mut rest = notes.as_slice();
    while let Some((head, after)) = rest.split_at_checked(12) {
        let Ok([name_len, value_len, kind]) = <[u32; 3]>::read_from_bytes(head) else { break };
        let padded = |len: u32| usize::try_from(len).ok().and_then(|len| len.checked_next_multiple_of(4));
        let (Some(name_len), Some(padded_len)) = (padded(name_len), padded(value_len)) else { break };
        let Some((name, after)) = after.split_at_checked(name_len) else { break };
        let Some(value) = after.get(..padded_len.min(after.len())) else { break };
        if kind == PVH_ENTRY && name == b"Xen\0" {
            return Ok(value.first_chunk().map(|bytes| u32::from_le_bytes(*bytes).into()));
        }
        rest = after.get(padded_len..).unwrap_or_default();
    }
    Ok(None)
}
