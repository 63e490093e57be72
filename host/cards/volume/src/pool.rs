//! Bounce memory: what is written to the storage, and what is read where the guest's own memory does not fit.
//! It holds ciphertext only.

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
};
use std::ptr::{NonNull, null_mut};

/// Granularity in bytes: the page, which satisfies every direct I/O.
const PAGE: usize = 4096;
/// Pages in one word of the map. No bounce crosses words, so the largest is 256 KiB.
const PAGES_IN_WORD: u32 = u64::BITS;
const WORDS: usize = 16;
/// Largest bounce in bytes: the largest transfer of one command.
pub(crate) const MAX_BOUNCE: usize = PAGE * PAGES_IN_WORD as usize;
const _: () = assert!(MAX_BOUNCE as u64 == nvme::MAX_TRANSFER);
/// Size of the pool in bytes: 4 MiB, so that it fits the usual limit on locked memory when registered.
pub(crate) const POOL_SIZE: usize = MAX_BOUNCE * WORDS;

/// All bounce memory of the card.
pub(crate) struct Pool {
    base: NonNull<u8>,
    /// One bit for each free page.
    free: [u64; WORDS],
    /// Where to look first.
    hint: usize,
}

/// A piece of the pool. Give it back with [`Pool::give_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounce {
    word: u8,
    first: u8,
    pages: u8,
}

impl Pool {
    pub(crate) fn new() -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(null_mut(), POOL_SIZE, access, MapFlags::PRIVATE) }?;
        // SAFETY: exactly the mapping just made.
        unsafe { madvise(base, POOL_SIZE, Advice::LinuxDontDump) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, free: [u64::MAX; WORDS], hint: 0 })
    }

    /// First byte of the pool, for registration.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Takes `len` bytes, 1 to [`MAX_BOUNCE`]; `None` while there is no room.
    pub(crate) fn take(&mut self, len: usize) -> Option<Bounce> {
        let pages =
            u32::try_from(len.div_ceil(PAGE)).ok().filter(|pages| (1..=PAGES_IN_WORD).contains(pages))?;
        for step in 0..WORDS {
            let word = (self.hint + step) % WORDS;
            let free = self.free.get_mut(word)?;
            let starts = runs(*free, pages);
            if starts != 0 {
                let first = starts.trailing_zeros();
                *free &= !(mask(pages) << first);
                self.hint = word;
                let small = |number: u32| u8::try_from(number).ok();
                return Some(Bounce {
                    word: u8::try_from(word).ok()?,
                    first: small(first)?,
                    pages: small(pages)?,
                });
            }
        }
        None
    }

    /// Gives a piece back; nothing may still use it.
    pub(crate) fn give_back(&mut self, bounce: Bounce) {
        if let Some(free) = self.free.get_mut(usize::from(bounce.word)) {
            *free |= mask(u32::from(bounce.pages)) << bounce.first;
        }
    }

    /// Where a piece begins.
    pub(crate) fn at(&self, bounce: Bounce) -> *mut u8 {
        let page = usize::from(bounce.word) * PAGES_IN_WORD as usize + usize::from(bounce.first);
        self.base.as_ptr().wrapping_add(page * PAGE)
    }
}

fn mask(pages: u32) -> u64 {
    u64::MAX >> (PAGES_IN_WORD - pages)
}

/// A bit wherever a run of `pages` set bits begins.
fn runs(mut bits: u64, pages: u32) -> u64 {
    let mut left = pages - 1;
    let mut have = 1;
    while left > 0 {
        let step = left.min(have);
        bits &= bits >> step;
        left -= step;
        have += step;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_bounces_fill_the_pool() {
        let mut pool = Pool::new().unwrap();
        let all: Vec<_> = std::iter::from_fn(|| pool.take(MAX_BOUNCE)).collect();
        assert_eq!(all.len(), POOL_SIZE / MAX_BOUNCE);
        assert!(pool.take(1).is_none());
        pool.give_back(all[3]);
        assert_eq!(pool.take(MAX_BOUNCE), Some(all[3]));
        assert!(pool.take(0).is_none() && pool.take(MAX_BOUNCE + 1).is_none());
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_all_comes_back(steps in prop::collection::vec((any::<bool>(), 1..=MAX_BOUNCE), 1..300)) {
            let mut pool = Pool::new().unwrap();
            let mut out: Vec<(Bounce, usize)> = Vec::new();
            for (take, number) in steps {
                if take && let Some(bounce) = pool.take(number) {
                    let from = pool.at(bounce) as usize;
                    prop_assert!(from >= pool.base() as usize && from + number <= pool.base() as usize + POOL_SIZE);
                    for (other, len) in &out {
                        let start = pool.at(*other) as usize;
                        prop_assert!(from + number <= start || start + len <= from);
                    }
                    out.push((bounce, number));
                } else if !take && !out.is_empty() {
                    let (bounce, _) = out.swap_remove(number % out.len());
                    pool.give_back(bounce);
                }
            }
            for (bounce, _) in out {
                pool.give_back(bounce);
            }
            prop_assert_eq!(pool.free, [u64::MAX; WORDS]);
        }
    }
}
