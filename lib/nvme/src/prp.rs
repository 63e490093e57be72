//! PRP entries and lists (§4.3): from a command's data pointer to spans of guest memory.

use crate::request::Spans;
use crate::spec::{PAGE, Status};
use crate::{MAX_TRANSFER, Memory};

/// Entries of a list that a transfer of [`MAX_TRANSFER`] can need at most.
const MAX_ENTRIES: usize = 64;

/// Collects the spans of `length` bytes, at most [`MAX_TRANSFER`].
pub(crate) fn walk<M: Memory>(
    memory: &M,
    prp1: u64,
    prp2: u64,
    length: u64,
    spans: &mut Spans,
) -> Result<(), Status> {
    spans.clear();
    if length > MAX_TRANSFER {
        return Err(Status::INVALID_FIELD);
    }
    if !prp1.is_multiple_of(4) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    let first = length.min(PAGE - prp1 % PAGE);
    push(spans, prp1, first)?;
    let left = length - first;
    if left == 0 {
        Ok(())
    } else if left <= PAGE {
        page(spans, prp2, left)
    } else if !prp2.is_multiple_of(8) {
        Err(Status::PRP_OFFSET_INVALID)
    } else {
        list(memory, prp2, left, spans)
    }
}

fn list<M: Memory>(memory: &M, mut list: u64, mut left: u64, spans: &mut Spans) -> Result<(), Status> {
    let mut bytes = [0u8; MAX_ENTRIES * 8];
    // A list may begin anywhere in a page; each further one fills a page, which is more than any transfer needs.
    loop {
        let room = (PAGE - list % PAGE) / 8;
        let pages = left.div_ceil(PAGE);
        let count = usize::try_from(pages.min(room)).unwrap_or(MAX_ENTRIES);
        let bytes = bytes.get_mut(..count * 8).ok_or(Status::INTERNAL_ERROR)?;
        memory.read(list, bytes).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        let mut entries = bytes.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let data = if pages > room { count - 1 } else { count };
        for address in entries.by_ref().take(data) {
            let length = left.min(PAGE);
            page(spans, address, length)?;
            left -= length;
        }
        match entries.next() {
            None => return Ok(()),
            Some(next) if next % PAGE == 0 => list = next,
            Some(_) => return Err(Status::PRP_OFFSET_INVALID),
        }
    }
}

fn page(spans: &mut Spans, address: u64, length: u64) -> Result<(), Status> {
    if !address.is_multiple_of(PAGE) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    push(spans, address, length)
}

fn push(spans: &mut Spans, address: u64, length: u64) -> Result<(), Status> {
    let length = u32::try_from(length).map_err(|_| Status::INTERNAL_ERROR)?;
    if spans.push(address, length) { Ok(()) } else { Err(Status::INTERNAL_ERROR) }
}

/// Copies `data` to the guest memory that `spans` name.
pub(crate) fn scatter<M: Memory>(memory: &M, spans: &Spans, mut data: &[u8]) -> Result<(), Status> {
    for span in spans.as_slice() {
        let length = data.len().min(usize::try_from(span.length).unwrap_or(usize::MAX));
        let (now, later) = data.split_at(length);
        memory.write(span.address, now).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        data = later;
    }
    Ok(())
}

/// Copies guest memory that `spans` name to `data`.
pub(crate) fn gather<M: Memory>(memory: &M, spans: &Spans, mut data: &mut [u8]) -> Result<(), Status> {
    for span in spans.as_slice() {
        let length = data.len().min(usize::try_from(span.length).unwrap_or(usize::MAX));
        let (now, later) = data.split_at_mut(length);
        memory.read(span.address, now).map_err(|_| Status::DATA_TRANSFER_ERROR)?;
        data = later;
    }
    Ok(())
}
