//! The vfio-user client that Cloud Hypervisor links drives the card in place of ours.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use nvme::driver::{Bar, Driver, Options};
use peer::Client;
use rig::{Card, Disk, GUEST};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};
use vfio_user::pci::{BAR0, CONFIG, MSIX};

/// VFIO_IRQ_SET_DATA_EVENTFD and VFIO_IRQ_SET_ACTION_TRIGGER (linux/vfio.h).
const EVENTFD_TRIGGER: u32 = 1 << 2 | 1 << 5;
const BAR0_LOW: u64 = 0x10;
const COMMAND: u64 = 0x04;

struct Function(Client);

impl Bar for Function {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.region_read(BAR0, offset, into).map_err(|error| io::Error::other(format!("{error:?}")))
    }
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.region_write(BAR0, offset, from).map_err(|error| io::Error::other(format!("{error:?}")))
    }
}

#[test]
fn cloud_hypervisors_client_drives_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let card = Card::start(Path::new(env!("CARGO_BIN_EXE_azote-volume-card")));
    let disk = Disk::new(folder.path(), 1, 4 << 20);
    assert_eq!(card.attach(&disk), "done");
    let mut client = Client::new(&disk.socket()).unwrap();

    // It sizes BARs through configuration space, as a guest's firmware does on hardware.
    let mut size = [0; 4];
    client.region_write(CONFIG, BAR0_LOW, &u32::MAX.to_le_bytes()).unwrap();
    client.region_read(CONFIG, BAR0_LOW, &mut size).unwrap();
    let bytes = !(u32::from_le_bytes(size) & !0xf) + 1;
    assert_eq!(u64::from(bytes), client.region(BAR0).unwrap().size);
    client.region_write(CONFIG, BAR0_LOW, &[0; 4]).unwrap();
    client.region_write(CONFIG, COMMAND, &0x0406_u16.to_le_bytes()).unwrap();

    let vectors = client.get_irq_info(MSIX).unwrap().count;
    assert!(vectors >= 2);
    let wanted = vectors.min(2);
    let events: Vec<OwnedFd> = (0..wanted).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    let fds: Vec<i32> = events.iter().map(AsRawFd::as_raw_fd).collect();
    client.set_irqs(MSIX, EVENTFD_TRIGGER, 0, wanted, &fds).unwrap();

    let ram = rig::ram();
    client.dma_map(0, 0, GUEST, std::os::fd::AsFd::as_fd(&ram).as_raw_fd()).unwrap();
    let options = Options { interrupts: true, ..Options::default() };
    let mut driver = Driver::start(Function(client), ram, 0..GUEST / 2, &options).unwrap();
    let text = b"written through another project's client".repeat(1024);
    driver.write(8, &text[..32 << 10]).unwrap();
    driver.flush().unwrap();
    let mut back = vec![0; 32 << 10];
    driver.read(8, &mut back).unwrap();
    assert!(back == text[..32 << 10]);
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&events[1], &mut count).unwrap(), 8, "its interrupts arrive");

    let (Function(mut client), _) = driver.stop().unwrap();
    client.dma_unmap(0, GUEST).unwrap();
    client.shutdown().unwrap();
}
