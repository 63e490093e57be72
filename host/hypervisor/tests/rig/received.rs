//! State that another process sent: its functions' cards are gone, and everything else it says may be wrong.

use super::{guest::MEMORY, recorder::Recorder};
use hypervisor::{memory::Memory, state::rehearse};
use std::{os::fd::OwnedFd, os::unix::net::UnixStream, sync::Arc};

/// Refused, or a machine that can be used. True if it is one.
pub fn play(bytes: &[u8]) -> bool {
    let gone = |count: usize| {
        let socket = |_| UnixStream::pair().map(|(socket, _)| OwnedFd::from(socket)).ok();
        (0..count.min(64)).filter_map(socket).collect()
    };
    let memory = Arc::new(Memory::new(MEMORY).unwrap());
    let recorder = Arc::new(Recorder::default());
    let Ok(machine) = rehearse(bytes, recorder.clone(), memory, gone) else { return false };
    for port in (0x70..0x72).chain(0x3F8..0x400).chain(0xCF8..0xD00).chain(0x600..0x620) {
        let mut byte = [0];
        machine.pio.read(port, &mut byte);
        machine.pio.write(port, &byte);
    }
    machine.console_input(b"typed");
    machine.set_generation([1; 16]);
    machine.press_power_button();
    machine.find_lost();
    let (_, sockets) = machine.freeze();
    assert!(sockets.is_empty(), "a card that is gone went along");
    true
}
