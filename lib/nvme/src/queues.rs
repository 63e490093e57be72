//! Submission and completion queues (§4.1): rings in guest memory, doorbell values, phase tags.
//!
//! A command is fetched only once its completion queue has room for its completion, so that no completion can
//! overrun the queue and none has to be held back.

use crate::shadow::Shadow;
use crate::spec::{COMPLETION_ENTRY, Completion, SUBMISSION_ENTRY, Status, SubmissionEntry};
use crate::{Memory, MemoryFault, QueueState};
use zerocopy::IntoBytes;

/// A submission queue.
pub(crate) struct SubmissionQueue {
    pub(crate) base: u64,
    pub(crate) size: u16,
    pub(crate) cq: u16,
    pub(crate) head: u16,
    pub(crate) tail: u16,
    pub(crate) in_flight: u16,
    /// A value found in the shadow doorbell that is none: told once.
    pub(crate) rejected: Option<u32>,
    /// The admin command that waits for this queue's last command.
    pub(crate) deletion: Option<u16>,
}

/// A completion queue.
pub(crate) struct CompletionQueue {
    pub(crate) base: u64,
    pub(crate) size: u16,
    /// Vector to fire for new entries, if interrupts are enabled.
    pub(crate) vector: Option<u16>,
    pub(crate) head: u16,
    tail: u16,
    phase: bool,
    /// Room promised to commands that were fetched.
    reserved: u16,
    /// Submission queues that complete here.
    pub(crate) users: u16,
}

/// The distance from one place of a ring to another.
fn distance(from: u16, to: u16, size: u16) -> u16 {
    if to >= from { to - from } else { size - from + to }
}

fn next(index: u16, size: u16) -> u16 {
    if index + 1 == size { 0 } else { index + 1 }
}

impl SubmissionQueue {
    pub(crate) fn new(base: u64, size: u16, cq: u16) -> Self {
        Self { base, size, cq, head: 0, tail: 0, in_flight: 0, rejected: None, deletion: None }
    }

    pub(crate) fn waiting(&self) -> u16 {
        distance(self.head, self.tail, self.size)
    }

    /// Takes a tail doorbell value; `false` if it is none.
    #[must_use]
    pub(crate) fn set_tail(&mut self, value: u32) -> bool {
        match u16::try_from(value) {
            Ok(tail) if tail < self.size => self.tail = tail,
            _ => return false,
        }
        true
    }

    /// The address of the entry `ahead` places after the head.
    pub(crate) fn entry(&self, ahead: u16) -> u64 {
        let index = (u64::from(self.head) + u64::from(ahead)) % u64::from(self.size);
        self.base.wrapping_add(index * SUBMISSION_ENTRY)
    }
}

impl CompletionQueue {
    pub(crate) fn new(base: u64, size: u16, vector: Option<u16>) -> Self {
        Self { base, size, vector, head: 0, tail: 0, phase: true, reserved: 0, users: 0 }
    }

    fn used(&self) -> u16 {
        distance(self.head, self.tail, self.size)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.used() + self.reserved < self.size - 1
    }

    /// Takes a head doorbell value; `false` if it frees more entries than there are.
    #[must_use]
    pub(crate) fn set_head(&mut self, value: u32) -> bool {
        match u16::try_from(value) {
            Ok(head) if head < self.size && distance(self.head, head, self.size) <= self.used() => {
                self.head = head;
            }
            _ => return false,
        }
        true
    }

    fn post<M: Memory>(&mut self, memory: &M, mut entry: Completion) -> Result<(), MemoryFault> {
        entry.status.set(entry.status.get() << 1 | u16::from(self.phase));
        let address = self.base.wrapping_add(u64::from(self.tail) * COMPLETION_ENTRY);
        let (body, last) = entry.as_bytes().split_at(12);
        memory.write(address, body)?;
        // The phase tag tells the host that the rest is there, so it must not be seen earlier.
        let last = last.try_into().map(u32::from_le_bytes).unwrap_or_default();
        memory.store_u32(address.wrapping_add(12), last)?;
        self.tail = next(self.tail, self.size);
        self.phase ^= self.tail == 0;
        self.reserved = self.reserved.saturating_sub(1);
        Ok(())
    }
}

/// All queues of a controller, by identifier; 0 is the admin pair.
#[derive(Default)]
pub(crate) struct Queues {
    sqs: Vec<Option<SubmissionQueue>>,
    cqs: Vec<Option<CompletionQueue>>,
    /// Identifiers of the I/O submission queues there are, so that polls look at no others.
    pub(crate) active: Vec<u16>,
    /// Vectors to fire, one bit each.
    pub(crate) interrupts: u64,
}

