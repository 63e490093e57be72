//! The card's one io_uring: it is made, filled with files and bounce memory, and restricted to what the card
//! does, before the sandbox is entered. Without the restriction a process could open files and sockets
//! through its ring, past the system-call filter.

use crate::{
    MAX_VOLUMES,
    pool::{POOL_SIZE, Pool},
};
use io_uring::{
    IoUring, opcode,
    register::Restriction,
    squeue::Entry,
    types::{Fd, Fixed, FsyncFlags},
};
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

const ENTRIES: u32 = 256;
/// More than all volumes can have in flight, so that it never overflows.
pub(crate) const COMPLETIONS: usize = 32_768;
const _: () = assert!(COMPLETIONS > MAX_VOLUMES * (crate::MAX_IN_FLIGHT as usize + 8));
/// `IORING_REGISTER_FILES_UPDATE`.
const FILES_UPDATE: u8 = 6;
/// `IOSQE_FIXED_FILE`.
const FIXED_FILE: u8 = 1;

/// What a completion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing that anyone waits for.
    None,
    /// The control socket is readable.
    Control,
    /// A hypervisor wants to connect to this slot.
    Listener { slot: u8, generation: u32 },
    /// The hypervisor of this slot has sent something.
    Input { slot: u8, generation: u32 },
    /// The hypervisor of this slot takes more.
    Output { slot: u8, generation: u32 },
    /// A step of a command.
    Job { slot: u8, index: u16 },
    /// The flush at the end of a volume's life.
    LastSync { slot: u8 },
}

impl Event {
    fn encode(self) -> u64 {
        let pack = |kind: u8, slot: u8, low: u32| {
            let [a, b, c, d] = low.to_le_bytes();
            u64::from_le_bytes([kind, slot, a, b, c, d, 0, 0])
        };
        match self {
            Self::None => pack(0, 0, 0),
            Self::Control => pack(1, 0, 0),
            Self::Listener { slot, generation } => pack(2, slot, generation),
            Self::Input { slot, generation } => pack(3, slot, generation),
            Self::Output { slot, generation } => pack(4, slot, generation),
            Self::Job { slot, index } => pack(5, slot, index.into()),
            Self::LastSync { slot } => pack(6, slot, 0),
        }
    }

    fn decode(data: u64) -> Self {
        let [kind, slot, a, b, c, d, ..] = data.to_le_bytes();
        let low = u32::from_le_bytes([a, b, c, d]);
        match kind {
            1 => Self::Control,
            2 => Self::Listener { slot, generation: low },
            3 => Self::Input { slot, generation: low },
            4 => Self::Output { slot, generation: low },
            5 => Self::Job { slot, index: u16::from_le_bytes([a, b]) },
            6 => Self::LastSync { slot },
            _ => Self::None,
        }
    }
}

/// A completion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) event: Event,
    /// What the system call would have returned.
    pub(crate) result: Result<usize, Errno>,
    /// A poll goes on.
    pub(crate) more: bool,
}

/// The ring.
pub(crate) struct Ring {
    ring: IoUring,
    /// The pool is registered as buffer 0.
    registered: bool,
    broken: Option<io::Error>,
    generation: u32,
}

impl Ring {
    /// Makes the ring. The pool must live as long as the ring.
    pub(crate) fn new(pool: &Pool) -> io::Result<Self> {
        let ring = build(true).or_else(|_| build(false))?;
        let submitter = ring.submitter();
        submitter.register_files_sparse(u32::try_from(MAX_VOLUMES).unwrap_or(u32::MAX))?;
        let buffer = libc::iovec { iov_base: pool.base().cast(), iov_len: POOL_SIZE };
        // SAFETY: the pool is mapped for good, so it outlives the ring. Where the limit on locked memory does not allow it, plain reads
        // and writes do the same.
        let registered = unsafe { submitter.register_buffers(&[buffer]) }.is_ok();
        keep_workers_here(&ring)?;
        restrict(&ring)?;
        ring.submitter().register_enable_rings()?;
        tracing::debug!(registered, flags = ?ring.params(), "ring");
        Ok(Self { ring, registered, broken: None, generation: 0 })
    }

