//! The commands of one volume with the storage, and the steps that they take.

use crate::{
    MAX_IN_FLIGHT,
    guest::Guest,
    job::{Job, Kind},
    pool::Pool,
    ring::{Event, Ring},
    store::Store,
};
use nvme::{Backend, Request, Tag, spec::Status};
use rustix::io::Errno;
use std::collections::VecDeque;

/// Attempts that the system may interrupt in a row before the command fails.
const MAX_RETRIES: u8 = 16;

/// The table of one volume.
pub(crate) struct Jobs {
    list: Box<[Job]>,
    /// Commands that ended while the controller was handing out others.
    pub(crate) finished: Vec<(Tag, Status)>,
    /// The system could not make data durable once. It forgets that it could not, the card does not: no
    /// flush succeeds any more.
    sync_failed: bool,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        let list = (0..=MAX_IN_FLIGHT).map(|_| Job::IDLE).collect();
        Self { list, finished: Vec::with_capacity(usize::from(MAX_IN_FLIGHT)), sync_failed: false }
    }
}

/// Commands that wait for bounce memory, of all volumes, oldest first.
pub(crate) type Waiting = VecDeque<(u8, u16)>;

/// The storage of one volume, for as long as a call takes.
pub(crate) struct Storage<'a> {
    pub(crate) slot: u8,
    pub(crate) ring: &'a mut Ring,
    pub(crate) pool: &'a mut Pool,
    pub(crate) waiting: &'a mut Waiting,
    pub(crate) jobs: &'a mut Jobs,
    pub(crate) store: &'a Store,
    pub(crate) guest: &'a Guest,
}

impl Backend for Storage<'_> {
    fn submit(&mut self, request: &Request) {
        let tag = request.tag();
        let Ok(index) = u16::try_from(tag.index()) else { return };
        let Some(job) = self.jobs.list.get_mut(tag.index()) else { return };
        let taken = job.load(request, self.guest, self.store).and_then(|()| {
            let wants_sync = job.kind == Kind::Flush || job.durable;
            if wants_sync && self.jobs.sync_failed { Err(Status::WRITE_FAULT) } else { Ok(()) }
        });
        match taken {
            Ok(()) => self.start(index),
            Err(status) => {
                job.kind = Kind::Idle;
                self.jobs.finished.push((tag, status));
            }
        }
    }

    fn cancel(&mut self, tag: Tag) -> bool {
        let Some(at) = self.waiting.iter().position(|waiting| *waiting == (self.slot, index_of(tag))) else {
            return false;
        };
        self.waiting.remove(at);
        if let Some(job) = self.jobs.list.get_mut(tag.index()) {
            job.kind = Kind::Idle;
        }
        true
    }
}

fn index_of(tag: Tag) -> u16 {
    u16::try_from(tag.index()).unwrap_or(u16::MAX)
}

