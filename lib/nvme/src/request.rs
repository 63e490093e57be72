//! What the controller asks of the storage behind it.

use crate::spec::PAGE;

/// The most bytes that one command transfers (MDTS 6): 256 KiB.
pub const MAX_TRANSFER: u64 = PAGE << 6;
/// The most spans that a request has: 64 pages, and one more if the first begins within a page.
pub const MAX_SPANS: usize = 65;

/// The storage behind a controller.
pub trait Backend {
    /// Takes a request. Each one taken must be given back by exactly one
    /// [`Controller::complete`](crate::Controller::complete), also after a reset, unless `cancel` said `true`.
    fn submit(&mut self, request: &Request);

    /// Drops a request if that can be done at once. `true` promises that it touches guest memory no more,
    /// that the medium shows nothing of it, and that it will not be completed.
    fn cancel(&mut self, tag: Tag) -> bool {
        let _ = tag;
        false
    }
}

/// Names a request until it is completed. Below `Config::max_in_flight + 1`, so it can index a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub(crate) u16);

impl Tag {
    /// As a table index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The tag that `user_data` of a completion carries. Tags not in flight are ignored by the controller.
    pub fn from_index(index: u16) -> Self {
        Self(index)
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Medium to guest memory.
    Read,
    /// Guest memory to medium.
    Write,
    /// Zeroes to medium; up to 65536 blocks, no spans.
    WriteZeroes,
    /// Make every write that was completed before durable; no blocks, no spans.
    Flush,
}

/// A piece of guest memory, contiguous in guest addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Guest address, a multiple of 4.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// One I/O command, checked: it lies within the namespace and its spans add up to its blocks.
#[derive(Clone)]
pub struct Request {
    pub(crate) tag: Tag,
    pub(crate) operation: Operation,
    pub(crate) durable: bool,
    pub(crate) lba: u64,
    pub(crate) blocks: u32,
    pub(crate) block_shift: u32,
    pub(crate) spans: Spans,
}

impl Request {
    /// Names the request when it is completed.
    pub fn tag(&self) -> Tag {
        self.tag
    }
    /// What to do.
    pub fn operation(&self) -> Operation {
        self.operation
    }
    /// For writes: complete only once the data is durable (FUA, or the guest turned the write cache off).
    pub fn durable(&self) -> bool {
        self.durable
    }
    /// First logical block.
    pub fn lba(&self) -> u64 {
        self.lba
    }
    /// Number of logical blocks.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }
    /// First byte on the medium.
    pub fn offset(&self) -> u64 {
        self.lba << self.block_shift
    }
    /// Number of bytes.
    pub fn length(&self) -> u64 {
        u64::from(self.blocks) << self.block_shift
    }
    /// Guest memory, in order. Empty for write zeroes and flush. Addresses are the guest's word: they may be
    /// unmapped, overlap, and cross map boundaries.
    pub fn spans(&self) -> &[Span] {
        self.spans.as_slice()
    }
}

/// Up to [`MAX_SPANS`] spans, in place.
#[derive(Clone)]
pub(crate) struct Spans {
    list: [Span; MAX_SPANS],
    count: usize,
}

impl Spans {
    pub(crate) const fn new() -> Self {
        Self { list: [Span { address: 0, length: 0 }; MAX_SPANS], count: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    pub(crate) fn as_slice(&self) -> &[Span] {
        self.list.get(..self.count).unwrap_or_default()
    }

    /// Appends, joined to the last span where the addresses touch. `false` if there is no room.
    pub(crate) fn push(&mut self, address: u64, length: u32) -> bool {
        let last = self.count.checked_sub(1).and_then(|last| self.list.get_mut(last));
        if let Some(last) = last
            && last.address.checked_add(u64::from(last.length)) == Some(address)
        {
            last.length += length;
            return true;
        }
        let Some(free) = self.list.get_mut(self.count) else { return false };
        *free = Span { address, length };
        self.count += 1;
        true
    }
}
