//! The real volume card, with a real NVMe driver as the guest.
#![allow(clippy::unwrap_used, clippy::panic)]

mod rig;

use guest_memory::Sealing;
use hypervisor::irq::Msi;
use ids::{HostId, VolumeId};
use nvme::driver::{Driver, Options};
use rig::guest::{BAR, EJECT, EVENTS, Guest, LEAVING, MEMORY, Ram, Window, eventually};
use seal::{Context, VolumeKey, seal};
use std::{
    fs::OpenOptions,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};
use volume_card::Card;
use wire::{
    Link,
    card::{Attach, FunctionState, Reply, Request},
    hypervisor::{SlotState, SlotStatistics},
};

/// A card on a thread, with one volume.
struct Volume {
    control: Link<Request, Reply>,
    socket: PathBuf,
    card: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Volume {
    fn new() -> Self {
        let (control, theirs) = Link::<Request, Reply>::pair().unwrap();
        let serve = || Card::new(theirs.into(), Sealing::Required).unwrap().run().unwrap();
        let card = Some(thread::spawn(serve));
        let Ok(Reply::Hello { public_key }) = control.call(&Request::Hello, &[]) else { panic!("no hello") };
        let folder = tempfile::tempdir().unwrap();
        let host: HostId = "h-0123456789abcdef0".parse().unwrap();
        let volume = VolumeId::from_random(1);
        let context = Context { host: host.clone(), volume: volume.clone() };
        let sealed_key = seal(&public_key, &context, &VolumeKey::generate().unwrap()).unwrap();
        let (image, socket) = (folder.path().join("image"), folder.path().join("socket"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(image).unwrap();
        file.set_len(8 << 20).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let attach = Attach { host, volume, device_name: "/dev/sda1".into(), size: 8 << 20, sealed_key };
        let reply = control.call(&Request::Attach(attach), &[file.as_fd(), listener.as_fd()]).unwrap();
        assert!(matches!(reply, Reply::Done));
        Self { control, socket, card, _folder: folder }
    }

    fn connect(&self) -> OwnedFd {
        UnixStream::connect(&self.socket).unwrap().into()
    }

    fn state(&self) -> FunctionState {
        let Ok(Reply::Status { volumes }) = self.control.call(&Request::Status, &[]) else {
            panic!("no status")
        };
        volumes[0].state
    }
}

fn drive(guest: &Guest, bar: u64) -> Driver<Window, Ram> {
    let options = Options { interrupts: true, timeout: Duration::from_secs(3), ..Options::default() };
    let window = Window(guest.machine.clone(), bar);
    Driver::start(window, Ram(guest.memory.clone()), 0x10_0000..MEMORY, &options).unwrap()
}

#[test]
fn a_volume_is_plugged_used_and_let_go() {
    let (guest, volume) = (Guest::new(), Volume::new());
    guest.machine.attach(4, volume.connect()).unwrap();
    assert_eq!((guest.inb(EVENTS), guest.config(4, 0)), (1, 0x8061_1d0f));
    guest.enable(4, BAR);
    guest.vector(BAR, 0, true);
    guest.vector(BAR, 1, false);
    guest.msix(4, 0x80);
    let mut driver = drive(&guest, BAR);
    let text = b"what the guest keeps ".repeat(400);
    let text = &text[..8192];
    driver.write(16, text).unwrap();
    let message = Msi { address: 0xFEE0_0000, data: 0x41 };
    eventually("an interrupt", || guest.recorder.delivered() == [message]);
    // Masked, the vector waits; unmasked, it comes.
    guest.vector(BAR, 1, true);
    let mut back = vec![0; text.len()];
    driver.read(16, &mut back).unwrap();
    assert_eq!(back, text);
    eventually("the pending bit", || guest.read32(BAR + 0x3000) & 2 != 0);
    assert!(guest.recorder.delivered().is_empty());
    guest.vector(BAR, 1, false);
    assert_eq!(guest.recorder.delivered(), [message]);
    assert_eq!((volume.state(), guest.mappings()), (FunctionState::Enabled, 2));

    driver.shutdown().unwrap();
    guest.machine.detach(4, false).unwrap();
    assert_eq!((guest.inb(EVENTS), guest.inl(LEAVING)), (1, 1 << 4));
    guest.outl(EJECT, 1 << 4);
    assert!(guest.machine.slots().is_empty());
    assert_eq!((guest.config(4, 0), guest.read32(BAR)), (u32::MAX, u32::MAX));
    assert!(guest.recorder.is_clean());
    assert_eq!(guest.mappings(), 1, "the card has let go of the guest's memory");
    eventually("the card's farewell", || volume.state() == FunctionState::Waiting);

    // Plugged again, elsewhere, it still holds what was written.
    guest.machine.attach(20, volume.connect()).unwrap();
    guest.enable(20, BAR + 0x10_0000);
    let mut back = vec![0; text.len()];
    drive(&guest, BAR + 0x10_0000).read(16, &mut back).unwrap();
    assert_eq!(back, text);
}

#[test]
fn a_volume_in_use_is_pulled_out() {
    let (guest, volume) = (Guest::new(), Volume::new());
    guest.machine.attach(4, volume.connect()).unwrap();
    guest.enable(4, BAR);
    guest.vector(BAR, 1, false);
    guest.msix(4, 0x80);
    let mut driver = drive(&guest, BAR);
    driver.write(0, &[7; 4096]).unwrap();
    guest.machine.detach(4, true).unwrap();
    assert!(guest.recorder.is_clean());
    assert_eq!((guest.machine.slots(), guest.read32(BAR + 0x1C)), (vec![], u32::MAX));
    eventually("the card's last unmap", || guest.mappings() == 1);
    eventually("the card's farewell", || volume.state() == FunctionState::Waiting);
    // The guest notices late, and its word about the slot meets the next function.
    guest.machine.attach(4, volume.connect()).unwrap();
    guest.outl(EJECT, 1 << 4);
    assert_eq!(guest.machine.slots(), [SlotStatistics { slot: 4, state: SlotState::Present }]);
    guest.enable(4, BAR);
    let mut back = [0; 4096];
    drive(&guest, BAR).read(0, &mut back).unwrap();
    assert_eq!(back, [7; 4096]);
}

#[test]
fn a_card_that_ends_is_noticed() {
    let (guest, mut volume) = (Guest::new(), Volume::new());
    guest.machine.attach(4, volume.connect()).unwrap();
    guest.enable(4, BAR);
    let mut driver = drive(&guest, BAR);
    let card = volume.card.take().unwrap();
    drop(volume);
    card.join().unwrap();
    assert!(driver.read(0, &mut [0; 512]).is_err());
    assert_eq!(guest.machine.find_lost(), [4]);
    assert_eq!((guest.mappings(), guest.recorder.is_clean()), (1, true));
}

#[test]
fn a_machine_goes_on_in_another_process() {
    let (guest, volume) = (Guest::new(), Volume::new());
    guest.machine.attach(4, volume.connect()).unwrap();
    guest.outl(0xCF8, 0x8000_2004);
    guest.enable(4, BAR);
    guest.vector(BAR, 1, true);
    guest.msix(4, 0x80);
    let mut driver = drive(&guest, BAR);
    driver.write(8, &[3; 4096]).unwrap();
    let (_, sockets) = guest.machine.freeze();
    // Stays here first: nothing is lost.
    guest.machine.thaw();
    eventually("the pending bit", || guest.read32(BAR + 0x3000) & 2 != 0);
    drop(sockets);
    let (state, sockets) = guest.machine.freeze();
    let text = serde_json::to_string(&state).unwrap();
    let (window, ram) = driver.into_parts();
    drop((window, state));
    let other = guest.become_another(&serde_json::from_str(&text).unwrap(), &sockets);
    assert_eq!((other.inl(0xCF8), other.inb(EVENTS)), (0x8000_2004, 1));
    assert_eq!(volume.state(), FunctionState::Enabled, "the card has not noticed");
    eventually("the pending bit", || other.read32(BAR + 0x3000) & 2 != 0);
    other.vector(BAR, 1, false);
    eventually("the interrupt", || !other.recorder.delivered().is_empty());
    drop(ram);
    let mut back = [0; 4096];
    drive(&other, BAR).read(8, &mut back).unwrap();
    assert_eq!(back, [3; 4096]);
    other.machine.detach(4, true).unwrap();
    assert!(other.recorder.is_clean());
}
