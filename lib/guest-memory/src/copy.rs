//! Copies between guest memory and ours, with the guest writing at the same time.

use crate::Segment;
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// A word of guest memory, aligned to its size.
pub(crate) struct Word<const SIZE: usize>(NonNull<u8>);

impl<const SIZE: usize> Word<SIZE> {
    /// `None` unless the segment is aligned and long enough.
    pub(crate) fn new(segment: Segment) -> Option<Self> {
        (segment.len >= SIZE && segment.ptr.addr().get().is_multiple_of(SIZE)).then_some(Self(segment.ptr))
    }
}

/// The word as an atomic, for as long as the borrow of it.
pub(crate) fn atomic_u16(word: &Word<2>) -> &AtomicU16 {
    // SAFETY: two mapped bytes, aligned; this process touches them by atomics only.
    unsafe { AtomicU16::from_ptr(word.0.as_ptr().cast()) }
}

/// The word as an atomic, for as long as the borrow of it.
pub(crate) fn atomic_u32(word: &Word<4>) -> &AtomicU32 {
    // SAFETY: four mapped bytes, aligned; this process touches them by atomics only.
    unsafe { AtomicU32::from_ptr(word.0.as_ptr().cast()) }
}

/// Bytes until the next address that is aligned to 8, at most `len`.
fn head(segment: &Segment, len: usize) -> usize {
    segment.ptr.addr().get().wrapping_neg().rem_euclid(8).min(len)
}

/// Copies `data.len()` bytes, which must not exceed the segment, out of guest memory.
pub(crate) fn load(segment: Segment, data: &mut [u8]) {
    assert!(data.len() <= segment.len);
    let (head, rest) = data.split_at_mut(head(&segment, data.len()));
    let mut at = 0;
    for byte in head {
        *byte = byte_at(segment, at).load(Relaxed);
        at += 1;
    }
    let mut words = rest.chunks_exact_mut(8);
    for word in &mut words {
        word.copy_from_slice(&word_at(segment, at).load(Relaxed).to_ne_bytes());
        at += 8;
    }
    for byte in words.into_remainder() {
        *byte = byte_at(segment, at).load(Relaxed);
        at += 1;
    }
}

/// Copies `data`, which must not exceed the segment, into guest memory.
pub(crate) fn store(segment: Segment, data: &[u8]) {
    assert!(data.len() <= segment.len);
    let (head, rest) = data.split_at(head(&segment, data.len()));
    let mut at = 0;
    for byte in head {
        byte_at(segment, at).store(*byte, Relaxed);
        at += 1;
    }
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        word_at(segment, at).store(u64::from_ne_bytes(*word), Relaxed);
        at += 8;
    }
    for byte in tail {
        byte_at(segment, at).store(*byte, Relaxed);
        at += 1;
    }
}

#[inline(always)]
fn byte_at<'a>(segment: Segment, at: usize) -> &'a AtomicU8 {
    // SAFETY: the callers count `at` below the length of the data, which is within the segment: one mapped byte, which
    // this process touches by atomics only while it is borrowed.
    unsafe { AtomicU8::from_ptr(segment.ptr.as_ptr().wrapping_add(at)) }
}

#[inline(always)]
fn word_at<'a>(segment: Segment, at: usize) -> &'a AtomicU64 {
    // SAFETY: the callers count `at` and seven bytes after it below the length of the data, which is within the segment:
    // eight mapped bytes, aligned because `head` was copied first; this process touches them by atomics only.
    unsafe { AtomicU64::from_ptr(segment.ptr.as_ptr().wrapping_add(at).cast()) }
}
