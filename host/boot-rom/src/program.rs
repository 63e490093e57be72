//! Programs that are whole: what starts them starts nothing else.

/// Type of the entry with the name of the loader of libraries (System V ABI, program header).
const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
/// Size of an entry of a 64-bit program header.
const ENTRY: usize = 56;

/// Whether the system would start another program for this one, which nobody has measured: a loader of libraries, or a
/// script's shell. `program` is as much of the file's beginning as there is; of an ELF file it must have the whole program
/// header, which linkers put first. What no system starts names nothing.
pub fn names_another(program: &[u8]) -> bool {
    if program.starts_with(b"\x7fELF") {
        in_header(program).unwrap_or(true)
    } else {
        program.starts_with(b"#!")
    }
}

/// `None` if it is no 64-bit little-endian ELF file, or its program header is elsewhere.
fn in_header(elf: &[u8]) -> Option<bool> {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..)?.get(..size)?;
        usize::try_from(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))).ok()
    };
    // e_ident, e_phentsize, e_phoff, e_phnum.
    (elf.starts_with(b"\x7fELF\x02\x01") && number(54, 2)? == ENTRY).then_some(())?;
    let entries = elf.get(number(32, 8)?..)?.get(..number(56, 2)? * ENTRY)?;
    Some(entries.chunks_exact(ENTRY).any(|entry| entry.starts_with(&PT_INTERP)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ELF file with a program header of these types.
    fn elf(types: &[u32]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = types.len().try_into().unwrap();
        for kind in types {
            elf.extend(kind.to_le_bytes());
            elf.extend([0; 52]);
        }
        elf
    }

    #[test]
    fn a_program_that_names_a_loader_or_a_shell_is_seen() {
        assert!(!names_another(&elf(&[1, 2, 6])));
        assert!(!names_another(b"no program"));
        for place in 0..3 {
            let mut types = [1; 3];
            types[place] = 3;
            assert!(names_another(&elf(&types)));
        }
        assert!(names_another(b"#!/bin/sh"));
        assert!(names_another(&std::fs::read("/bin/sh").unwrap()), "this machine's programs have a loader");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!names_another(&own), "programs of this tree have none, nor have their tests");
    }

    #[test]
    fn a_header_that_cannot_be_read_is_no_whole_programs() {
        let whole = elf(&[1, 2, 6]);
        for length in 4..whole.len() {
            assert!(names_another(&whole[..length]), "{length} bytes");
        }
        for (at, bytes) in [(4, [1]), (5, [2]), (54, [55]), (39, [0xff])] {
            let mut other = whole.clone();
            other[at..][..1].copy_from_slice(&bytes);
            assert!(names_another(&other), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            names_another(&bytes);
            for (byte, magic) in bytes.iter_mut().zip(b"\x7fELF\x02\x01") {
                *byte = *magic;
            }
            names_another(&bytes);
        }
    }
}
