//! A volume's backing file or block device.

use crate::refusal::Refusal;
use rustix::fs::{
    AtFlags, FileType, OFlags, SeekFrom, StatxFlags, fcntl_getfl, fcntl_setfl, fstat, seek, statx,
};
use std::os::fd::OwnedFd;
use xts::{SECTOR, Xts};

/// Where a volume's ciphertext lies, and the cipher. Dropping it wipes the key.
pub(crate) struct Store {
    pub(crate) file: OwnedFd,
    pub(crate) xts: Xts,
    /// Bits that must be zero in the address and length of memory that the file is read into directly.
    misaligned: usize,
}

impl Store {
    /// Takes a regular file or block device of exactly `size` bytes, opened for reading and writing.
    pub(crate) fn new(file: OwnedFd, size: u64, xts: Xts) -> Result<Self, Refusal> {
        let wrong = |_| Refusal::Io("the system does not say what it is");
        let kind = FileType::from_raw_mode(fstat(&file).map_err(wrong)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(Refusal::Io("it is no regular file or block device"));
        }
        let found = seek(&file, SeekFrom::End(0)).map_err(wrong)?;
        if found != size {
            return Err(Refusal::Size { found, wanted: size });
        }
        let flags = fcntl_getfl(&file).map_err(wrong)?;
        if flags & OFlags::RWMODE != OFlags::RDWR {
            return Err(Refusal::Io("it is not open for reading and writing"));
        }
        let alignment = if flags.contains(OFlags::DIRECT) { direct_alignment(&file) } else { None };
        if alignment.is_none() && flags.contains(OFlags::DIRECT) {
            // Direct I/O at 512-byte offsets is not to be had here: go through the page cache.
            fcntl_setfl(&file, flags - OFlags::DIRECT).map_err(wrong)?;
        }
        tracing::debug!(direct = alignment.is_some(), alignment, "backing store");
        Ok(Self { file, xts, misaligned: alignment.unwrap_or(1) - 1 })
    }

    /// Whether the file can be read into this memory without a bounce.
    pub(crate) fn reads_into(&self, address: usize, len: usize) -> bool {
        (address | len) & self.misaligned == 0
    }
}

/// The alignment of memory that direct I/O wants, if it is possible at every 512-byte sector.
fn direct_alignment(file: &OwnedFd) -> Option<usize> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
    let sectors = (1..=SECTOR).contains(&(stat.stx_dio_offset_align as usize));
    let memory = stat.stx_dio_mem_align as usize;
    (told && sectors && memory.is_power_of_two()).then_some(memory)
}
