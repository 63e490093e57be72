//! Any bytes and descriptors from a hostile vfio-user client: the parser alone, then the whole engine with a device.
#![no_main]

#[path = "../../lib/vfio-user/src/tests/device.rs"]
#[allow(dead_code)]
mod device;

use device::TestDevice;
use guest_memory::memfd;
use rustix::event::{EventfdFlags, eventfd};
use vfio_user::{Engine, Wait};

/// The first byte says how the rest arrives: in pieces of its low six bits (0: all at once), each with a memfd if
/// bit 6 is set and an eventfd if bit 7 is.
fn feed(how: u8, stream: &[u8]) {
    let mut engine = Engine::new();
    let mut device = TestDevice::new(memfd(0x4000).ok(), eventfd(0, EventfdFlags::NONBLOCK).ok());
    device.deferrals = usize::from(how & 3);
    let piece = match usize::from(how & 0x3f) {
        0 => stream.len().max(1),
        piece => piece,
    };
    for piece in stream.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = engine.space();
            let len = rest.len().min(space.len());
            let (now, later) = rest.split_at(len);
            space[..len].copy_from_slice(now);
            rest = later;
            let memory = (how & 0x40 != 0).then(|| memfd(0x2000).ok()).flatten();
            let event = (how & 0x80 != 0).then(|| eventfd(0, EventfdFlags::empty()).ok()).flatten();
            engine.received(len, memory.into_iter().chain(event).collect());
            loop {
                let Ok(wait) = engine.run(&mut device) else { return };
                let (unsent, fds) = engine.unsent();
                assert!(fds.is_empty() || !unsent.is_empty());
                let unsent = unsent.len();
                engine.sent(unsent);
                if wait == Wait::Input {
                    break;
                }
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    vfio_user::parses(u16::from(*first), rest);
    feed(*first, rest);
});