    /// A number for the events of one listener or peer, so that those of former ones are told from them. All
    /// volumes count together: a number comes again after 2^32 of them.
    pub(crate) fn generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Puts a file into the slot's place, or takes it out.
    pub(crate) fn set_file(&self, slot: u8, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        self.ring.submitter().register_files_update(u32::from(slot), &[fd]).map(drop)
    }

    /// Reports when `fd` becomes readable (or writable): once, or `many` times until cancelled.
    pub(crate) fn poll(&mut self, fd: BorrowedFd<'_>, output: bool, many: bool, event: Event) {
        let events = if output { libc::POLLOUT } else { libc::POLLIN | libc::POLLRDHUP };
        let flags = u32::from(events.unsigned_abs());
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), flags).multi(many).build();
        // SAFETY: no memory is involved. Submitted at once, while the number still means this descriptor.
        unsafe { self.push(entry, event) };
        self.submit(false);
    }

    /// Ends a poll.
    pub(crate) fn cancel_poll(&mut self, event: Event) {
        // SAFETY: no memory is involved.
        unsafe { self.push(opcode::AsyncCancel::new(event.encode()).build(), Event::None) };
    }

    /// Reads from the slot's file into guest memory.
    ///
    /// # Safety
    /// The array stays until the next [`Ring::submit`], the memory until the completion.
    pub(crate) unsafe fn read_pieces(&mut self, slot: u8, pieces: &[libc::iovec], offset: u64, event: Event) {
        let file = Fixed(u32::from(slot));
        let entry = match pieces {
            [one] if u32::try_from(one.iov_len).is_ok() => {
                let len = u32::try_from(one.iov_len).unwrap_or(0);
                opcode::Read::new(file, one.iov_base.cast(), len).offset(offset).build()
            }
            many => {
                let count = u32::try_from(many.len()).unwrap_or(0);
                opcode::Readv::new(file, many.as_ptr(), count).offset(offset).build()
            }
        };
        // SAFETY: the caller keeps the array until it is submitted, and the memory until the completion.
        unsafe { self.push(entry, event) };
    }

    /// Reads from the slot's file into bounce memory.
    ///
    /// # Safety
    /// The memory belongs to the pool and stays until the completion.
    pub(crate) unsafe fn read_bounce(&mut self, slot: u8, to: *mut u8, len: u32, offset: u64, event: Event) {
        let file = Fixed(u32::from(slot));
        let entry = if self.registered {
            opcode::ReadFixed::new(file, to, len, 0).offset(offset).build()
        } else {
            opcode::Read::new(file, to, len).offset(offset).build()
        };
        // SAFETY: the caller keeps the bounce until the completion.
        unsafe { self.push(entry, event) };
    }

    /// Writes bounce memory to the slot's file; `durable` completes only when the data is on the medium.
    ///
    /// # Safety
    /// The memory belongs to the pool and stays until the completion.
    pub(crate) unsafe fn write_bounce(
        &mut self,
        slot: u8,
        from: *const u8,
        len: u32,
        offset: u64,
        durable: bool,
        event: Event,
    ) {
        let file = Fixed(u32::from(slot));
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let entry = if self.registered {
            opcode::WriteFixed::new(file, from, len, 0).offset(offset).rw_flags(flags).build()
        } else {
            opcode::Write::new(file, from, len).offset(offset).rw_flags(flags).build()
        };
        // SAFETY: the caller keeps the bounce until the completion.
        unsafe { self.push(entry, event) };
    }

    /// Makes all writes to the slot's file durable that have completed.
    pub(crate) fn sync(&mut self, slot: u8, event: Event) {
        let entry = opcode::Fsync::new(Fixed(u32::from(slot))).flags(FsyncFlags::DATASYNC).build();
        // SAFETY: no memory is involved.
        unsafe { self.push(entry, event) };
    }

    /// # Safety
    /// What the entry points to is valid for as long as the operation needs it.
    unsafe fn push(&mut self, entry: Entry, event: Event) {
        let entry = entry.user_data(event.encode());
        // SAFETY: the caller promises that what the entry points to is valid long enough.
        if unsafe { self.ring.submission().push(&entry) }.is_ok() {
            return;
        }
        self.submit(false);
        // SAFETY: the same entry; the first time it was not taken.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.broken.get_or_insert_with(|| io::Error::other("the submission queue stays full"));
        }
    }

    /// Hands everything queued to the kernel, and waits for a completion if asked to.
    pub(crate) fn submit(&mut self, wait: bool) {
        match self.ring.submit_and_wait(usize::from(wait)) {
            Ok(_) => {}
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN)) => {}
            Err(error) => self.broken = Some(error),
        }
    }

    /// Whether there is something to submit, or the kernel has work to be run by this thread.
    pub(crate) fn wants_submit(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun()
    }

    /// Moves all completions that are there to `into`.
    pub(crate) fn reap(&mut self, into: &mut Vec<Done>) {
        into.extend(self.ring.completion().map(|entry| Done {
            event: Event::decode(entry.user_data()),
            result: match entry.result() {
                error @ ..0 => Err(Errno::from_raw_os_error(-error)),
                bytes => Ok(usize::try_from(bytes).unwrap_or(0)),
            },
            more: io_uring::cqueue::more(entry.flags()),
        }));
    }

    /// Why the ring cannot be used any more, if so.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        self.broken.take().map_or(Ok(()), Err)
    }
}

