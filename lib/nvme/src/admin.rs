//! Admin commands (§5).

use crate::io::FLAGS_UNSUPPORTED;
use crate::prp;
use crate::queues::{CompletionQueue, SubmissionQueue};
use crate::shadow::Shadow;
use crate::spec::registers::{MAX_QUEUE_ENTRIES, completion_entry_size, submission_entry_size};
use crate::spec::{AdminOpcode, PAGE, Status, SubmissionEntry};
use crate::{Backend, Controller, Memory};

/// Commands that may be aborted before they are fetched.
const MAX_DOOMED: usize = 64;

/// How an admin command ends.
pub(crate) enum Outcome {
    /// With this result (dword 0).
    Done(u32),
    /// Later.
    Deferred,
}

const DONE: Result<Outcome, Status> = Ok(Outcome::Done(0));

impl Controller {
    pub(crate) fn execute_admin<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        entry: &SubmissionEntry,
        now: u64,
    ) {
        let cid = entry.cid.get();
        match self.admin(memory, backend, entry, now) {
            Ok(Outcome::Done(result)) => self.post(memory, 0, cid, Status::SUCCESS, result),
            Ok(Outcome::Deferred) => {}
            Err(status) => self.fail(memory, (0, cid), entry.nsid.get(), 0, status),
        }
    }

    fn admin<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let opcode = AdminOpcode::from_code(entry.opcode).ok_or(Status::INVALID_OPCODE)?;
        if entry.flags & FLAGS_UNSUPPORTED != 0 {
            return Err(Status::INVALID_FIELD);
        }
        match opcode {
            AdminOpcode::DeleteSubmissionQueue => self.delete_sq(memory, backend, entry, now),
            AdminOpcode::CreateSubmissionQueue => self.create_sq(memory, entry),
            AdminOpcode::DeleteCompletionQueue => self.delete_cq(entry),
            AdminOpcode::CreateCompletionQueue => self.create_cq(memory, entry),
            AdminOpcode::GetLogPage => self.get_log_page(memory, entry, now),
            AdminOpcode::Identify => self.identify(memory, entry),
            AdminOpcode::Abort => self.abort(memory, backend, entry, now),
            AdminOpcode::SetFeatures => self.set_features(memory, entry, now),
            AdminOpcode::GetFeatures => self.get_features(memory, entry, now),
            AdminOpcode::AsynchronousEventRequest => self.event_request(entry),
            AdminOpcode::DoorbellBufferConfig => self.doorbell_buffer_config(memory, entry),
        }
    }

    /// Copies an answer to the command's data buffer of `length` bytes; what the answer lacks is zero.
    pub(crate) fn answer<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
        answer: &[u8],
        length: u64,
    ) -> Result<Outcome, Status> {
        let spans = &mut self.request.spans;
        prp::walk(memory, entry.prp1.get(), entry.prp2.get(), length, spans)?;
        let mut answer = answer.to_vec();
        answer.resize(usize::try_from(length).unwrap_or_default(), 0);
        prp::scatter(memory, spans, &answer)?;
        DONE
    }

    /// Reads the command's data buffer.
    pub(crate) fn data<M: Memory, const N: usize>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
    ) -> Result<[u8; N], Status> {
        let mut data = [0; N];
        let spans = &mut self.request.spans;
        prp::walk(memory, entry.prp1.get(), entry.prp2.get(), N as u64, spans)?;
        prp::gather(memory, spans, &mut data)?;
        Ok(data)
    }

    /// Identifier and size of a queue to be created, checked.
    fn new_queue(
        &self,
        entry: &SubmissionEntry,
        most: u16,
        entry_size_fits: bool,
    ) -> Result<(u16, u16), Status> {
        let [id_low, id_high, size_low, size_high] = entry.cdw10.get().to_le_bytes();
        let id = u16::from_le_bytes([id_low, id_high]);
        let last = u16::from_le_bytes([size_low, size_high]);
        if id == 0 || id > most {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        if last == 0 || last >= MAX_QUEUE_ENTRIES || !entry_size_fits {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // CAP.CQR: queues are physically contiguous.
        if entry.cdw11.get() & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        if !entry.prp1.get().is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        Ok((id, last + 1))
    }

    fn create_cq<M: Memory>(&mut self, memory: &M, entry: &SubmissionEntry) -> Result<Outcome, Status> {
        let (_, most) = self.features.queues;
        let (id, size) = self.new_queue(entry, most, completion_entry_size(self.registers.cc) == 4)?;
        if self.queues.cq(id).is_some() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        let vector = high_half(entry.cdw11.get());
        let interrupts = entry.cdw11.get() & 2 != 0;
        if vector >= self.config.vectors() {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        let queue = CompletionQueue::new(entry.prp1.get(), size, interrupts.then_some(vector));
        self.queues.insert_cq(id, queue);
        if let Some(shadow) = &self.shadow {
            shadow.adopt_head(memory, id, 0);
        }
        DONE
    }

    fn create_sq<M: Memory>(&mut self, memory: &M, entry: &SubmissionEntry) -> Result<Outcome, Status> {
        let (most, most_cq) = self.features.queues;
        let (id, size) = self.new_queue(entry, most, submission_entry_size(self.registers.cc) == 6)?;
        let cq = high_half(entry.cdw11.get());
        if self.queues.sq(id).is_some() || cq == 0 || cq > most_cq {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        }
        if self.queues.cq(cq).is_none() {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        self.queues.insert_sq(id, SubmissionQueue::new(entry.prp1.get(), size, cq));
        if let Some(shadow) = &self.shadow {
            shadow.adopt_tail(memory, id, 0);
        }
        DONE
    }

    fn delete_cq(&mut self, entry: &SubmissionEntry) -> Result<Outcome, Status> {
        let id = low_half(entry.cdw10.get());
        match self.queues.cq(id).filter(|_| id != 0) {
            None => Err(Status::INVALID_QUEUE_IDENTIFIER),
            Some(cq) if cq.users > 0 => Err(Status::INVALID_QUEUE_DELETION),
            Some(_) => {
                self.queues.remove_cq(id);
                DONE
            }
        }
    }

    /// Commands that the backend can drop end as aborted; the deletion waits for the others, because they may still
    /// touch guest memory. Commands not yet fetched end with the queue.
    fn delete_sq<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let id = low_half(entry.cdw10.get());
        let Some(sq) = self.queues.sq(id).filter(|sq| id != 0 && sq.deletion.is_none()) else {
            return Err(Status::INVALID_QUEUE_IDENTIFIER);
        };
        if sq.in_flight == 0 {
            self.forget_sq(id);
            return DONE;
        }
        sq.deletion = Some(entry.cid.get());
        for tag in self.slots.of_queue(id, None) {
            if backend.cancel(tag) {
                self.complete(memory, tag, Status::ABORTED_QUEUE_DELETED, now);
            }
        }
        Ok(Outcome::Deferred)
    }

    pub(crate) fn finish_deletion<M: Memory>(&mut self, memory: &M, id: u16, deletion: u16) {
        self.forget_sq(id);
        self.post(memory, 0, deletion, Status::SUCCESS, 0);
    }

    fn forget_sq(&mut self, id: u16) {
        self.queues.remove_sq(id);
        self.doomed.retain(|&(sq, _)| sq != id);
    }

    /// Result bit 0: the command was not aborted.
    fn abort<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let (sq, cid) = (low_half(entry.cdw10.get()), high_half(entry.cdw10.get()));
        if self.queues.sq(sq).is_none() {
            return Err(Status::INVALID_FIELD);
        }
        let aborted = if sq == 0 {
            self.abort_event_request(memory, cid)
        } else {
            self.abort_in_flight(memory, backend, sq, cid, now) || self.abort_waiting(memory, sq, cid)
        };
        Ok(Outcome::Done(u32::from(!aborted)))
    }

    fn abort_event_request<M: Memory>(&mut self, memory: &M, cid: u16) -> bool {
        if !self.queues.reserve(0) {
            return false;
        }
        let found = self.events.cancel(cid);
        if found {
            self.post(memory, 0, cid, Status::ABORTED, 0);
        } else {
            self.queues.release(0);
        }
        found
    }

    fn abort_in_flight<M: Memory, B: Backend>(
        &mut self,
        memory: &M,
        backend: &mut B,
        sq: u16,
        cid: u16,
        now: u64,
    ) -> bool {
        let tag = self.slots.of_queue(sq, Some(cid)).first().copied();
        let cancelled = tag.filter(|&tag| backend.cancel(tag));
        if let Some(tag) = cancelled {
            self.complete(memory, tag, Status::ABORTED, now);
        }
        cancelled.is_some()
    }

    /// Notes a command that waits in its queue, so that it is aborted when its turn comes.
    fn abort_waiting<M: Memory>(&mut self, memory: &M, id: u16, cid: u16) -> bool {
        let Some(sq) = self.queues.sq(id) else { return false };
        let waits = (0..sq.waiting()).any(|ahead| {
            let mut bytes = [0; 4];
            let read = memory.read(sq.entry(ahead), &mut bytes).is_ok();
            read && high_half(u32::from_le_bytes(bytes)) == cid
        });
        let noted = waits && self.doomed.len() < MAX_DOOMED;
        if noted {
            self.doomed.push((id, cid));
        }
        noted
    }

    fn event_request(&mut self, entry: &SubmissionEntry) -> Result<Outcome, Status> {
        if !self.events.request(entry.cid.get()) {
            return Err(Status::TOO_MANY_EVENT_REQUESTS);
        }
        // It may wait for ever: it must not keep room that other admin commands need.
        self.queues.release(0);
        Ok(Outcome::Deferred)
    }

    fn doorbell_buffer_config<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
    ) -> Result<Outcome, Status> {
        let (doorbells, events) = (entry.prp1.get(), entry.prp2.get());
        if !doorbells.is_multiple_of(PAGE) || !events.is_multiple_of(PAGE) {
            return Err(Status::INVALID_FIELD);
        }
        // Both pages must be there: probe them by rewriting what they hold.
        for page in [doorbells, events] {
            let probe = memory.load_u32(page).and_then(|word| memory.store_u32(page, word));
            probe.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        }
        let shadow = Shadow::new(doorbells, events);
        for id in 1..=self.config.io_queues {
            if let Some(sq) = self.queues.sq(id) {
                shadow.adopt_tail(memory, id, sq.tail);
            }
            if let Some(cq) = self.queues.cq(id) {
                shadow.adopt_head(memory, id, cq.head);
            }
        }
        self.shadow = Some(shadow);
        DONE
    }
}

fn low_half(word: u32) -> u16 {
    (word & 0xffff) as u16
}

fn high_half(word: u32) -> u16 {
    (word >> 16) as u16
}
