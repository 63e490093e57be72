//! Transactions of a hostile guest and a hostile management controller: whatever they send, the firmware stays what it
//! was, the lines stay where they were, and what the guest wrote to its variables is gone at the next hold.
#![no_main]

use chip_core::{Chip, Digest, Flash, Line, Master, Region, address};

const VARIABLES: usize = 0x3200;
const CODE: usize = 0x2a00;

struct Memory {
    code: [Vec<u8>; 2],
    variables: Vec<u8>,
}

impl Flash for Memory {
    type Error = ();
    fn served(&self, region: Region) -> &[u8] {
        match region {
            Region::Code(of) => &self.code[of as usize],
            Region::Variables => &self.variables,
        }
    }
    fn measure(&mut self, _: Master) -> Result<Digest, ()> {
        Ok([7; 32])
    }
    fn reload(&mut self, of: Master) -> Result<Digest, ()> {
        self.measure(of)
    }
    fn digest(&self, _: &[u8]) -> Digest {
        [0; 32]
    }
    fn program(&mut self, _: Master, _: &[u8]) -> Result<(), ()> {
        unreachable!("nobody authorised anything")
    }
    fn overlay(&mut self, offset: u64, data: &[u8]) {
        self.variables[offset as usize..][..data.len()].copy_from_slice(data);
    }
    fn drop_overlay(&mut self) {
        self.variables.fill(0x5a);
    }
    fn identity(&self) -> &[u8] {
        b"board"
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let memory = Memory { code: [vec![0xa5; CODE], vec![0xc3; 0x1000]], variables: vec![0x5a; VARIABLES] };
    let mut chip: Chip<Memory> = Chip::new(memory);
    for line in Line::ALL {
        chip.release(line, &[[7; 32]; 2]).unwrap();
    }
    let mut rest = bytes;
    while let Some((&[how, number, sent, read], more)) = rest.split_first_chunk() {
        let (out, more) = more.split_at((usize::from(sent) * 2).min(more.len()));
        rest = more;
        let master = Master::ALL[usize::from(how & 1)];
        let mut into = vec![0; usize::from(read)];
        match how >> 1 & 3 {
            0 | 1 => chip.spi(master, number % 3, out, &mut into),
            2 => {
                let address = [address::IDENTITY, address::RESET, number][usize::from(number % 3)];
                chip.i2c(master, address, out, &mut into);
            }
            _ => {
                let regions = [Region::Variables, Region::Code(Master::Cpu), Region::Code(Master::Bmc)];
                let _ = chip.map_write(regions[usize::from(number % 3)], u64::from(read) << (number >> 2), out);
            }
        }
    }
    assert!(chip.flash().code[0].iter().all(|byte| *byte == 0xa5));
    assert!(chip.flash().code[1].iter().all(|byte| *byte == 0xc3));
    assert!(Line::ALL.into_iter().all(|line| !chip.holds(line)));
    chip.hold(Line::Board);
    assert!(chip.flash().variables.iter().all(|byte| *byte == 0x5a));
});
