//! What a function is behind: a card's process, or the host's hardware. Both speak as VFIO does.

use crate::pci::bar;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::pread,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
};
use vfio_user::{Area, Client, ClientError, ClientState, DeviceInfo, IoEvent, Irq, Region, Socket};

/// A function behind a slot. [`ClientError::Refused`] is an answer, as of a function that does not know the place;
/// after any other error it is gone.
pub trait Backend: Send {
    /// Numbers of regions and interrupt indexes.
    fn info(&mut self) -> Result<DeviceInfo, ClientError>;
    /// One region. All that may be mapped of it is there.
    fn region(&mut self, index: u32) -> Result<Region, ClientError>;
    /// The parts of a region that can be written by eventfd.
    fn io_events(&mut self, region: u32) -> Result<Vec<IoEvent>, ClientError>;
    /// The largest BAR that it may have, in bytes.
    fn largest_bar(&self) -> u64;
    /// One interrupt index.
    fn irq(&mut self, index: u32) -> Result<Irq, ClientError>;
    /// Reads a region.
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError>;
    /// Writes a region.
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError>;
    /// Writes a region, with nobody told whether it worked.
    fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError>;
    /// Sets the eventfds of an interrupt index, from its first on.
    fn set_eventfds(&mut self, index: u32, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError>;
    /// Takes all of them away.
    fn disable_irqs(&mut self, index: u32) -> Result<(), ClientError>;
    /// Resets the function. Memory stays given.
    fn reset(&mut self) -> Result<(), ClientError>;
    /// The guest has asked for a function level reset, by the write before.
    fn function_level_reset(&mut self) -> Result<(), ClientError>;
    /// Takes guest memory back: the function has finished with it on return.
    fn take_memory(&mut self) -> Result<(), ClientError>;
    /// What another process needs to go on with it; `None` if none can.
    fn keep(&self) -> Option<(ClientState, Arc<Socket>)>;
}

impl Backend for Client {
    fn info(&mut self) -> Result<DeviceInfo, ClientError> {
        Self::info(self)
    }

    fn region(&mut self, index: u32) -> Result<Region, ClientError> {
        let mut region = Self::region(self, index)?;
        if let Some(mapping) = &mut region.mapping {
            if mapping.areas.is_empty() {
                mapping.areas.push(Area { offset: 0, len: region.size });
            }
            mapping.areas.retain(|area| is_there(&mapping.file, mapping.offset, area));
        }
        region.mapping.take_if(|mapping| mapping.areas.is_empty());
        Ok(region)
    }

    fn io_events(&mut self, region: u32) -> Result<Vec<IoEvent>, ClientError> {
        // Cards without eventfds refuse the question.
        match Self::io_events(self, region) {
            Err(ClientError::Refused(_)) => Ok(Vec::new()),
            events => events,
        }
    }

    fn largest_bar(&self) -> u64 {
        bar::MOST
    }

    fn irq(&mut self, index: u32) -> Result<Irq, ClientError> {
        Self::irq(self, index)
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        Self::read(self, region, offset, data)
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        Self::write(self, region, offset, data)
    }

    fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        Self::post(self, region, offset, data)
    }

    fn set_eventfds(&mut self, index: u32, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        Self::set_eventfds(self, index, 0, fds)
    }

    fn disable_irqs(&mut self, index: u32) -> Result<(), ClientError> {
        Self::disable_irqs(self, index)
    }

    fn reset(&mut self) -> Result<(), ClientError> {
        Self::reset(self)
    }

    /// The card has seen the write.
    fn function_level_reset(&mut self) -> Result<(), ClientError> {
        Ok(())
    }

    fn take_memory(&mut self) -> Result<(), ClientError> {
        self.dma_unmap_all()
    }

    fn keep(&self) -> Option<(ClientState, Arc<Socket>)> {
        Some((self.state(), Arc::clone(self.socket())))
    }
}

/// The file goes to the area's end. Beyond a file's end there is nothing, and the machine would fail there; a card that
/// cuts its file later gets that.
fn is_there(file: &impl AsFd, offset: u64, area: &Area) -> bool {
    let last = offset.checked_add(area.offset).and_then(|start| start.checked_add(area.len.checked_sub(1)?));
    last.is_some_and(|last| pread(file, &mut [0; 1], last) == Ok(1))
}

/// How a function's end is seen without waiting for the function, and brought about.
pub enum Lifeline {
    /// The card's socket, which closes when the function lets go of its card.
    Card(Weak<Socket>),
    /// An eventfd: the host wants its hardware back, or it has failed.
    Host(OwnedFd),
}

impl Lifeline {
    /// Ends all waiting for the function. Hardware lets nobody wait long.
    pub fn cut(&self) {
        if let Self::Card(socket) = self
            && let Some(socket) = socket.upgrade()
        {
            socket.end();
        }
    }

    /// The function is gone, or must go.
    pub fn is_cut(&self) -> bool {
        match self {
            Self::Card(socket) => socket.upgrade().is_none_or(|socket| socket.is_closed()),
            Self::Host(eventfd) => {
                let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
                poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
            }
        }
    }
}
