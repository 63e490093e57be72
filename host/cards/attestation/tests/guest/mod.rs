//! A guest with a small driver for its attestation function.
#![allow(dead_code, reason = "each test takes what it needs")]

use guest_memory::{DmaMap, GuestMemory, Sealing, memfd};
use nsm::{Request, Response};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use vfio_user::{
    Client,
    pci::{BAR0, CONFIG, MSIX},
};

const MEMORY: u64 = 1 << 20;
/// Where things are in the guest's memory.
const DESCRIPTORS: u64 = 0;
pub(crate) const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x3000;
const RESPONSE: u64 = 0x5000;
const SIZE: u16 = 4;

/// A guest with its driver.
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) memory: GuestMemory,
    interrupt: OwnedFd,
    sent: u16,
}

impl Guest {
    pub(crate) fn boot(mut client: Client) -> Self {
        let file = memfd(MEMORY).unwrap();
        let map = DmaMap { iova: 0, len: MEMORY, offset: 0, readable: true, writable: true };
        client.dma_map(map, Some(file.as_fd())).unwrap();
        let mut memory = GuestMemory::new(Sealing::Required);
        memory.map(map, Some(file)).unwrap();
        client.write(CONFIG, 4, &[6, 0]).unwrap();
        let interrupt = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let nobody = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        client.set_eventfds(MSIX, 0, &[nobody.as_fd(), interrupt.as_fd()]).unwrap();
        let mut guest = Self { client, memory, interrupt, sent: 0 };
        guest.start();
        guest
    }

    /// Resets the device and takes it into use, as a driver does that is loaded again.
    pub(crate) fn start(&mut self) {
        self.prepare();
        self.set(0x14, &[0xf]);
    }

    /// The same, without being ready.
    pub(crate) fn prepare(&mut self) {
        self.memory.write(0, &[0; 0x8000]).unwrap();
        self.sent = 0;
        self.set(0x14, &[0]);
        self.set(0x14, &[3]);
        self.set(0x08, &1u32.to_le_bytes());
        self.set(0x0c, &3u32.to_le_bytes());
        self.set(0x14, &[0xb]);
        assert_eq!(self.status(), 0xb);
        self.set(0x16, &[0, 0]);
        self.set(0x18, &SIZE.to_le_bytes());
        self.set(0x1a, &[1, 0]);
        for (at, address) in [(0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)] {
            self.set(at, &address.to_le_bytes());
        }
        self.set(0x1c, &[1, 0]);
    }

    pub(crate) fn set(&mut self, at: u64, value: &[u8]) {
        self.client.write(BAR0, at, value).unwrap();
    }

    pub(crate) fn status(&mut self) -> u8 {
        let mut status = [0];
        self.client.read(BAR0, 0x14, &mut status).unwrap();
        status[0]
    }

    pub(crate) fn descriptor(&self, index: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write(DESCRIPTORS + 16 * index, &bytes).unwrap();
    }

    /// Makes the buffers that begin with these descriptors available.
    pub(crate) fn offer(&mut self, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(self.sent % SIZE);
            self.memory.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes()).unwrap();
            self.sent = self.sent.wrapping_add(1);
        }
        self.memory.store_u16(AVAILABLE + 2, self.sent).unwrap();
        self.client.write(BAR0, 0x1000, &[0, 0]).unwrap();
    }

    /// Waits until all buffers were given back; gives the bytes in the last one. None if that does not happen.
    pub(crate) fn answer(&mut self) -> Option<Vec<u8>> {
        let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        while self.memory.load_u16(USED + 2).unwrap() != self.sent {
            if poll(&mut [PollFd::new(&self.interrupt, PollFlags::IN)], Some(&patience)).unwrap() == 0 {
                return None;
            }
            let _ = rustix::io::read(&self.interrupt, &mut [0; 8]);
        }
        let entry = |nth: u16| {
            let mut bytes = [0; 8];
            let slot = u64::from(self.sent.wrapping_sub(nth) % SIZE);
            self.memory.read(USED + 4 + 8 * slot, &mut bytes).unwrap();
            let [id, length] =
                [&bytes[..4], &bytes[4..]].map(|half| u32::from_le_bytes(half.try_into().unwrap()));
            (id, usize::try_from(length).unwrap())
        };
        assert_eq!((entry(2), entry(1).0), ((0, 0), 1), "the request, then the answer");
        let mut bytes = vec![0; entry(1).1];
        self.memory.read(RESPONSE, &mut bytes).unwrap();
        Some(bytes)
    }

    /// Sends the bytes of a request as the kernel's driver does it.
    pub(crate) fn send(&mut self, request: &[u8]) {
        self.memory.write(REQUEST, request).unwrap();
        self.descriptor(0, REQUEST, u32::try_from(request.len()).unwrap(), 0, 0);
        self.descriptor(1, RESPONSE, 0x3000, 2, 0);
        self.offer(&[0, 1]);
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        let mut bytes = Vec::new();
        ciborium::into_writer(request, &mut bytes).unwrap();
        self.send(&bytes);
        ciborium::from_reader(self.answer().unwrap().as_slice()).unwrap()
    }

    pub(crate) fn register(&mut self, index: u16) -> (bool, Vec<u8>) {
        match self.ask(&Request::DescribePCR { index }) {
            Response::DescribePCR { lock, data } => (lock, data.into_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn document(&mut self, nonce: &[u8]) -> Vec<u8> {
        let nonce = Some(nonce.to_vec().into());
        match self.ask(&Request::Attestation { user_data: None, nonce, public_key: None }) {
            Response::Attestation { document } => document.into_vec(),
            other => panic!("{other:?}"),
        }
    }
}
