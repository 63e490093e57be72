//! The small device of vfio-user's own tests behind a real server, on a thread.

#[path = "../../../../lib/vfio-user/src/tests/device.rs"]
mod small;

use super::guest::pair;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
pub(crate) use small::TestDevice;
use std::{
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};
use vfio_user::{Device, Session, Wait};

/// Serves until the client goes; gives the device back.
pub fn serve<D: Device + Send + 'static>(mut device: D) -> (OwnedFd, JoinHandle<D>) {
    let (ours, theirs) = pair();
    let server = thread::spawn(move || {
        let mut session = Session::new(theirs);
        loop {
            let events = match session.step(&mut device) {
                Ok(Wait::Input) => PollFlags::IN,
                Ok(Wait::Output) => PollFlags::OUT,
                Ok(Wait::Device | Wait::Nothing) => continue,
                Err(_) => return device,
            };
            poll(&mut [PollFd::new(&session, events)], None).unwrap();
        }
    });
    (ours, server)
}

/// The device with a page that can be mapped and two doorbells.
pub(crate) fn with_doorbells() -> TestDevice {
    let page = guest_memory::memfd(0x4000).unwrap();
    TestDevice::new(Some(page), Some(eventfd(0, EventfdFlags::NONBLOCK).unwrap()))
}
