//! The processors' way to the board's SPI and I²C buses: a PCI function, **a stand-in of the lab's own** for the host
//! controllers of a real chipset. Each transaction goes to the security chip, which decides; this only carries it.
//!
//! Vendor 1D0Fh, device AB05h, on the root bus at 1Dh. BAR 0 is memory, with these registers, little-endian:
//!
//! | at | register |
//! |---|---|
//! | 00h | identification, reads as `AZBS` |
//! | 04h | target: bits 0 to 7 flash (SPI) or address (I²C); bit 8: 0 for SPI, 1 for I²C |
//! | 08h | data: a write puts its low byte into the FIFO to be sent, a read takes a byte out of what was read (FFh if there is none) |
//! | 0Ch | go: a write sends the FIFO in one transaction and reads as many bytes as it says, 4096 at most |
//! | 10h | status: bit 0 the device acknowledged, bit 1 nobody did the transaction; bits 16 to 31 bytes still to be taken |
//! | 14h | clear: a write empties both FIFOs |

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use std::{
    collections::VecDeque,
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use vfio_user::{
    Device, Irq, IrqSet, Irqs, Region, Session, Wait,
    pci::{self, Bar, ConfigSpace, ConfigWrite, Identity, Msix},
};
use wire::{
    Link,
    chip::{BusReply, MAX_TRANSFER, Transaction},
};

const BAR_SIZE: u64 = 0x4000;
const IDENTIFICATION: u32 = u32::from_le_bytes(*b"AZBS");
const I2C: u32 = 1 << 8;
const ACKNOWLEDGED: u32 = 1;
const NOBODY: u32 = 2;

/// One end of a bus: connected when it is used, and again if the chip was away.
#[derive(Debug)]
pub(crate) struct Wire {
    chip: PathBuf,
    link: Option<Link<Transaction, BusReply>>,
}

impl Wire {
    pub(crate) fn new(chip: PathBuf) -> Self {
        Self { chip, link: None }
    }

    /// Does one transaction; none if nobody did it.
    pub(crate) fn transact(&mut self, transaction: &Transaction) -> Option<(Vec<u8>, bool)> {
        if self.link.is_none() {
            self.link = wire::connect(&self.chip).ok();
        }
        match self.link.as_ref()?.call(transaction, &[]) {
            Ok(BusReply::Data { bytes, acknowledged }) => Some((bytes, acknowledged)),
            Ok(BusReply::Fault(_)) => None,
            Err(_) => {
                self.link = None;
                None
            }
        }
    }
}

struct Function {
    wire: Wire,
    config: ConfigSpace,
    regions: Vec<Region>,
    irqs: Irqs,
    target: u32,
    out: Vec<u8>,
    read: VecDeque<u8>,
    status: u32,
}

/// Offers the function on a socket of its own, to one emulator after the other. `chip` is the chip's socket for the
/// processors' buses.
pub(crate) fn serve(socket: &Path, chip: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let chip = chip.to_owned();
    thread::Builder::new().name("buses".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => converse(&mut Session::new(stream.into()), &mut Function::new(chip.clone())),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the emulator on the buses");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })?;
    Ok(())
}

fn converse(session: &mut Session, function: &mut Function) {
    while let Ok(wait) = session.step(function) {
        let flags = match wait {
            Wait::Output => PollFlags::OUT,
            Wait::Input => PollFlags::IN,
            Wait::Device | Wait::Nothing => continue,
        };
        if poll(&mut [PollFd::new(session, flags)], None).is_err_and(|error| error != Errno::INTR) {
            return;
        }
    }
}

impl Function {
    fn new(chip: PathBuf) -> Self {
        let identity =
            Identity { vendor: 0x1d0f, device: 0xab05, subsystem: 0, revision: 1, class: [0x0c, 0x80, 0] };
        let bar = Bar { index: 0, size: BAR_SIZE, prefetchable: false };
        // Never raised: who asked has its answer when the register is written.
        let msix = Msix { vectors: 1, bar: 0, table: 0x1000, pending: 0x2000 };
        let mut regions = vec![Region::default(); pci::REGIONS as usize];
        for (index, size) in [(pci::BAR0, BAR_SIZE), (pci::CONFIG, pci::CONFIG_SIZE as u64)] {
            if let Some(region) = regions.get_mut(index as usize) {
                *region = Region { size, readable: true, writable: true, mapping: None };
            }
        }
        Self {
            wire: Wire::new(chip),
            config: ConfigSpace::new(&identity, &[bar], &msix),
            regions,
            irqs: Irqs::new([0, 0, 1, 1, 0]),
            target: 0,
            out: Vec::new(),
            read: VecDeque::new(),
            status: 0,
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => IDENTIFICATION,
            0x04 => self.target,
            0x08 => self.read.pop_front().unwrap_or(0xff).into(),
            0x10 => self.status | u32::try_from(self.read.len()).unwrap_or(0) << 16,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x04 => self.target = value & (I2C | 0xff),
            // What does not fit is lost, as in any FIFO.
            0x08 if self.out.len() < usize::from(MAX_TRANSFER) => self.out.push((value & 0xff) as u8),
            0x0c => self.go(value),
            0x14 => self.clear(),
            _ => {}
        }
    }

    fn go(&mut self, count: u32) {
        let read = u16::try_from(count).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
        let (out, number) = (std::mem::take(&mut self.out), (self.target & 0xff) as u8);
        let transaction = match self.target & I2C {
            0 => Transaction::Spi { select: number, out, read },
            _ => Transaction::I2c { address: number, out, read },
        };
        (self.read, self.status) = match self.wire.transact(&transaction) {
            Some((bytes, acknowledged)) => (bytes.into(), if acknowledged { ACKNOWLEDGED } else { 0 }),
            None => (VecDeque::new(), NOBODY),
        };
    }

    fn clear(&mut self) {
        self.out.clear();
        self.read.clear();
    }
}

impl Device for Function {
    fn region(&self, index: u32) -> Option<&Region> {
        self.regions.get(index as usize)
    }

    fn irq(&self, index: u32) -> Option<Irq> {
        self.irqs.info(index)
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if region == pci::CONFIG {
            self.config.read(offset, data);
        } else {
            data.fill(0);
            let value = self.register(offset).to_le_bytes();
            data.iter_mut().zip(value).for_each(|(to, byte)| *to = byte);
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if region != pci::CONFIG {
            let mut value = [0; 4];
            value.iter_mut().zip(data).for_each(|(to, byte)| *to = *byte);
            self.set_register(offset, u32::from_le_bytes(value));
        } else if self.config.write(offset, data) == ConfigWrite::FunctionLevelReset {
            self.reset()?;
        }
        Ok(())
    }

    fn set_irqs(&mut self, set: IrqSet<'_>) -> Result<(), Errno> {
        self.irqs.set(set)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.clear();
        (self.target, self.status) = (0, 0);
        self.config.reset();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation, reason = "small numbers")]
    use super::*;

    /// A chip's end that echoes what it is sent.
    fn echo(path: &Path) {
        let listener = wire::Listener::bind(path).unwrap();
        thread::spawn(move || {
            while let Ok(link) = listener.accept::<BusReply, Transaction>() {
                while let Ok((transaction, _)) = link.receive() {
                    let reply = match transaction {
                        Transaction::Spi { select, out, read } => {
                            let bytes = [&[select], &out[..], &read.to_be_bytes()].concat();
                            BusReply::Data { bytes, acknowledged: true }
                        }
                        Transaction::I2c { address, out, .. } => {
                            BusReply::Data { bytes: [vec![address], out].concat(), acknowledged: false }
                        }
                    };
                    link.send(&reply, &[]).unwrap();
                }
            }
        });
    }

    fn set(function: &mut Function, at: u64, value: u32) {
        function.region_write(pci::BAR0, at, &value.to_le_bytes()).unwrap();
    }

    fn get(function: &mut Function, at: u64) -> u32 {
        let mut bytes = [0; 4];
        function.region_read(pci::BAR0, at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn registers_make_transactions_and_a_chip_that_is_away_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let mut function = Function::new(path.clone());
        assert_eq!(get(&mut function, 0).to_le_bytes(), *b"AZBS");
        set(&mut function, 0x0c, 1);
        assert_eq!(get(&mut function, 0x10), NOBODY);
        echo(&path);
        for (target, wanted, status) in
            [(1, &[1, 0x9f, 7, 0x10, 0x00][..], ACKNOWLEDGED), (I2C | 0x50, &[0x50, 0x9f, 7], 0)]
        {
            set(&mut function, 0x04, target);
            function.region_write(pci::BAR0, 0x08, &[0x9f]).unwrap();
            set(&mut function, 0x08, 0xabcd_ef07);
            set(&mut function, 0x0c, u32::MAX);
            assert_eq!(get(&mut function, 0x10), (wanted.len() as u32) << 16 | status);
            let bytes: Vec<_> = wanted.iter().map(|_| get(&mut function, 0x08) as u8).collect();
            assert_eq!(bytes, wanted);
            assert_eq!((get(&mut function, 0x08), get(&mut function, 0x10)), (0xff, status));
        }
        for _ in 0..=MAX_TRANSFER {
            set(&mut function, 0x08, 1);
        }
        assert_eq!(function.out.len(), usize::from(MAX_TRANSFER));
        set(&mut function, 0x14, 0);
        assert!(function.out.is_empty());
    }
}
