//! One command with the storage: what it moves, and how far it is.

use crate::{copy::Pieces, guest::Guest, pool::Bounce, pool::MAX_BOUNCE, store::Store};
use guest_memory::Access;
use libc::iovec;
use nvme::{MAX_SPANS, Operation, Request, spec::Status};
use std::ptr::null_mut;
use xts::SECTOR;

/// Guest memory of a command, contiguous here. One more than spans, for a border between two DMA maps.
const MAX_PIECES: usize = MAX_SPANS + 1;

static ZEROES: [u8; 4096] = [0; 4096];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Idle,
    /// Straight into guest memory.
    ReadInPlace,
    /// By bounce memory: guest memory is not aligned for the file, or its borders cut through sectors.
    Read,
    Write,
    WriteZeroes,
    Flush,
}

/// A place in the table of commands. The memory that pieces point to stays mapped while it is not idle:
/// unmapping is deferred until then.
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    /// Bytes: where on the medium, how many, how many of them are done.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) done: u64,
    /// The part of a write that lies encrypted in the bounce.
    chunk: std::ops::Range<u64>,
    pub(crate) bounce: Option<Bounce>,
    /// Fruitless attempts in a row.
    pub(crate) retries: u8,
    /// All borders between pieces are borders of sectors.
    whole_sectors: bool,
    count: usize,
    pieces: [iovec; MAX_PIECES],
}

impl Job {
    pub(crate) const IDLE: Self = Self {
        kind: Kind::Idle,
        durable: false,
        offset: 0,
        len: 0,
        done: 0,
        chunk: 0..0,
        bounce: None,
        retries: 0,
        whole_sectors: true,
        count: 0,
        pieces: [iovec { iov_base: null_mut(), iov_len: 0 }; MAX_PIECES],
    };

    /// Takes a command: finds its guest memory.
    pub(crate) fn load(&mut self, request: &Request, guest: &Guest, store: &Store) -> Result<(), Status> {
        self.durable = request.durable();
        (self.offset, self.len, self.done) = (request.offset(), request.length(), 0);
        (self.bounce, self.retries, self.count, self.whole_sectors) = (None, 0, 0, true);
        let (access, kind) = match request.operation() {
            Operation::Read => (Access::Write, Kind::ReadInPlace),
            Operation::Write => (Access::Read, Kind::Write),
            Operation::WriteZeroes => (Access::Read, Kind::WriteZeroes),
            Operation::Flush => (Access::Read, Kind::Flush),
        };
        let mut in_place = true;
        for span in request.spans() {
            let (mut address, mut left) = (span.address, span.length as usize);
            while left > 0 {
                let segment = guest.0.segment(address, left, access).ok_or(Status::DATA_TRANSFER_ERROR)?;
                let place = self.pieces.get_mut(self.count).ok_or(Status::DATA_TRANSFER_ERROR)?;
                *place = iovec { iov_base: segment.ptr.as_ptr().cast(), iov_len: segment.len };
                self.count += 1;
                self.whole_sectors &= segment.len.is_multiple_of(SECTOR);
                in_place &= store.reads_into(segment.ptr.addr().get(), segment.len);
                left -= segment.len;
                address = address.wrapping_add(segment.len as u64);
            }
        }
        in_place &= self.whole_sectors;
        self.kind = if kind == Kind::ReadInPlace && !in_place { Kind::Read } else { kind };
        Ok(())
    }

    pub(crate) fn pieces(&self) -> &[iovec] {
        self.pieces.get(..self.count).unwrap_or_default()
    }

    /// How much bounce memory it wants, in bytes.
    pub(crate) fn bounce_size(&self) -> usize {
        usize::try_from(self.len).map_or(MAX_BOUNCE, |len| len.min(MAX_BOUNCE))
    }

    /// Bytes still to be moved in the present part, and where they lie from the bounce's start.
    pub(crate) fn rest(&self) -> (u32, usize) {
        let (from, end) = match self.kind {
            Kind::Write | Kind::WriteZeroes => (self.chunk.start, self.chunk.end),
            _ => (0, self.len),
        };
        let len = u32::try_from(end.saturating_sub(self.done)).unwrap_or(0);
        (len, usize::try_from(self.done.saturating_sub(from)).unwrap_or(0))
    }

    /// The present part is done.
    pub(crate) fn part_done(&self) -> bool {
        match self.kind {
            Kind::Write | Kind::WriteZeroes => self.done >= self.chunk.end,
            _ => self.done >= self.len,
        }
    }

    fn sector(&self, done: u64) -> u64 {
        (self.offset + done) / SECTOR as u64
    }

    /// Encrypts the next part of a write into the bounce.
    ///
    /// # Safety
    /// `to` is bounce memory of [`Job::bounce_size`] bytes; the pieces are mapped.
    pub(crate) unsafe fn fill(&mut self, store: &Store, to: *mut u8) {
        self.chunk = self.done..self.len.min(self.done + MAX_BOUNCE as u64);
        let first = self.sector(self.done);
        let size = usize::try_from(self.chunk.end - self.chunk.start).unwrap_or(0);
        if self.kind == Kind::WriteZeroes {
            for at in (0..size).step_by(ZEROES.len()) {
                let (sector, part) = (first + (at / SECTOR) as u64, ZEROES.len().min(size - at));
                // SAFETY: `at + part` is within the bounce.
                unsafe { store.xts.encrypt(sector, ZEROES.as_ptr(), to.wrapping_add(at), part) };
            }
        } else if self.whole_sectors {
            let pieces =
                self.pieces().iter().map(|piece| (piece.iov_base.cast::<u8>().cast_const(), piece.iov_len));
            // SAFETY: the pieces are mapped and add up to `size`, for a write is never more than a bounce.
            unsafe { store.xts.encrypt_gather(first, pieces, to) };
        } else {
            let mut from = Pieces::new(self.pieces());
            let mut plain = [0; SECTOR];
            for at in (0..size).step_by(SECTOR) {
                // SAFETY: the pieces are mapped.
                unsafe { from.read(&mut plain) };
                let sector = first + (at / SECTOR) as u64;
                // SAFETY: `at` is a sector's start within the bounce.
                unsafe { store.xts.encrypt(sector, plain.as_ptr(), to.wrapping_add(at), SECTOR) };
            }
        }
    }

    /// Decrypts what was read into guest memory, where it is.
    ///
    /// # Safety
    /// The pieces are mapped.
    pub(crate) unsafe fn decrypt_in_place(&self, store: &Store) {
        let pieces = self.pieces().iter().map(|piece| (piece.iov_base.cast::<u8>(), piece.iov_len));
        // SAFETY: the caller promises that the pieces are mapped, and they were taken for writing; no reference of Rust
        // points to guest memory.
        unsafe { store.xts.decrypt_pieces(self.sector(0), pieces) };
    }

    /// Decrypts what was read into the bounce to guest memory, sector by sector, so that the bounce never
    /// holds anything but ciphertext.
    ///
    /// # Safety
    /// `from` is bounce memory of [`Job::bounce_size`] bytes; the pieces are mapped.
    pub(crate) unsafe fn decrypt_bounce(&self, store: &Store, from: *const u8) {
        let mut to = Pieces::new(self.pieces());
        let mut plain = [0; SECTOR];
        for at in (0..self.bounce_size()).step_by(SECTOR) {
            let sector = self.sector(at as u64);
            // SAFETY: `at` is a sector's start within the bounce.
            unsafe { store.xts.decrypt(sector, from.wrapping_add(at), plain.as_mut_ptr(), SECTOR) };
            // SAFETY: the pieces are mapped.
            unsafe { to.write(&plain) };
        }
    }
}
