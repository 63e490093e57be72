//! The board's SPI and I²C buses: one socket for each master, so that the wire says who speaks.

use crate::flash::FlashFiles;
use chip_core::{Chip, Master};
use rustix::io::ioctl_fionbio;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};
use wire::{
    Fault, Link, LinkError, Listener,
    chip::{BusReply, MAX_TRANSFER, Transaction},
};

/// A master's buses.
#[derive(Debug)]
pub(crate) struct Bus {
    listener: Listener,
    link: Option<Link<BusReply, Transaction>>,
}

impl Bus {
    pub(crate) fn new(listener: Listener) -> io::Result<Self> {
        ioctl_fionbio(&listener, true)?;
        Ok(Self { listener, link: None })
    }

    /// Accepts the master, or does one transaction. One end of the wire: another is heard when the first is gone.
    pub(crate) fn turn(&mut self, master: Master, chip: &mut Chip<FlashFiles>) {
        let Some(link) = &self.link else {
            self.link = self.listener.accept().ok().filter(|link| ioctl_fionbio(link, true).is_ok());
            return;
        };
        let reply = match link.receive() {
            Ok((transaction, _)) => transact(master, chip, &transaction),
            Err(LinkError::Io(rustix::io::Errno::AGAIN)) => return,
            Err(LinkError::Malformed(_) | LinkError::TooLong) => BusReply::Fault(no_transaction()),
            Err(LinkError::Closed | LinkError::Io(_)) => {
                self.link = None;
                return;
            }
        };
        // A master that does not read is cut off.
        if link.send(&reply, &[]).is_err() {
            self.link = None;
        }
    }
}

impl AsFd for Bus {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_ref().map_or_else(|| self.listener.as_fd(), AsFd::as_fd)
    }
}

fn transact(master: Master, chip: &mut Chip<FlashFiles>, transaction: &Transaction) -> BusReply {
    let (Transaction::Spi { out, read, .. } | Transaction::I2c { out, read, .. }) = transaction;
    if out.len() > usize::from(MAX_TRANSFER) || *read > MAX_TRANSFER {
        return BusReply::Fault(no_transaction());
    }
    let mut bytes = vec![0; usize::from(*read)];
    let acknowledged = match transaction {
        Transaction::Spi { select, out, .. } => {
            chip.spi(master, *select, out, &mut bytes);
            true
        }
        Transaction::I2c { address, out, .. } => chip.i2c(master, *address, out, &mut bytes),
    };
    BusReply::Data { bytes, acknowledged }
}

fn no_transaction() -> Fault {
    Fault::new("chip.transaction", "this is no transaction on a bus of the main board")
}
