//! A function of the host's hardware, by VFIO: a virtual function of a network card, an accelerator.
//!
//! The controller opens it (`vfio::Claim`) and gives two descriptors; this process needs neither a path nor a
//! privilege. The IOMMU lets the function reach guest memory and nothing else, from before the guest sees it until
//! after it has been reset again. The kernel keeps what would be dangerous in configuration space; of the rest the
//! guest may change memory space, bus master, the interrupt line, and ask for a reset. Extended capabilities (virtual
//! functions, resizable BARs, address translation) are not shown.

use crate::{
    function::{Backend, FunctionError, Lifeline},
    memory::Memory,
    pci::{
        Unfit,
        bar::MOST_HARDWARE,
        config::{COMMAND, HEADER, INTERRUPT_LINE, MEMORY_SPACE},
    },
};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use vfio::{Container, Device};
use vfio_user::{
    Area, ClientError, ClientState, DeviceInfo, IoEvent, Irq, Region, RegionMapping, Socket,
    pci::{CONFIG, ERROR, IRQS, REGIONS, REQUEST},
};

/// Bus master, in the command register.
const BUS_MASTER: u8 = 0x04;

/// A function of the host's hardware with the guest's memory.
pub struct Hardware {
    device: Device,
    container: Container,
}

impl Hardware {
    /// Resets the function and gives it the guest's memory. `container` must have nothing mapped.
    pub fn new(
        [container, device]: [OwnedFd; 2],
        memory: &Memory,
    ) -> Result<(Self, Lifeline), FunctionError> {
        let device = Device::new(device).map_err(ClientError::Refused)?;
        if !device.resettable() {
            return Err(Unfit::Reset.into());
        }
        device.reset().map_err(ClientError::Refused)?;
        let mut hardware = Self { device, container: Container::new(container) };
        memory.map_into(&mut hardware.container).map_err(FunctionError::Memory)?;
        let cut = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for kind in [REQUEST, ERROR] {
            // Not every function reports errors.
            if hardware.device.irqs(kind).is_ok_and(|count| count > 0) {
                hardware.device.set_irqs(kind, &[cut.as_fd()]).map_err(ClientError::Refused)?;
            }
        }
        Ok((hardware, Lifeline::Host(cut)))
    }
}

/// The function does no DMA any more when the memory is taken back, however it has come to this.
impl Drop for Hardware {
    fn drop(&mut self) {
        if self.container.is_empty() {
            return;
        }
        let ended = self.reset().and_then(|()| self.take_memory());
        if let Err(error) = ended {
            tracing::warn!(%error, "a function of the host is left to the kernel's own reset");
        }
    }
}

impl Backend for Hardware {
    fn info(&mut self) -> Result<DeviceInfo, ClientError> {
        Ok(DeviceInfo { regions: REGIONS, irqs: IRQS, resettable: true })
    }

    fn region(&mut self, index: u32) -> Result<Region, ClientError> {
        let region = self.device.region(index).ok_or(ClientError::Refused(Errno::INVAL))?;
        let area = |area: &vfio::Area| Area { offset: area.offset, len: area.len };
        let mapping = region.mappable.as_ref().map(|areas| RegionMapping {
            file: self.device.file(),
            offset: region.offset,
            areas: areas.iter().map(area).collect(),
        });
        Ok(Region { size: region.size, readable: region.readable, writable: region.writable, mapping })
    }

    fn io_events(&mut self, _: u32) -> Result<Vec<IoEvent>, ClientError> {
        Ok(Vec::new())
    }

    fn largest_bar(&self) -> u64 {
        MOST_HARDWARE
    }

    fn irq(&mut self, index: u32) -> Result<Irq, ClientError> {
        let count = self.device.irqs(index).map_err(ClientError::Refused)?;
        Ok(Irq { count, eventfd: true, maskable: false, no_resize: true })
    }

    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        if region == CONFIG && offset >= HEADER as u64 {
            data.fill(0);
            return Ok(());
        }
        self.device.read(region, offset, data).map_err(ClientError::Refused)
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        if region != CONFIG {
            return self.device.write(region, offset, data).map_err(ClientError::Refused);
        }
        let let_through = configure(offset, data);
        let_through
            .map_or(Ok(()), |byte| self.device.write(region, offset, &[byte]))
            .map_err(ClientError::Refused)
    }

    fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.write(region, offset, data)
    }

    fn set_eventfds(&mut self, index: u32, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.device.set_irqs(index, fds).map_err(ClientError::Refused)
    }

    fn disable_irqs(&mut self, index: u32) -> Result<(), ClientError> {
        self.device.disable_irqs(index).map_err(ClientError::Refused)
    }

    fn reset(&mut self) -> Result<(), ClientError> {
        self.device.reset().map_err(ClientError::Refused)
    }

    /// The kernel puts the command register back after its reset.
    fn function_level_reset(&mut self) -> Result<(), ClientError> {
        self.reset()?;
        self.write(CONFIG, u64::from(COMMAND), &[0, 0])
    }

    fn take_memory(&mut self) -> Result<(), ClientError> {
        self.container.unmap_all().map_err(ClientError::Refused)
    }

    fn keep(&self) -> Option<(ClientState, Arc<Socket>)> {
        None
    }
}

/// The byte that is let through of a guest's write to configuration space, at the same place; the rest is as if it could
/// not be written. Interrupts by pin, parity and the like are off after a reset.
fn configure(offset: u64, data: &[u8]) -> Option<u8> {
    match u16::try_from(offset).ok()? {
        COMMAND => data.first().map(|low| low & (MEMORY_SPACE | BUS_MASTER)),
        INTERRUPT_LINE => data.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_changes_little_of_the_hosts_hardware() {
        assert_eq!(configure(0x04, &[0xFF, 0xFF, 0xFF, 0xFF]), Some(0x06));
        assert_eq!(configure(0x04, &[0x02]), Some(0x02));
        assert_eq!(configure(0x3C, &[0x0B, 0x01]), Some(0x0B));
        for offset in (0..0x1000).filter(|offset| ![0x04, 0x3C].contains(offset)) {
            assert_eq!(configure(offset, &[0xFF, 0xFF, 0xFF, 0xFF]), None, "{offset:#x}");
        }
    }
}
