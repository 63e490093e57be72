//! What a guest's requests look like in its queue: a buffer that the device reads, then one that it writes.

use guest_memory::GuestMemory;
use nsm::MAX_REQUEST;
use virtio::{Broken, Queue};

/// virtio's number for a Nitro Security Module.
pub const DEVICE: u16 = 33;
/// Entries of its queue.
pub const QUEUE: u16 = 16;

/// Takes one request from the queue, if it and the buffer for its answer are there, and gives back both. `respond` makes
/// the answer, of at most so many bytes. Says whether there was a request, and whether the driver is to be interrupted.
pub fn answer(
    queue: &mut Queue,
    memory: &GuestMemory,
    respond: impl FnOnce(&[u8], usize) -> Vec<u8>,
) -> Result<(bool, bool), Broken> {
    if queue.waiting(memory)? < 2 {
        return Ok((false, false));
    }
    let (request, room) = (queue.peek(memory, 0)?, queue.peek(memory, 1)?);
    if !request.is_all(false) || !room.is_all(true) {
        return Err(Broken::Kind);
    }
    let bytes = request.read(memory, MAX_REQUEST + 1)?;
    let most = usize::try_from(room.room()).unwrap_or(usize::MAX).min(nsm::MAX_RESPONSE);
    let mut answer = respond(&bytes, most);
    // An error that does not fit either.
    answer.truncate(most);
    room.write(memory, &answer)?;
    let written = u32::try_from(answer.len()).unwrap_or(0);
    Ok((true, queue.complete(memory, &[(&request, 0), (&room, written)])?))
}