/// `modern`: completions only come when this thread asks (Linux 6.1).
fn build(modern: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_cqsize(u32::try_from(COMPLETIONS).unwrap_or(u32::MAX))
        .setup_r_disabled()
        .setup_submit_all();
    if modern {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    }
    builder.build(ENTRIES)
}

/// What would block, the kernel gives to workers of the ring. They stay on the processors that this process may
/// use, so that they neither take time from others nor wait behind them.
fn keep_workers_here(ring: &IoUring) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    // SAFETY: a set of processors is plain bits, and none of them set is a valid one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
        // SAFETY: `cpu` is below the size of the set, which is the same for both types.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    ring.submitter().register_iowq_aff(&set)
}

fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = [
        opcode::Read::CODE,
        opcode::Readv::CODE,
        opcode::ReadFixed::CODE,
        opcode::Write::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let mut restrictions: Vec<Restriction> = operations.into_iter().map(Restriction::sqe_op).collect();
    restrictions.push(Restriction::sqe_flags_allowed(FIXED_FILE));
    restrictions.push(Restriction::register_op(FILES_UPDATE));
    ring.submitter().register_restrictions(&mut restrictions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_way_through_the_kernel() {
        for event in [
            Event::None,
            Event::Control,
            Event::Listener { slot: 3, generation: u32::MAX },
            Event::Input { slot: 15, generation: 65536 },
            Event::Output { slot: 0, generation: 1 },
            Event::Job { slot: 7, index: 255 },
            Event::LastSync { slot: 1 },
        ] {
            assert_eq!(Event::decode(event.encode()), event);
        }
    }

    #[test]
    fn the_ring_opens_no_files_and_no_sockets() {
        let pool = Pool::new().unwrap();
        let mut ring = Ring::new(&pool).unwrap();
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build();
        let socket = opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build();
        for entry in [open, socket, opcode::Nop::new().build()] {
            // SAFETY: the path lives until the completion.
            unsafe { ring.push(entry, Event::Control) };
            ring.submit(true);
            let mut done = Vec::new();
            ring.reap(&mut done);
            assert_eq!(done[0].result.unwrap_err(), Errno::ACCESS);
        }
        // SAFETY: nothing else is registered; it must be refused anyway.
        let more = unsafe { ring.ring.submitter().register_buffers(&[]) };
        assert_eq!(Errno::from_io_error(&more.unwrap_err()), Some(Errno::ACCESS));
    }
}
