//! The client against the server, over a socket pair in two threads.

mod device;
mod engine;
mod parts;

use crate::{
    Client, ClientError, DEFER, Session, SessionError, Wait,
    pci::{self, BAR0, CONFIG, ERROR, INTX, MSIX},
};
use device::{BAR_SIZE, COPY, SHARED, TestDevice, VECTORS};
use guest_memory::{DmaMap, GuestMemory, Sealing, memfd};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, read},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    thread::{self, JoinHandle},
};

pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// Serves until the client goes, as a card's event loop would; gives the device back and how it ended.
fn serve(mut device: TestDevice, socket: OwnedFd) -> JoinHandle<(TestDevice, SessionError)> {
    thread::spawn(move || {
        let mut session = Session::new(socket);
        loop {
            let events = match session.step(&mut device) {
                Ok(Wait::Input) => PollFlags::IN,
                Ok(Wait::Output) => PollFlags::OUT,
                Ok(Wait::Device | Wait::Nothing) => continue,
                Err(error) => return (device, error),
            };
            poll(&mut [PollFd::new(&session, events)], None).unwrap();
        }
    })
}

fn connect(device: TestDevice) -> (Client, JoinHandle<(TestDevice, SessionError)>) {
    let (ours, theirs) = pair();
    let server = serve(device, theirs);
    (Client::new(ours).unwrap(), server)
}

fn finish(client: Client, server: JoinHandle<(TestDevice, SessionError)>) -> TestDevice {
    drop(client);
    let (device, error) = server.join().unwrap();
    assert_eq!(error, SessionError::Closed);
    device
}

fn counter(eventfd: &OwnedFd) -> Option<u64> {
    let mut value = [0; 8];
    read(eventfd, &mut value).ok().map(|_| u64::from_ne_bytes(value))
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn page(iova: u64) -> DmaMap {
    DmaMap { iova, len: 4096, offset: 0, readable: true, writable: true }
}

#[test]
fn tells_what_the_device_is() {
    let (mut client, server) = connect(TestDevice::new(None, None));
    let info = client.info().unwrap();
    assert_eq!((info.regions, info.irqs, info.resettable), (9, 5, true));
    let bar = client.region(BAR0).unwrap();
    assert_eq!((bar.size, bar.readable, bar.writable), (BAR_SIZE as u64, true, true));
    assert!(bar.mapping.is_none());
    assert_eq!(client.region(8).unwrap().size, 0);
    assert_eq!(client.region(9).unwrap_err(), ClientError::Refused(Errno::INVAL));
    assert_eq!(client.irq(MSIX).unwrap().count, u32::from(VECTORS));
    assert_eq!(client.irq(INTX).unwrap().count, 0);
    assert_eq!(client.irq(5), Err(ClientError::Refused(Errno::INVAL)));
    assert!(client.io_events(BAR0).unwrap().is_empty());
    client.reset().unwrap();
    assert_eq!(finish(client, server).resets, 1);
}

#[test]
fn reads_and_writes_regions_in_order() {
    let (mut client, server) = connect(TestDevice::new(None, None));
    for value in 0..5000u32 {
        client.post(BAR0, 8, &value.to_le_bytes()).unwrap();
        if value % 1000 == 0 {
            let mut bytes = [0; 4];
            client.read(BAR0, 8, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), value);
        }
    }
    // A posted write that fails is not answered, and the next reply is the next request's.
    client.post(BAR0, BAR_SIZE as u64, &[0]).unwrap();
    let refused = Err(ClientError::Refused(Errno::INVAL));
    assert_eq!(client.write(BAR0, BAR_SIZE as u64 - 1, &[0; 2]), refused);
    assert_eq!(client.read(BAR0, u64::MAX, &mut [0; 2]), refused);
    assert_eq!(client.write(1, 0, &[0]), refused);
    let mut id = [0; 4];
    client.read(CONFIG, 0, &mut id).unwrap();
    assert_eq!(id, [0x0f, 0x1d, 0x61, 0x80]);
    assert_eq!(finish(client, server).bar[8..12], 4999u32.to_le_bytes());
}

