//! What the board's identity memory holds, in the format of IPMI's FRU information (Platform Management FRU Information
//! Storage Definition 1.0): common header, then a board area.

/// The fields: maker, product, serial number, part number.
const FIELDS: [&str; 4] = ["Azote", "main board", "none", env!("CARGO_PKG_VERSION")];

/// All 256 bytes.
pub(crate) fn memory() -> [u8; 256] {
    // Format 1; the board area begins at 8 bytes; there is no other.
    let header = [1, 0, 0, 1, 0, 0];
    // Format 1, length (filled in below), English, made at an unknown time.
    let mut area = vec![1, 0, 25, 0, 0, 0];
    for field in FIELDS {
        // Type 3: text. Lengths have six bits.
        let text = field.as_bytes().iter().take(0x3f);
        area.push(0xc0 | u8::try_from(text.len() & 0x3f).unwrap_or(0));
        area.extend(text);
    }
    // No file identifier, no more fields.
    area.extend([0xc0, 0xc1]);
    let whole = (area.len() + 1).next_multiple_of(8);
    area.resize(whole - 1, 0);
    if let Some(length) = area.get_mut(1) {
        *length = u8::try_from(whole / 8).unwrap_or(u8::MAX);
    }
    let mut memory = [0xff; 256];
    let bytes = header.into_iter().chain([0, sum(&header)]).chain(area.iter().copied()).chain([sum(&area)]);
    memory.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    memory
}

/// What makes the bytes' sum a multiple of 256.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| u8::wrapping_sub(sum, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right_and_the_maker_is_named() {
        let memory = memory();
        let area = &memory[8..8 + 8 * usize::from(memory[9])];
        for part in [&memory[..8], area] {
            assert_eq!(part.iter().fold(0, |sum, byte| u8::wrapping_add(sum, *byte)), 0);
        }
        assert_eq!((area[6], &area[7..12]), (0xc0 | 5, &b"Azote"[..]));
        assert!(memory[8 + area.len()..].iter().all(|byte| *byte == 0xff));
    }
}