impl Queues {
    /// No queues yet, room for `io_queues` pairs and the admin pair.
    pub(crate) fn new(io_queues: u16) -> Self {
        let count = usize::from(io_queues) + 1;
        Self {
            sqs: (0..count).map(|_| None).collect(),
            cqs: (0..count).map(|_| None).collect(),
            active: Vec::with_capacity(count),
            interrupts: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.sqs.fill_with(|| None);
        self.cqs.fill_with(|| None);
        self.active.clear();
        self.interrupts = 0;
    }

    pub(crate) fn sq(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    pub(crate) fn cq(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// The completion queue of a submission queue.
    pub(crate) fn cq_of(&mut self, sq: u16) -> Option<&mut CompletionQueue> {
        let cq = self.sq(sq)?.cq;
        self.cq(cq)
    }

    pub(crate) fn insert_sq(&mut self, id: u16, queue: SubmissionQueue) {
        if let Some(cq) = self.cq(queue.cq) {
            cq.users += 1;
        }
        if let Some(place) = self.sqs.get_mut(usize::from(id)) {
            *place = Some(queue);
            if id != 0 {
                self.active.push(id);
            }
        }
    }

    pub(crate) fn remove_sq(&mut self, id: u16) {
        if let Some(cq) = self.cq_of(id) {
            cq.users = cq.users.saturating_sub(1);
        }
        if let Some(place) = self.sqs.get_mut(usize::from(id)) {
            *place = None;
        }
        self.active.retain(|&active| active != id);
    }

    pub(crate) fn insert_cq(&mut self, id: u16, queue: CompletionQueue) {
        if let Some(place) = self.cqs.get_mut(usize::from(id)) {
            *place = Some(queue);
        }
    }

    pub(crate) fn remove_cq(&mut self, id: u16) {
        if let Some(place) = self.cqs.get_mut(usize::from(id)) {
            *place = None;
        }
    }

    pub(crate) fn has_io_queues(&self) -> bool {
        self.cqs.iter().skip(1).any(Option::is_some)
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = QueueState> {
        (0u16..).zip(&self.sqs).filter_map(|(id, sq)| {
            let sq = sq.as_ref()?;
            Some(QueueState { id, size: sq.size, waiting: sq.waiting(), in_flight: sq.in_flight })
        })
    }

    /// Takes the next command of a queue and reserves room for its completion. `None`: nothing there, no room,
    /// or the queue is being deleted.
    pub(crate) fn fetch<M: Memory>(
        &mut self,
        memory: &M,
        shadow: Option<&Shadow>,
        id: u16,
    ) -> Result<Option<SubmissionEntry>, MemoryFault> {
        let Some(sq) = self.sqs.get_mut(usize::from(id)).and_then(Option::as_mut) else { return Ok(None) };
        if sq.head == sq.tail || sq.deletion.is_some() {
            return Ok(None);
        }
        let Some(cq) = self.cqs.get_mut(usize::from(sq.cq)).and_then(Option::as_mut) else { return Ok(None) };
        if !cq.has_room() {
            // With shadow doorbells nobody rings for a head: look at it when it is wanted.
            let head = shadow.filter(|_| id != 0).and_then(|shadow| shadow.head(memory, sq.cq));
            if !head.is_some_and(|head| cq.set_head(head) && cq.has_room()) {
                return Ok(None);
            }
        }
        let mut entry = SubmissionEntry::default();
        memory.read(sq.entry(0), entry.as_mut_bytes())?;
        sq.head = next(sq.head, sq.size);
        cq.reserved += 1;
        Ok(Some(entry))
    }

    /// Posts the completion of a fetched command.
    pub(crate) fn post<M: Memory>(
        &mut self,
        memory: &M,
        sq_id: u16,
        cid: u16,
        status: Status,
        result: u32,
    ) -> Result<(), MemoryFault> {
        let Some(sq) = self.sqs.get(usize::from(sq_id)).and_then(Option::as_ref) else { return Ok(()) };
        let Some(cq) = self.cqs.get_mut(usize::from(sq.cq)).and_then(Option::as_mut) else { return Ok(()) };
        let entry = Completion {
            result: result.into(),
            reserved: 0.into(),
            sq_head: sq.head.into(),
            sq_id: sq_id.into(),
            cid: cid.into(),
            status: status.bits().into(),
        };
        cq.post(memory, entry)?;
        if let Some(vector) = cq.vector {
            self.interrupts |= 1 << (vector & 63);
        }
        Ok(())
    }

    /// Gives back the room reserved for a fetched command that waits without limit.
    pub(crate) fn release(&mut self, sq: u16) {
        if let Some(cq) = self.cq_of(sq) {
            cq.reserved = cq.reserved.saturating_sub(1);
        }
    }

    /// Reserves room again. `false`: there is none now.
    #[must_use]
    pub(crate) fn reserve(&mut self, sq: u16) -> bool {
        let Some(cq) = self.cq_of(sq).filter(|cq| cq.has_room()) else { return false };
        cq.reserved += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_made_and_removed_leave_nothing_behind() {
        let mut queues = Queues::new(2);
        for _ in 0..3 {
            queues.insert_cq(2, CompletionQueue::new(0, 4, None));
            queues.insert_sq(1, SubmissionQueue::new(0, 4, 2));
            assert_eq!((queues.active.clone(), queues.cq(2).map(|cq| cq.users)), (vec![1], Some(1)));
            queues.remove_sq(1);
            assert_eq!((queues.active.len(), queues.cq(2).map(|cq| cq.users)), (0, Some(0)));
            queues.remove_cq(2);
        }
        assert!(!queues.has_io_queues());
    }

    #[test]
    fn heads_and_tails_stay_on_the_ring() {
        let ram = crate::Ram::new(4096);
        let mut cq = CompletionQueue::new(0, 8, None);
        for _ in 0..5 {
            cq.reserved += 1;
            cq.post(&ram, Completion::default()).unwrap();
        }
        assert!(!cq.set_head(6) && cq.set_head(5) && cq.set_head(5));
        for _ in 0..6 {
            cq.reserved += 1;
            cq.post(&ram, Completion::default()).unwrap();
        }
        // Entries 5, 6, 7, 0, 1 and 2 are taken.
        for wrong in [4, 8, 9, 0x1_0000, 0x1_0006, u32::MAX] {
            assert!(!cq.set_head(wrong), "{wrong}");
        }
        assert!(cq.set_head(0) && cq.set_head(3) && !cq.set_head(4));
        let mut sq = SubmissionQueue::new(0, 8, 0);
        assert!(sq.set_tail(7) && !sq.set_tail(8) && !sq.set_tail(0x1_0000));
        assert_eq!((sq.tail, sq.waiting()), (7, 7));
    }
}