#[test]
fn another_process_goes_on_where_one_stopped() {
    let (mut client, server) = connect(TestDevice::new(None, None));
    client.post(BAR0, 8, &7u32.to_le_bytes()).unwrap();
    let text = serde_json::to_string(&client.state()).unwrap();
    let socket = client.as_fd().try_clone_to_owned().unwrap();
    drop(client);
    let mut client = Client::resume(socket, serde_json::from_str(&text).unwrap());
    let mut bytes = [0; 4];
    client.read(BAR0, 8, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 7);
    client.info().unwrap();
    finish(client, server);
}

#[test]
fn does_dma_and_raises_interrupts() {
    let (mut client, server) = connect(TestDevice::new(None, None));
    let file = memfd(8192).unwrap();
    let mut guest = GuestMemory::new(Sealing::Required);
    guest.map(DmaMap { len: 8192, ..page(0) }, Some(file.try_clone().unwrap())).unwrap();
    client.dma_map(DmaMap { offset: 4096, ..page(0x8000_0000) }, Some(file.as_fd())).unwrap();
    client.dma_map(page(0x1000), None).unwrap();
    assert_eq!(client.dma_map(page(0x1000), None), Err(ClientError::Refused(Errno::EXIST)));
    guest.write(4096, b"a known ").unwrap();
    // No eventfd yet: the interrupt waits for it.
    client.write(BAR0, COPY, &0x8000_0000u64.to_le_bytes()).unwrap();
    let mut copied = [0; 8];
    guest.read(4096 + 8, &mut copied).unwrap();
    assert_eq!(&copied, b"a known ");
    let mut pending = [0; 8];
    client.read(BAR0, 0x3000, &mut pending).unwrap();
    assert_eq!(pending, [1, 0, 0, 0, 0, 0, 0, 0]);
    // More vectors than fit in one message.
    let eventfds: Vec<OwnedFd> = (0..VECTORS).map(|_| event()).collect();
    let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    client.set_eventfds(MSIX, 0, &borrowed).unwrap();
    assert_eq!(counter(&eventfds[0]), Some(1));
    client.read(BAR0, 0x3000, &mut pending).unwrap();
    assert_eq!(pending, [0; 8]);
    client.post(BAR0, COPY, &0x8000_0000u64.to_le_bytes()).unwrap();
    client.disable_irqs(MSIX).unwrap();
    assert_eq!(counter(&eventfds[0]), Some(1));
    client.write(BAR0, COPY, &0x8000_0000u64.to_le_bytes()).unwrap();
    assert_eq!(counter(&eventfds[0]), None);
    client.set_eventfds(MSIX, 0, &borrowed[..2]).unwrap();
    assert_eq!(counter(&eventfds[0]), Some(1));
    assert_eq!(client.set_eventfds(ERROR, 0, &borrowed[..2]), Err(ClientError::Refused(Errno::INVAL)));
    client.set_eventfds(ERROR, 0, &borrowed[..1]).unwrap();
    // DMA to what has no file, or is gone, fails.
    let fault = Err(ClientError::Refused(Errno::FAULT));
    assert_eq!(client.write(BAR0, COPY, &0x1000u64.to_le_bytes()), fault);
    assert_eq!(client.dma_unmap(0x8000_0000, 8192), Err(ClientError::Refused(Errno::NOENT)));
    client.dma_unmap(0x8000_0000, 4096).unwrap();
    assert_eq!(client.write(BAR0, COPY, &0x8000_0000u64.to_le_bytes()), fault);
    client.dma_unmap_all().unwrap();
    client.dma_map(page(0x1000), None).unwrap();
    finish(client, server);
}

