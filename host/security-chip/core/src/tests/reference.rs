//! A flash as the data sheets of 25-series parts describe it, byte by byte on the wire; all from `protected` on is
//! protected. It is what the chip's is compared with, so it shares nothing with it.

use proptest::prelude::*;
use std::{vec, vec::Vec};

pub(super) struct Reference {
    pub(super) bytes: Vec<u8>,
    protected: usize,
    latch: bool,
    wide: bool,
}

/// What arrives after the opcode: bytes of address, bytes without meaning.
fn header(opcode: u8, wide: bool) -> Option<(usize, usize)> {
    let address = if wide { 4 } else { 3 };
    Some(match opcode {
        0x03 | 0x02 | 0x20 | 0x52 | 0xd8 => (address, 0),
        0x0b => (address, 1),
        0x13 | 0x12 | 0x21 | 0x5c | 0xdc => (4, 0),
        0x0c => (4, 1),
        0x05 | 0x15 | 0x35 | 0x06 | 0x04 | 0xb7 | 0xe9 | 0x60 | 0xc7 => (0, 0),
        _ => return None,
    })
}

impl Reference {
    pub(super) fn new(bytes: Vec<u8>, protected: usize) -> Self {
        Self { bytes, protected, latch: false, wide: false }
    }

    /// What is read, and whether protection was in the way of a change.
    pub(super) fn transact(&mut self, out: &[u8], read: usize) -> (Vec<u8>, bool) {
        let mut answer = vec![0xff; read];
        let Some(&opcode) = out.first() else { return (answer, self.forget()) };
        let Some((address_bytes, dummies)) = header(opcode, self.wide) else {
            return (answer, self.forget());
        };
        let Some(more) = out.len().checked_sub(1 + address_bytes + dummies) else {
            return (answer, self.forget());
        };
        let mut address = 0usize;
        for byte in &out[1..=address_bytes] {
            address = address * 256 + usize::from(*byte);
        }
        let data = &out[out.len() - more..];
        let blocked = match opcode {
            0x03 | 0x0b | 0x13 | 0x0c => {
                for (clock, byte) in answer.iter_mut().enumerate() {
                    *byte = self.bytes.get(address + more + clock).copied().unwrap_or(0xff);
                }
                false
            }
            0x05 => {
                answer.fill(if self.latch { 2 } else { 0 });
                false
            }
            0x15 => {
                answer.fill(u8::from(self.wide));
                false
            }
            0x35 => {
                answer.fill(0);
                false
            }
            0x06 | 0x04 => {
                self.latch = opcode == 0x06;
                false
            }
            0xb7 | 0xe9 => {
                self.wide = opcode == 0xb7;
                false
            }
            0x02 | 0x12 if data.is_empty() || data.len() > 256 => self.forget(),
            0x02 | 0x12 => self.change(address / 256 * 256, 256, |bytes| {
                for (n, new) in data.iter().enumerate() {
                    bytes[(address + n) % 256] &= new;
                }
            }),
            _ => {
                let size = match opcode {
                    0x20 | 0x21 => 4096,
                    0x52 | 0x5c => 32_768,
                    0xd8 | 0xdc => 65_536,
                    _ => self.bytes.len(),
                };
                self.change(address / size * size, size, |bytes| bytes.fill(0xff))
            }
        };
        (answer, blocked)
    }

    fn change(&mut self, from: usize, size: usize, change: impl FnOnce(&mut [u8])) -> bool {
        if !std::mem::take(&mut self.latch) {
            return false;
        }
        let reached = self.bytes.get_mut(..self.protected).and_then(|free| free.get_mut(from..from + size));
        reached.map(change).is_none()
    }

    /// An unknown or broken command: after write enable it is taken for one that would change something.
    fn forget(&mut self) -> bool {
        std::mem::take(&mut self.latch)
    }
}

/// What masters send: write enable often, addresses near edges, reads whole, everything else sometimes cut.
pub(super) fn transaction(size: usize) -> impl Strategy<Value = (Vec<u8>, usize)> {
    let opcodes: Vec<u8> = (0..=255).filter(|opcode| header(*opcode, false).is_some()).collect();
    // Answers of these do not depend on what the flash holds; they have tests of their own.
    let strange = any::<u8>().prop_filter("known", |opcode| ![0x9f, 0x90, 0xab, 0x5a].contains(opcode));
    let opcode = prop_oneof![5 => Just(0x06), 9 => proptest::sample::select(opcodes), 1 => strange];
    let block = prop_oneof![Just(256usize), Just(4096), Just(32_768), Just(65_536)];
    let address = (block, 0..1030usize, 0..4usize)
        .prop_map(move |(block, at, step)| ((at * block) % (size + block)).saturating_sub(2) + step);
    let bytes = |count| proptest::collection::vec(any::<u8>(), count);
    let data = prop_oneof![9 => bytes(0..20usize), 1 => bytes(250..260usize)];
    (opcode, address, any::<bool>(), data, 0..20usize).prop_map(|(opcode, address, wide, data, read)| {
        let reads = matches!(opcode, 0x03 | 0x0b | 0x13 | 0x0c);
        let mut out = vec![opcode];
        if header(opcode, false).is_some_and(|(bytes, _)| bytes > 0) {
            let four = wide || matches!(opcode, 0x13 | 0x12 | 0x21 | 0x5c | 0xdc | 0x0c);
            let bytes = (address as u32).to_be_bytes();
            out.extend(&bytes[usize::from(!four)..]);
        }
        // Enough for every header, whatever mode the flash is in.
        out.extend(if reads { vec![0, 0] } else { data });
        (out, read)
    })
}
