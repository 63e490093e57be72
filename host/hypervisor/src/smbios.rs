//! SMBIOS 2.7 as EC2 guests read it: who made the machine, its type, and the instance's id.

use crate::layout::SMBIOS;

const MAKER: &str = "Amazon EC2";
/// BIOS characteristics (DSP0134 §7.1.1): the two extension bytes; "this is a virtual machine", and ACPI is there.
const CHARACTERISTICS: [u8; 2] = [0x01, 0x10];
/// Structures begin here, after the entry point.
const STRUCTURES: u64 = SMBIOS.start + 0x20;
const ENTRY_POINT: usize = 31;
/// Longest name of a type or an instance that is told, in bytes.
const LONGEST: usize = 64;

/// What differs between instances.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The instance's id, `i-…`.
    pub instance: String,
    /// Its type, `r5d.xlarge`.
    pub kind: String,
    /// Its UUID in the order in which it is written; for guests to see EC2 its first three digits are `ec2`.
    pub uuid: [u8; 16],
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub processors: u8,
}

/// Entry point and structures as they lie in memory.
pub fn tables(identity: &Identity) -> Vec<(u64, Vec<u8>)> {
    let mut all = Structures::default();
    let uuid = written(identity.uuid);
    let (instance, kind) = (text(&identity.instance), text(&identity.kind));
    // BIOS information: vendor, version, segment, date, size, characteristics.
    all.add(
        0,
        &[&[1, 2], &[0xE8, 0], &[3, 0], &[0x08, 0, 0, 0, 0, 0, 0, 0], &CHARACTERISTICS, &[1, 0, 0xFF, 0xFF]],
        &[MAKER, "1.0", "10/16/2017"],
    );
    // System: maker, type, no version, serial number, UUID, woken by the power switch, no SKU, no family.
    all.add(1, &[&[1, 2, 0, 3], &stored(identity.uuid), &[6, 0, 0]], &[MAKER, &kind, &uuid]);
    // Board: maker, asset tag; hosts the rest; in the chassis that follows.
    let chassis = (all.next + 1).to_le_bytes();
    all.add(2, &[&[1, 0, 0, 0, 2, 0x09, 0], &chassis, &[0x0A, 0]], &[MAKER, &instance]);
    // Chassis: maker, "other"; states unknown.
    all.add(3, &[&[1, 1, 0, 0, 2, 2, 2, 2, 2], &[0; 4], &[0, 0, 0, 0]], &[MAKER, &instance]);
    all.processor(identity.processors);
    all.memory(identity.memory);
    // The end.
    all.add(127, &[], &[]);
    vec![(SMBIOS.start, entry_point(&all)), (STRUCTURES, all.bytes)]
}

#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    next: u16,
    longest: usize,
}

impl Structures {
    /// Adds a structure of formatted `parts` after its header, with its strings (DSP0134 §6.1).
    fn add(&mut self, kind: u8, parts: &[&[u8]], strings: &[&str]) {
        let formatted = parts.concat();
        let (start, [low, high]) = (self.bytes.len(), self.next.to_le_bytes());
        self.bytes.extend([kind, u8::try_from(formatted.len() + 4).unwrap_or(u8::MAX), low, high]);
        self.bytes.extend(formatted);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        self.bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        self.next += 1;
        self.longest = self.longest.max(self.bytes.len() - start);
    }

    /// Processor (§7.5): central, unknown family, its maker and clocks left to CPUID; enabled, in no socket.
    fn processor(&mut self, count: u8) {
        let none = [0xFF, 0xFF];
        self.add(
            4,
            &[
                &[0, 3, 2, 1],
                &[0; 8],
                &[0, 0],
                &[0; 6],
                &[0x41, 6],
                &none,
                &none,
                &none,
                &[0, 0, 0, count, count, count],
                &[4, 0, 2, 0],
            ],
            &[MAKER],
        );
    }

    /// Physical memory array, one device in it, and where it is mapped (§7.17, §7.18, §7.20).
    fn memory(&mut self, bytes: u64) {
        let array = self.next.to_le_bytes();
        let kib = u32::try_from(bytes >> 10).unwrap_or(0x8000_0000);
        let (kib, extended) = if kib < 0x8000_0000 { (kib, 0) } else { (0x8000_0000, bytes) };
        let none = [0xFE, 0xFF];
        self.add(
            16,
            &[&[1, 3, 3], &kib.to_le_bytes(), &none, &1u16.to_le_bytes(), &extended.to_le_bytes()],
            &[],
        );
        let mib = bytes >> 20;
        let (size, extended) = match u16::try_from(mib).ok().filter(|mib| *mib < 0x7FFF) {
            Some(mib) => (mib, 0),
            None => (0x7FFF, u32::try_from(mib).unwrap_or(u32::MAX)),
        };
        self.add(
            17,
            &[
                &array,
                &none,
                &[64, 0, 64, 0],
                &size.to_le_bytes(),
                // DIMM, in no set, "DIMM 0", of type RAM.
                &[9, 0, 1, 0, 7],
                &[4, 0],
                &[0, 0, 2, 0, 0, 0, 0],
                &extended.to_le_bytes(),
                &[0, 0],
            ],
            &["DIMM 0", MAKER],
        );
    }
}

