//! Pieces of guest memory whose borders cut through sectors. Rare: drivers hand out whole sectors.

use libc::iovec;

/// Walks through pieces byte by byte, in order.
pub(crate) struct Pieces<'a> {
    list: &'a [iovec],
    offset: usize,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(list: &'a [iovec]) -> Self {
        Self { list, offset: 0 }
    }

    /// The next contiguous bytes, at most `most`.
    fn next(&mut self, most: usize) -> Option<(*mut u8, usize)> {
        let [piece, rest @ ..] = self.list else { return None };
        let len = most.min(piece.iov_len - self.offset);
        let at = piece.iov_base.cast::<u8>().wrapping_add(self.offset);
        self.offset += len;
        if self.offset == piece.iov_len {
            (self.list, self.offset) = (rest, 0);
        }
        Some((at, len))
    }

    /// Copies the next bytes out of the pieces.
    ///
    /// # Safety
    /// Every piece is readable memory. Others may write there.
    pub(crate) unsafe fn read(&mut self, into: &mut [u8]) {
        let mut left = into;
        while let Some((at, len)) = self.next(left.len()).filter(|(_, len)| *len > 0) {
            let (now, later) = left.split_at_mut(len);
            for (index, byte) in now.iter_mut().enumerate() {
                // SAFETY: `index` is below the length of this piece. Volatile, for others may write there.
                *byte = unsafe { at.wrapping_add(index).read_volatile() };
            }
            left = later;
        }
    }

    /// Copies into the next bytes of the pieces.
    ///
    /// # Safety
    /// Every piece is writable memory without references to it. Others may read and write there.
    pub(crate) unsafe fn write(&mut self, from: &[u8]) {
        let mut left = from;
        while let Some((at, len)) = self.next(left.len()).filter(|(_, len)| *len > 0) {
            let (now, later) = left.split_at(len);
            for (index, byte) in now.iter().enumerate() {
                // SAFETY: `index` is below the length of this piece. Volatile, for others may look there.
                unsafe { at.wrapping_add(index).write_volatile(*byte) };
            }
            left = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_through_pieces_is_read_back(cuts in prop::collection::vec(1..700_usize, 1..8), step in 1..600_usize) {
            let mut pieces: Vec<Vec<u8>> = cuts.iter().map(|len| vec![0; *len]).collect();
            let total: usize = cuts.iter().sum();
            let list: Vec<iovec> = pieces
                .iter_mut()
                .map(|piece| iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() })
                .collect();
            let data: Vec<u8> = (0..total).map(|at| (at % 251).to_le_bytes()[0]).collect();
            let mut to = Pieces::new(&list);
            for part in data.chunks(step) {
                // SAFETY: the pieces are vectors that live on, touched through these pointers only.
                unsafe { to.write(part) };
            }
            let mut back = vec![0; total];
            let mut from = Pieces::new(&list);
            for part in back.chunks_mut(step) {
                // SAFETY: the pieces are vectors that live on, touched through these pointers only.
                unsafe { from.read(part) };
            }
            prop_assert_eq!(&back, &data);
            prop_assert_eq!(pieces.concat(), data);
        }
    }
}
