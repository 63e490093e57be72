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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_SPANS, Ram, Span};

    const LIST: u64 = 8 * PAGE;
    const CHAINED: u64 = 9 * PAGE;

    /// Data of `pages` pages by a list whose first entry has `room` entries to the end of its page.
    fn walk_list(pages: u64, room: u64, chain: u64) -> Result<Vec<Span>, Status> {
        let ram = Ram::new(0x10000);
        let start = LIST + PAGE - room * 8;
        let mut place = start;
        for page in 1..pages {
            if place == LIST + PAGE - 8 && page + 1 < pages {
                ram.write(place, &chain.to_le_bytes()).unwrap();
                place = CHAINED;
            }
            ram.write(place, &((1000 + 2 * page) * PAGE).to_le_bytes()).unwrap();
            place += 8;
        }
        let mut spans = Spans::new();
        walk(&ram, 500 * PAGE + 16, start, pages * PAGE - 16, &mut spans)?;
        Ok(spans.as_slice().to_vec())
    }

    #[test]
    fn lists_end_or_chain_exactly_at_the_end_of_their_page() {
        for pages in 3..=64u64 {
            for room in [1, 2, pages - 2, pages - 1, pages, 512] {
                let spans = walk_list(pages, room, CHAINED).unwrap();
                let expected =
                    (1..pages).map(|page| Span { address: (1000 + 2 * page) * PAGE, length: 4096 });
                assert_eq!(spans[0], Span { address: 500 * PAGE + 16, length: 4080 });
                assert_eq!(spans[1..], expected.collect::<Vec<_>>(), "{pages} pages, room for {room}");
                if room < pages - 1 {
                    assert_eq!(walk_list(pages, room, CHAINED + 8), Err(Status::PRP_OFFSET_INVALID));
                    assert_eq!(walk_list(pages, room, 1 << 40), Err(Status::DATA_TRANSFER_ERROR));
                }
            }
        }
    }

    #[test]
    fn offsets_lengths_and_joins() {
        let ram = Ram::new(0x4000);
        let mut spans = Spans::new();
        let mut walk = |prp1, prp2, length| {
            walk(&ram, prp1, prp2, length, &mut spans).map(|()| spans.as_slice().to_vec())
        };
        assert_eq!(walk(0x1004, 0, 4092), Ok(vec![Span { address: 0x1004, length: 4092 }]));
        assert_eq!(walk(0x1004, 0x2000, 4096), Ok(vec![Span { address: 0x1004, length: 4096 }]), "joined");
        assert_eq!(walk(0x1004, 0x5000, 4096).unwrap()[1], Span { address: 0x5000, length: 4 });
        let last = u64::MAX - 4095;
        assert_eq!(walk(last, 0, 8192).unwrap().len(), 2, "addresses do not wrap round");
        for (prp1, prp2, length) in
            [(0x1002, 0, 512), (0x1000, 0x2004, 8192), (0x1000, 0x2004, 8196), (0x1004, 0x2004, 4096)]
        {
            assert_eq!(
                walk(prp1, prp2, length),
                Err(Status::PRP_OFFSET_INVALID),
                "{prp1:#x} {prp2:#x} {length}"
            );
        }
        assert_eq!(walk(0x1000, 0x2000, MAX_TRANSFER + 4), Err(Status::INVALID_FIELD));
        assert_eq!(MAX_SPANS as u64, MAX_TRANSFER / PAGE + 1);
    }
}