/// The entry point (§5.2.1).
fn entry_point(all: &Structures) -> Vec<u8> {
    let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let address = u32::try_from(STRUCTURES).unwrap_or_default().to_le_bytes();
    let mut intermediate =
        [&b"_DMI_"[..], &[0], &word(all.bytes.len()), &address, &all.next.to_le_bytes(), &[0x27]].concat();
    seal(&mut intermediate, 5);
    let mut entry = [&b"_SM_"[..], &[0, 31, 2, 7], &word(all.longest), &[0; 6], &intermediate].concat();
    debug_assert_eq!(entry.len(), ENTRY_POINT);
    seal(&mut entry, 4);
    entry
}

/// Makes the sum of all bytes 0 by the byte at `at`.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// The first three fields are little endian (§7.2.1).
fn stored(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let mut stored = [0; 16];
    for (byte, value) in stored.iter_mut().zip([d, c, b, a, f, e, h, g].into_iter().chain(rest)) {
        *byte = value;
    }
    stored
}

fn written(uuid: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// What a string may hold: printable ASCII, and something.
fn text(text: &str) -> String {
    let mut text: String = text.chars().filter(char::is_ascii_graphic).take(LONGEST).collect();
    if text.is_empty() {
        text.push('-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn image(memory: u64) -> Vec<u8> {
        let mut uuid = [0x11; 16];
        (uuid[0], uuid[1], uuid[15]) = (0xEC, 0x2A, 0x99);
        let identity = Identity {
            instance: "i-0123456789abcdef0".into(),
            kind: "r5d.xlarge".into(),
            uuid,
            memory,
            processors: 4,
        };
        let mut image = vec![0; 0x1_0000];
        for (address, bytes) in tables(&identity) {
            let at = usize::try_from(address - SMBIOS.start).unwrap();
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        image
    }

    /// Structures as a guest walks them: type, formatted part, strings.
    fn walk(image: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((&image[..4], sum(&image[..31]), sum(&image[16..31])), (&b"_SM_"[..], 0, 0));
        let len = usize::from(u16::from_le_bytes([image[22], image[23]]));
        let count = usize::from(u16::from_le_bytes([image[28], image[29]]));
        let mut rest = &image[0x20..0x20 + len];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let formatted = rest[..usize::from(rest[1])].to_vec();
            rest = &rest[formatted.len()..];
            let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap();
            let text = String::from_utf8(rest[..end].to_vec()).unwrap();
            rest = &rest[end + 2..];
            found.push((formatted[0], formatted, text.split('\0').map(str::to_owned).collect()));
        }
        assert_eq!(found.len(), count);
        found
    }

    #[test]
    fn guests_read_what_ec2_guests_read() {
        let found = walk(&image(16 << 30));
        assert_eq!(found.iter().map(|(kind, ..)| *kind).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 16, 17, 127]);
        let uuid = "ec2a1111-1111-1111-1111-111111111199";
        assert_eq!(found[1].2, ["Amazon EC2", "r5d.xlarge", uuid]);
        assert_eq!(found[1].1[8..12], [0x11, 0x11, 0x2A, 0xEC]);
        assert_eq!(found[2].2[usize::from(found[2].1[8]) - 1], "i-0123456789abcdef0");
        let lengths: Vec<usize> = found.iter().map(|(_, formatted, _)| formatted.len()).collect();
        // Those of version 2.7 (DSP0134, the tables of §7).
        assert_eq!(lengths, [0x18, 0x1B, 0x0F, 0x15, 0x2A, 0x17, 0x22, 4]);
    }

    #[test]
    fn names_cannot_break_out_of_their_strings() {
        assert_eq!(text("a\0b\u{1F600}c"), "abc");
        assert_eq!(text(""), "-");
        assert_eq!(text(&"x".repeat(1000)).len(), LONGEST);
    }

    #[test]
    fn dmidecode_reads_the_same() {
        if Command::new("dmidecode").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: dmidecode_reads_the_same: no dmidecode");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dump");
        // As `dmidecode --dump-bin` leaves it: the entry point, with its table at 32.
        let mut image = image(64 << 20);
        image[24..28].copy_from_slice(&32u32.to_le_bytes());
        image[21] = 0;
        seal(&mut image[16..31], 5);
        image[4] = 0;
        seal(&mut image[..31], 4);
        std::fs::write(&file, &image).unwrap();
        let run = Command::new("dmidecode").arg("--from-dump").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        for wanted in
            ["Product Name: r5d.xlarge", "Asset Tag: i-0123456789abcdef0", "Size: 64 MB", "Core Count: 4"]
        {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
        assert!(!said.contains("Wrong") && !said.contains("<BAD INDEX>"), "{said}");
    }
}
