//! Looking at the queues: the hot path.

use crate::controller::Life;
use crate::events::Event;
use crate::io;
use crate::slots::Owner;
use crate::spec::{Status, SubmissionEntry};
use crate::{Backend, Controller, Memory, Shutdown};
use std::sync::atomic::{Ordering, fence};

/// Admin commands executed in one poll: they must not starve I/O.
const ADMIN_BURST: usize = 16;

impl Controller {
    /// Looks at every queue: executes admin commands and takes at most `budget` I/O commands, which go to `backend`
    /// unless they end at once. Gives the number taken. Less than `budget` means that no more I/O could be taken now.
    pub fn poll<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        budget: usize,
        now: u64,
    ) -> usize {
        let mut taken = 0;
        if self.is_serving() {
            self.serve_admin(memory, backend, now);
            // An admin command may have changed the list of queues, so it is counted only now.
            let queues = self.queues.active.len();
            for step in 0..queues {
                let Some(&id) = self.queues.active.get((self.turn + step) % queues) else { break };
                taken += self.serve_queue(memory, backend, id, budget - taken, now);
                if taken == budget {
                    break;
                }
            }
            self.turn = self.turn.wrapping_add(1);
            self.report_events(memory);
        }
        self.advance_shutdown(backend, now);
        taken
    }

    fn is_serving(&self) -> bool {
        self.life == Life::Enabled && !self.fatal && self.shutdown == Shutdown::None
    }

    fn serve_admin<M: Memory, B: Backend>(&mut self, memory: &M, backend: &mut B, now: u64) {
        for _ in 0..ADMIN_BURST {
            let Some(entry) = self.fetch(memory, 0) else { break };
            self.execute_admin(memory, backend, &entry, now);
        }
    }

    fn serve_queue<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        id: u16,
        budget: usize,
        now: u64,
    ) -> usize {
        self.refresh_tail(memory, id);
        let mut taken = 0;
        while taken < budget && !self.slots.is_full() {
            let Some(entry) = self.fetch(memory, id) else { break };
            taken += 1;
            let cid = entry.cid.get();
            match self.prepare(memory, id, &entry) {
                Ok(true) => {
                    if let Some(sq) = self.queues.sq(id) {
                        sq.in_flight += 1;
                    }
                    self.hand_out(Owner::Command { sq: id, cid }, backend, now);
                }
                Ok(false) => self.post(memory, id, cid, Status::SUCCESS, 0),
                Err(status) => self.fail(memory, (id, cid), entry.nsid.get(), io::lba(&entry), status),
            }
        }
        taken
    }

    /// The next command of a queue. Without the memory of its queues the controller can not go on.
    fn fetch<M: Memory>(&mut self, memory: &M, id: u16) -> Option<SubmissionEntry> {
        if self.fatal {
            return None;
        }
        self.queues.fetch(memory, self.shadow.as_ref(), id).unwrap_or_else(|_| {
            self.fatal = true;
            None
        })
    }

    /// Takes the tail from the shadow doorbell.
    fn refresh_tail<M: Memory>(&mut self, memory: &M, id: u16) {
        let Some(tail) = self.shadow.as_ref().and_then(|shadow| shadow.tail(memory, id)) else { return };
        let Some(sq) = self.queues.sq(id) else { return };
        if u32::from(sq.tail) != tail && sq.rejected != Some(tail) && !sq.set_tail(tail) {
            sq.rejected = Some(tail);
            let _ = self.bad_doorbell(Event::InvalidDoorbellValue);
        }
    }

    fn report_events<M: Memory>(&mut self, memory: &M) {
        while self.events.is_due() && self.queues.reserve(0) {
            if let Some((cid, result)) = self.events.report() {
                self.post(memory, 0, cid, Status::SUCCESS, result);
            }
        }
    }

    /// Before sleeping: asks the guest for a doorbell write at its next command, then looks again. `false`: there
    /// is work, poll instead. Work that only a completion of the backend can let go on does not count.
    pub fn arm<M: Memory>(&mut self, memory: &M) -> bool {
        if self.is_serving() {
            if self.has_work(memory, 0) {
                return false;
            }
            self.ask_for_rings(memory);
            for index in 0..self.queues.active.len() {
                let Some(&id) = self.queues.active.get(index) else { break };
                self.refresh_tail(memory, id);
                if self.has_work(memory, id) {
                    return false;
                }
            }
            return !self.event_can_be_told();
        }
        self.shutdown != Shutdown::Occurring || self.fatal || self.slots.in_flight() != 0
    }

    fn event_can_be_told(&mut self) -> bool {
        self.events.is_due() && self.queues.cq(0).is_some_and(|cq| cq.has_room())
    }

    fn ask_for_rings<M: Memory>(&mut self, memory: &M) {
        let Some(shadow) = self.shadow.as_ref() else { return };
        for index in 0..self.queues.active.len() {
            let Some(&id) = self.queues.active.get(index) else { break };
            let Some(sq) = self.queues.sq(id) else { continue };
            let (tail, cq_id) = (sq.tail, sq.cq);
            shadow.want_tail(memory, id, tail);
            // A head frees room: it matters only to a queue that has none.
            if let Some(cq) = self.queues.cq(cq_id).filter(|cq| !cq.has_room()) {
                shadow.want_head(memory, cq_id, cq.head);
            }
        }
        // The guest writes its doorbell, then reads the event index; this side wrote the event index and now reads
        // the doorbell. With a full fence on both sides one of the two sees the other.
        fence(Ordering::SeqCst);
    }

    /// Whether a poll would take a command from this queue.
    fn has_work<M: Memory>(&mut self, memory: &M, id: u16) -> bool {
        let Some(sq) = self.queues.sq(id).filter(|sq| sq.waiting() > 0 && sq.deletion.is_none()) else {
            return false;
        };
        let cq_id = sq.cq;
        let head = self.shadow.as_ref().filter(|_| id != 0).and_then(|shadow| shadow.head(memory, cq_id));
        let Some(cq) = self.queues.cq(cq_id) else { return false };
        if let Some(head) = head {
            // A head that the queue can not have changes nothing here; the next command finds out.
            let _ = cq.set_head(head);
        }
        cq.has_room() && (id == 0 || !self.slots.is_full())
    }
}