#[test]
fn maps_of_a_region_and_its_eventfds_arrive() {
    let (shared, doorbell) = (memfd(BAR_SIZE as u64).unwrap(), event());
    let device = TestDevice::new(Some(shared.try_clone().unwrap()), Some(doorbell.try_clone().unwrap()));
    let (mut client, server) = connect(device);
    let mapping = client.region(BAR0).unwrap().mapping.unwrap();
    assert_eq!(mapping.areas.len(), 1);
    let area = mapping.areas[0];
    assert_eq!((area.offset, area.len), (SHARED, 4096));
    let mut view = GuestMemory::new(Sealing::Required);
    let map = DmaMap { offset: mapping.offset + area.offset, ..page(0) };
    view.map(map, Some(mapping.file.try_clone().unwrap())).unwrap();
    view.store_u32(0, 0x1234).unwrap();
    let mut server_view = GuestMemory::new(Sealing::Required);
    server_view.map(DmaMap { len: BAR_SIZE as u64, ..page(0) }, Some(shared)).unwrap();
    assert_eq!(server_view.load_u32(SHARED), Ok(0x1234));
    let events = client.io_events(BAR0).unwrap();
    let told: Vec<_> = events.iter().map(|event| (event.offset, event.size, event.value)).collect();
    assert_eq!(told, [(0x1000, 4, None), (0x1004, 4, Some(7))]);
    rustix::io::write(&events[1].eventfd, &3u64.to_ne_bytes()).unwrap();
    assert_eq!(counter(&doorbell), Some(3));
    finish(client, server);
}

#[test]
fn deferred_calls_are_answered_when_the_device_is_ready() {
    let mut device = TestDevice::new(None, None);
    device.deferrals = 3;
    let (mut client, server) = connect(device);
    client.dma_map(page(0), Some(memfd(4096).unwrap().as_fd())).unwrap();
    client.dma_unmap(0, 4096).unwrap();
    // Function level reset through configuration space.
    client.write(CONFIG, 0x49, &[0x80]).unwrap();
    let device = finish(client, server);
    assert_eq!((device.deferrals, device.resets), (0, 1));
    assert_eq!(DEFER, Errno::AGAIN);
}

#[test]
fn a_client_gives_up_on_a_silent_or_broken_device() {
    let (ours, theirs) = pair();
    drop(theirs);
    assert_eq!(Client::new(ours).err(), Some(ClientError::Closed));
    let (ours, theirs) = pair();
    // A reply of 8 bytes, less than its header.
    rustix::io::write(&theirs, &[0, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(matches!(Client::new(ours).err(), Some(ClientError::Protocol(_))));
    let (mut client, server) = connect(TestDevice::new(None, None));
    client.set_timeout(Some(std::time::Duration::from_secs(30)));
    client.info().unwrap();
    finish(client, server);
    assert_eq!(pci::REGIONS, 9);
}

#[test]
fn a_devices_own_capabilities_are_in_the_list_until_there_is_no_room() {
    let identity = pci::Identity { vendor: 1, device: 2, subsystem: 3, revision: 0, class: [0; 3] };
    let msix = pci::Msix { vectors: 1, bar: 0, table: 0, pending: 0x800 };
    let mut space = pci::ConfigSpace::new(&identity, &[], &msix);
    let places: Vec<_> =
        (0..9).map_while(|n| space.add_capability(9, &[n; 14], &[0, 0xff])).map(u64::from).collect();
    assert_eq!(places, [0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0]);
    space.write(0x92, &[0x55, 0x55]);
    let byte = |space: &pci::ConfigSpace, at: u64| {
        let mut byte = [0];
        space.read(at, &mut byte);
        byte[0]
    };
    assert_eq!((byte(&space, 0x92), byte(&space, 0x93)), (0, 0x55));
    space.reset();
    let (mut at, mut seen) = (u64::from(byte(&space, 0x34)), Vec::new());
    while at != 0 {
        seen.push(byte(&space, at));
        at = u64::from(byte(&space, at + 1));
    }
    assert_eq!(seen, [0x10, 0x11, 9, 9, 9, 9, 9, 9, 9]);
    assert_eq!(byte(&space, 0xf2), 6);
}