impl Storage<'_> {
    fn event(&self, index: u16) -> Event {
        Event::Job { slot: self.slot, index }
    }

    fn start(&mut self, index: u16) {
        let event = self.event(index);
        let Some(job) = self.jobs.list.get(usize::from(index)) else { return };
        match job.kind {
            Kind::Idle => {}
            Kind::Flush => self.ring.sync(self.slot, event),
            Kind::ReadInPlace => {
                // SAFETY: the table never moves, and unmapping waits until the job is idle.
                unsafe { self.ring.read_pieces(self.slot, job.pieces(), job.offset, event) };
            }
            Kind::Read | Kind::Write | Kind::WriteZeroes => {
                if !self.waiting.is_empty() || !self.resume(index) {
                    self.waiting.push_back((self.slot, index));
                }
            }
        }
    }

    /// Begins what needs bounce memory. False if there is not enough now.
    pub(crate) fn resume(&mut self, index: u16) -> bool {
        let Some(job) = self.jobs.list.get_mut(usize::from(index)) else { return true };
        if !matches!(job.kind, Kind::Read | Kind::Write | Kind::WriteZeroes) || job.bounce.is_some() {
            return true;
        }
        job.bounce = self.pool.take(job.bounce_size());
        let Some(bounce) = job.bounce else { return false };
        if job.kind != Kind::Read {
            // SAFETY: a fresh bounce of the size that the job wants; unmapping waits until the job is idle.
            unsafe { job.fill(self.store, self.pool.at(bounce)) };
        }
        self.step(index);
        true
    }

    /// Moves the next bytes between bounce and storage.
    fn step(&mut self, index: u16) {
        let event = self.event(index);
        let Some(job) = self.jobs.list.get(usize::from(index)) else { return };
        let Some(bounce) = job.bounce else { return };
        let (len, at) = job.rest();
        let memory = self.pool.at(bounce).wrapping_add(at);
        let offset = job.offset + job.done;
        if job.kind == Kind::Read {
            // SAFETY: the bounce is given back when the job has ended.
            unsafe { self.ring.read_bounce(self.slot, memory, len, offset, event) };
        } else {
            // SAFETY: the bounce is given back when the job has ended.
            unsafe { self.ring.write_bounce(self.slot, memory, len, offset, job.durable, event) };
        }
    }

    /// A step has completed. Gives the command's status once it has ended.
    pub(crate) fn completed(&mut self, index: u16, result: Result<usize, Errno>) -> Option<Status> {
        let job = self.jobs.list.get_mut(usize::from(index))?;
        let status = match (job.kind, result) {
            (Kind::Idle, _) => return None,
            (_, Err(Errno::INTR | Errno::AGAIN)) if job.retries < MAX_RETRIES => {
                job.retries += 1;
                self.again(index);
                return None;
            }
            (_, Err(errno)) => self.failed(index, errno)?,
            (Kind::Flush, Ok(_)) => Status::SUCCESS,
            (Kind::ReadInPlace | Kind::Read, Ok(0)) => Status::UNRECOVERED_READ,
            (Kind::Write | Kind::WriteZeroes, Ok(0)) => Status::WRITE_FAULT,
            (Kind::ReadInPlace, Ok(bytes)) if bytes as u64 == job.len => {
                // SAFETY: unmapping waits until the job is idle.
                unsafe { job.decrypt_in_place(self.store) };
                Status::SUCCESS
            }
            (Kind::ReadInPlace, Ok(_)) => {
                // Short reads are rare: begin again, with bounce memory.
                job.kind = Kind::Read;
                self.start(index);
                return None;
            }
            (_, Ok(bytes)) => self.progressed(index, bytes)?,
        };
        self.end(index);
        Some(status)
    }

    /// Repeats the step that was interrupted.
    fn again(&mut self, index: u16) {
        match self.jobs.list.get(usize::from(index)).map(|job| job.kind) {
            Some(Kind::Read | Kind::Write | Kind::WriteZeroes) => self.step(index),
            _ => self.start(index),
        }
    }

    /// So many bytes were moved between bounce and storage.
    fn progressed(&mut self, index: u16, bytes: usize) -> Option<Status> {
        let job = self.jobs.list.get_mut(usize::from(index))?;
        job.retries = 0;
        job.done += bytes as u64;
        if !job.part_done() {
            self.step(index);
            return None;
        }
        let memory = self.pool.at(job.bounce?);
        if job.kind == Kind::Read {
            // SAFETY: the bounce is full; unmapping waits until the job is idle.
            unsafe { job.decrypt_bounce(self.store, memory) };
        } else if job.done < job.len {
            // SAFETY: the bounce that the job took, of the size that it wants; unmapping waits until the job is idle.
            unsafe { job.fill(self.store, memory) };
            self.step(index);
            return None;
        }
        Some(Status::SUCCESS)
    }

    fn failed(&mut self, index: u16, errno: Errno) -> Option<Status> {
        let job = self.jobs.list.get(usize::from(index))?;
        tracing::warn!(slot = self.slot, kind = ?job.kind, offset = job.offset, len = job.len, %errno, "storage");
        if job.kind == Kind::Flush || job.durable {
            self.jobs.sync_failed = true;
        }
        Some(match job.kind {
            Kind::ReadInPlace if errno == Errno::FAULT => Status::DATA_TRANSFER_ERROR,
            Kind::ReadInPlace | Kind::Read => Status::UNRECOVERED_READ,
            _ => Status::WRITE_FAULT,
        })
    }

    fn end(&mut self, index: u16) {
        let Some(job) = self.jobs.list.get_mut(usize::from(index)) else { return };
        job.kind = Kind::Idle;
        if let Some(bounce) = job.bounce.take() {
            self.pool.give_back(bounce);
        }
    }
}
