//! A hostile guest, out of bytes: registers, configuration space, rings, requests. Whatever it does, the function stays
//! whole, answers stay in their buffers, and a driver that starts anew is served.

use attestation_card::{DEVICE, QUEUE, answer};
use guest_memory::{GuestMemory, Sealing, memfd};
use nsm::{Extension, Module};
use std::{os::fd::OwnedFd, time::Duration};
use vfio_user::{Device, DmaMap};
use virtio::{Function, Kind};

const MEMORY: u64 = 0x8000;
/// The rings are inside of what the input describes.
const RINGS: [(u64, u64); 3] = [(0x20, 0), (0x28, 0x200), (0x30, 0x400)];
const RESPONSE: u64 = 0x4000;

fn start(function: &mut Function) {
    let mut set = |at: u64, value: &[u8]| function.region_write(0, at, value).unwrap();
    set(0x14, &[0]);
    set(0x08, &1u32.to_le_bytes());
    set(0x0c, &1u32.to_le_bytes());
    set(0x14, &[0xb]);
    set(0x16, &[0, 0]);
    for (at, address) in RINGS {
        set(at, &address.to_le_bytes());
    }
    set(0x1c, &[1, 0]);
    set(0x14, &[0xf]);
    function.region_write(7, 4, &[6, 0]).unwrap();
}

fn module() -> Module {
    let instance = "i-0123456789abcdef0".parse().unwrap();
    let registers = [Extension { register: 4, data: vec![1] }];
    Module::new(&instance, &registers, Duration::from_secs(1_795_000_000), 7).unwrap()
}

fn serve(function: &mut Function, module: &mut Module) -> usize {
    let mut answered = 0;
    while function.take_notification() || answered > 0 {
        let mut found = false;
        let served = function.serve(0, |queue, memory| {
            let respond = |request: &[u8], room: usize| {
                assert!(request.len() <= nsm::MAX_REQUEST + 1);
                module.handle(request, room, None, Duration::from_secs(1_795_000_001))
            };
            answer(queue, memory, respond).map(|(answered, interrupt)| {
                found = answered;
                interrupt
            })
        });
        answered += 1;
        if !found || served.is_err() || answered > 64 {
            break;
        }
    }
    answered
}

/// Plays a guest that does what `bytes` say.
pub(crate) fn play(bytes: &[u8]) {
    let file: OwnedFd = memfd(MEMORY).unwrap();
    let map = DmaMap { iova: 0, len: MEMORY, offset: 0, readable: true, writable: true };
    let mut memory = GuestMemory::new(Sealing::Required);
    memory.map(map, Some(file.try_clone().unwrap())).unwrap();
    let kind = Kind { device: DEVICE, class: [0x10, 0x80, 0], queues: &[QUEUE] };
    let mut function = Function::new(&kind, Sealing::Required);
    function.dma_map(map, Some(file)).unwrap();
    let mut module = module();
    let locked = module.handle(&[0x6b], 4096, None, Duration::ZERO);
    assert!(!locked.is_empty());
    start(&mut function);
    let mut rest = bytes;
    while let [what, at, length, after @ ..] = rest {
        let length = usize::from(length & 0x7f).min(after.len());
        let (data, after) = after.split_at(length);
        rest = after;
        let at = u64::from(*at);
        match what % 8 {
            0 => memory.write(at * 4, data).unwrap(),
            1 => memory.write(0x600 + at * 8, data).unwrap(),
            2 if at * 64 + data.len() as u64 <= 0x4000 => function.region_write(0, at * 64, data).unwrap(),
            3 if at + data.len() as u64 <= 0x100 => function.region_write(0, at & 0x3f, data).unwrap(),
            4 if at + data.len() as u64 <= 0x1000 => function.region_write(7, at, data).unwrap(),
            5 => {
                let mut into = vec![0; data.len()];
                function.region_read(u32::from(data.len() % 2 == 0) * 7, at, &mut into).unwrap();
            }
            6 => start(&mut function),
            _ => {
                function.region_write(0, 0x1000, &[0, 0]).unwrap();
                serve(&mut function, &mut module);
            }
        }
    }
    ask_in_order(&mut function, &mut module, &memory);
}

/// After all of it, a driver that starts anew is served.
fn ask_in_order(function: &mut Function, module: &mut Module, memory: &GuestMemory) {
    memory.write(0, &[0; 0x600]).unwrap();
    function.reset().unwrap();
    start(function);
    let descriptor = |index: u64, address: u64, length: u32, flags: u16| {
        let bytes =
            [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &[0, 0]].concat();
        memory.write(16 * index, &bytes).unwrap();
    };
    memory.write(0x3000, b"\x6bDescribeNSM").unwrap();
    descriptor(0, 0x3000, 12, 0);
    descriptor(1, RESPONSE, 0x1000, 2);
    memory.write(0x204, &[0, 0, 1, 0]).unwrap();
    memory.store_u16(0x202, 2).unwrap();
    function.region_write(0, 0x1000, &[0, 0]).unwrap();
    serve(function, module);
    assert_eq!(memory.load_u16(0x402).unwrap(), 2);
    let mut answer = [0; 13];
    memory.read(RESPONSE, &mut answer).unwrap();
    assert_eq!(&answer, b"\xa1\x6bDescribeNSM");
}
