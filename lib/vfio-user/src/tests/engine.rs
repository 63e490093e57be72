//! The server's engine and session, fed raw messages.

use super::{
    device::{BAR_SIZE, TestDevice},
    pair,
};
use crate::{
    DEFER, Engine, MAX_MESSAGE, Session, SessionError, Wait,
    message::{
        self, FLAG_ERROR, FLAG_NO_REPLY, FLAG_REPLY, HEADER, Header, MAP_READ, MultiCount, MultiWrite,
        RegionAccess,
    },
    socket,
    version::Capabilities,
};
use guest_memory::memfd;
use proptest::prelude::*;
use rustix::io::{Errno, write};
use std::os::fd::{AsFd, OwnedFd};
use zerocopy::{FromBytes, IntoBytes};

fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + payload.len()).unwrap();
    [Header { id, command, size, flags, error: 0 }.as_bytes(), payload].concat()
}

fn version() -> Vec<u8> {
    message(0, message::VERSION, 0, &[&[0; 4][..], &Capabilities::ours().to_data()].concat())
}

fn info(id: u16) -> Vec<u8> {
    message(id, message::GET_INFO, 0, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn map(id: u16, page: u64) -> Vec<u8> {
    let map = message::Map { argsz: 32, flags: MAP_READ, offset: 0, address: page * 4096, size: 4096 };
    message(id, message::DMA_MAP, 0, map.as_bytes())
}

fn read(id: u16, count: u32) -> Vec<u8> {
    message(id, message::REGION_READ, 0, RegionAccess { offset: 0, region: 0, count }.as_bytes())
}

/// Runs all that is there; collects what is sent.
fn run(engine: &mut Engine, device: &mut TestDevice, out: &mut Vec<u8>) -> Result<Wait, SessionError> {
    loop {
        let wait = engine.run(device)?;
        let (bytes, _) = engine.unsent();
        let len = bytes.len();
        out.extend_from_slice(bytes);
        engine.sent(len);
        if wait != Wait::Output {
            return Ok(wait);
        }
    }
}

/// Feeds bytes in pieces; gives all replies.
fn feed(engine: &mut Engine, device: &mut TestDevice, pieces: &[&[u8]]) -> Result<Vec<u8>, SessionError> {
    let mut out = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let space = engine.space();
            let len = rest.len().min(space.len());
            space[..len].copy_from_slice(&rest[..len]);
            engine.received(len, Vec::new());
            rest = &rest[len..];
            while run(engine, device, &mut out)? == Wait::Device {}
        }
    }
    Ok(out)
}

/// Id, errno and payload length of each reply.
fn replies(mut bytes: &[u8]) -> Vec<(u16, u32, usize)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let (header, _) = Header::read_from_prefix(bytes).unwrap();
        assert_eq!(header.flags & !FLAG_ERROR, FLAG_REPLY);
        assert_eq!(header.flags & FLAG_ERROR != 0, header.error != 0);
        assert!(header.error == 0 || header.size as usize == HEADER);
        replies.push((header.id, header.error, header.size as usize - HEADER));
        bytes = &bytes[header.size as usize..];
    }
    replies
}

fn errno(errno: Errno) -> u32 {
    u32::try_from(errno.raw_os_error()).unwrap()
}

#[test]
fn stays_in_step_over_what_it_does_not_know() {
    let (mut engine, mut device) = (Engine::new(), TestDevice::new(None, None));
    let huge = message(3, message::REGION_WRITE, 0, &vec![7; 3 * MAX_MESSAGE]);
    let stream = [
        info(1),
        version(),
        message(2, 16, 0, &[1; 100]),
        huge,
        message(4, 99, FLAG_NO_REPLY, &[]),
        message(5, message::GET_INFO, FLAG_REPLY, &[0; 16]),
        message(6, message::REGION_WRITE, FLAG_NO_REPLY, &[1; 5]),
        message(7, message::REGION_WRITE, 0, &[1; 5]),
        version(),
        info(8),
    ];
    let out = feed(&mut engine, &mut device, &[&stream.concat()]).unwrap();
    let (proto, unknown, invalid) = (errno(Errno::PROTO), errno(Errno::OPNOTSUPP), errno(Errno::INVAL));
    let told: Vec<_> = replies(&out).into_iter().map(|(id, errno, _)| (id, errno)).collect();
    let too_long = errno(Errno::MSGSIZE);
    assert_eq!(told, [(1, proto), (0, 0), (2, unknown), (3, too_long), (7, invalid), (0, invalid), (8, 0)]);
    assert!(engine.is_idle());
}

#[test]
fn ends_only_where_there_is_no_way_on() {
    let mut device = TestDevice::new(None, None);
    let short = Header { id: 1, command: 4, size: 15, flags: 0, error: 0 };
    let result = feed(&mut Engine::new(), &mut device, &[&version(), short.as_bytes()]);
    assert_eq!(result, Err(SessionError::OutOfStep(15)));
    let other = message(0, message::VERSION, 0, &[1, 0, 0, 0]);
    assert_eq!(feed(&mut Engine::new(), &mut device, &[&other]), Err(SessionError::Version(1)));
}

#[test]
fn version_data_may_be_empty_or_unterminated() {
    let mut device = TestDevice::new(None, None);
    let mut negotiate = |data: &[u8]| {
        let payload = [&[0, 0, 1, 0], data].concat();
        let out =
            feed(&mut Engine::new(), &mut device, &[&message(0, message::VERSION, 0, &payload)]).unwrap();
        let (header, body) = Header::read_from_prefix(&out).unwrap();
        (header.error, String::from_utf8(body.to_vec()).unwrap())
    };
    let empty = "\0\0\0\0{\"capabilities\":{}}\0".to_owned();
    assert_eq!(negotiate(b""), (0, empty.clone()));
    assert_eq!(negotiate(b"\0"), (0, empty.clone()));
    assert_eq!(negotiate(b"{}"), (0, empty));
    // What QEMU sends; its reply buffer is as long as its request.
    let qemu = concat!(
        r#"{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "pgsizes": 4096, "#,
        r#""max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "write_multiple": true}}"#,
        "\0"
    );
    let (error, answer) = negotiate(qemu.as_bytes());
    assert_eq!(error, 0);
    assert!(answer.len() <= 4 + qemu.len());
    let named =
        r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":65536,"max_dma_maps":1024,"pgsizes":4096,"#;
    assert_eq!(answer, format!("\0\0\0\0{named}\"write_multiple\":true}}}}\0"));
    let invalid = errno(Errno::INVAL);
    for broken in
        [&b"{"[..], b"[]]", b"{\"capabilities\":3}", b"{\"capabilities\":{\"max_msg_fds\":-1}}", b"\xff"]
    {
        assert_eq!(negotiate(broken).0, invalid);
    }
    assert_eq!(negotiate(&[b' '; 5000]).0, errno(Errno::MSGSIZE));
}

#[test]
fn a_region_is_described_in_the_room_there_is() {
    let (mut engine, mut device) = (Engine::new(), TestDevice::new(Some(memfd(0x4000).unwrap()), None));
    feed(&mut engine, &mut device, &[&version()]).unwrap();
    let mut describe = |argsz| {
        let ask = message::RegionInfo { argsz, ..Default::default() };
        let ask = message(1, message::GET_REGION_INFO, 0, ask.as_bytes());
        let out = feed(&mut engine, &mut device, &[&ask]).unwrap();
        let (info, _) = message::RegionInfo::read_from_prefix(&out[HEADER..]).unwrap();
        (out.len() - HEADER, info.argsz, info.flags & message::REGION_CAPS != 0, info.cap_offset)
    };
    assert_eq!(describe(32), (32, 64, false, 0));
    assert_eq!(describe(63), (32, 64, false, 0));
    assert_eq!(describe(64), (64, 64, true, 32));
    let out = feed(&mut engine, &mut device, &[&message(1, message::GET_REGION_INFO, 0, &[31; 31])]).unwrap();
    assert_eq!(replies(&out), [(1, errno(Errno::INVAL), 0)]);
}

#[test]
fn a_deferred_write_goes_on_where_it_stopped() {
    let (mut engine, mut device) = (Engine::new(), TestDevice::new(None, None));
    device.deferrals = 4;
    let one =
        |offset, value| MultiWrite { offset, region: 0, count: 2, data: [value, value, 0, 0, 0, 0, 0, 0] };
    let writes = [one(0, 1), one(2, 2), one(4, 3)];
    let payload = [MultiCount { count: 3 }.as_bytes(), writes.as_bytes()].concat();
    let stream = [version(), message(1, message::REGION_WRITE_MULTI, 0, &payload), read(2, 8)].concat();
    let out = feed(&mut engine, &mut device, &[&stream]).unwrap();
    assert_eq!(out[out.len() - 8..], [1, 1, 2, 2, 3, 3, 0, 0]);
    assert_eq!(replies(&out)[1..], [(1, 0, 8), (2, 0, 16 + 8)]);
    assert_eq!(device.deferrals, 0);
    let longer = [MultiCount { count: 4 }.as_bytes(), writes.as_bytes()].concat();
    let wide = MultiWrite { offset: 0, region: 0, count: 9, data: [0; 8] };
    let wide = [MultiCount { count: 1 }.as_bytes(), wide.as_bytes()].concat();
    let stream = [longer, wide].map(|payload| message(3, message::REGION_WRITE_MULTI, 0, &payload)).concat();
    let out = feed(&mut engine, &mut device, &[&stream]).unwrap();
    assert_eq!(replies(&out), [(3, errno(Errno::INVAL), 0); 2]);
    assert_eq!(DEFER, Errno::AGAIN);
}

#[test]
fn descriptors_belong_to_the_last_message_begun() {
    let (ours, theirs) = pair();
    let (mut session, mut device) = (Session::new(theirs), TestDevice::new(None, None));
    let fd = || memfd(4096).unwrap();
    let send = |bytes: &[u8], fds: &[&OwnedFd]| {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        assert_eq!(socket::send(ours.as_fd(), bytes, &fds), Ok(bytes.len()));
    };
    let mut all_three = |device: &mut TestDevice| {
        (session.step(device), [0, 1, 2].map(|page| device.memory.read(page * 4096, &mut [0]).is_ok()))
    };
    send(&version(), &[]);
    // A map without file and one with, cut in its header; between the pieces nothing is read.
    send(&map(1, 0), &[]);
    send(&map(2, 1)[..7], &[&fd()]);
    assert_eq!(all_three(&mut device), (Ok(Wait::Input), [false, false, false]));
    send(&map(2, 1)[7..], &[]);
    send(&map(3, 2), &[&fd()]);
    assert_eq!(all_three(&mut device), (Ok(Wait::Input), [false, true, true]));
    device.memory.clear();
    // Pipelined, each with its own; one with two is refused.
    send(&map(4, 0), &[&fd()]);
    send(&map(5, 1), &[&fd(), &fd()]);
    send(&[info(6), map(7, 2)].concat(), &[&fd()]);
    assert_eq!(all_three(&mut device), (Ok(Wait::Input), [true, false, true]));
    let mut bytes = vec![0; 4096];
    let got = socket::receive(ours.as_fd(), &mut bytes).unwrap();
    let told: Vec<_> = replies(&bytes[..got.len]).into_iter().map(|(id, errno, _)| (id, errno)).collect();
    let invalid = errno(Errno::INVAL);
    assert_eq!(told, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, invalid), (6, 0), (7, 0)]);
    // The descriptors of a message that is too long are closed with it.
    let long = message(8, message::DMA_MAP, 0, &vec![0; MAX_MESSAGE]);
    send(&long, &[&fd()]);
    send(&map(9, 3), &[]);
    while session.step(&mut device) == Ok(Wait::Nothing) {}
    assert!(device.memory.read(3 * 4096, &mut [0]).is_err());
    drop(ours);
    assert_eq!(session.step(&mut device), Err(SessionError::Closed));
}

#[test]
fn a_client_that_does_not_read_is_not_served_on() {
    let (ours, theirs) = pair();
    let (mut session, mut device) = (Session::new(theirs), TestDevice::new(None, None));
    write(&ours, &version()).unwrap();
    let count = u32::try_from(BAR_SIZE).unwrap();
    let mut asked = 0u16;
    // Ask until the server stops reading because its replies are stuck.
    while asked < 200 || session.step(&mut device).unwrap() != Wait::Output {
        if socket::send(ours.as_fd(), &read(asked, count), &[]).is_ok() {
            asked += 1;
        }
        assert_ne!(session.step(&mut device), Ok(Wait::Device));
    }
    let (mut got, mut bytes) = (Vec::new(), vec![0; 1 << 20]);
    let expected =
        HEADER + 4 + Capabilities::ours().to_data().len() + usize::from(asked) * (HEADER + 16 + BAR_SIZE);
    while got.len() < expected {
        if let Ok(part) = socket::receive(ours.as_fd(), &mut bytes) {
            got.extend_from_slice(&bytes[..part.len]);
        }
        session.step(&mut device).unwrap();
    }
    let ids: Vec<_> = replies(&got).into_iter().skip(1).map(|(id, errno, _)| (id, errno)).collect();
    assert!(ids.into_iter().eq((0..asked).map(|id| (id, 0))));
    write(&ours, &info(1)[..20]).unwrap();
    assert_eq!(session.step(&mut device), Ok(Wait::Input));
    drop(ours);
    assert_eq!(session.step(&mut device), Err(SessionError::Truncated));
}

#[derive(Debug, Clone)]
enum Sent {
    Info,
    Unknown { command: u16, payload: Vec<u8>, quiet: bool },
    TooLong(usize),
    Reply(Vec<u8>),
    Read(u32),
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = || proptest::collection::vec(any::<u8>(), 0..80);
    prop_oneof![
        Just(Sent::Info),
        (16..=u16::MAX, payload(), any::<bool>()).prop_map(|(command, payload, quiet)| Sent::Unknown {
            command,
            payload,
            quiet
        }),
        (MAX_MESSAGE..3 * MAX_MESSAGE).prop_map(Sent::TooLong),
        payload().prop_map(Sent::Reply),
        (0..20_000u32).prop_map(Sent::Read),
    ]
}

proptest! {
    /// Whatever comes between, in whatever pieces: each request gets its reply, in order, and nothing else does.
    #[test]
    fn never_falls_out_of_step(messages in proptest::collection::vec(sent(), 1..20), cut in 1..40_000usize) {
        let (mut engine, mut device) = (Engine::new(), TestDevice::new(None, None));
        let (mut stream, mut expected) = (version(), vec![(0, 0)]);
        for (id, sent) in (1..).zip(&messages) {
            let (bytes, reply) = match sent {
                Sent::Info => (info(id), Some(0)),
                Sent::Unknown { command, payload, quiet } => {
                    let flags = if *quiet { FLAG_NO_REPLY } else { 0 };
                    (message(id, *command, flags, payload), (!quiet).then_some(errno(Errno::OPNOTSUPP)))
                }
                Sent::TooLong(len) => (message(id, 10, 0, &vec![1; *len]), Some(errno(Errno::MSGSIZE))),
                Sent::Reply(payload) => (message(id, 4, FLAG_REPLY, payload), None),
                Sent::Read(count) if *count as usize > BAR_SIZE => (read(id, *count), Some(errno(Errno::INVAL))),
                Sent::Read(count) => (read(id, *count), Some(0)),
            };
            stream.extend(bytes);
            expected.extend(reply.map(|errno| (id, errno)));
        }
        let pieces: Vec<_> = stream.chunks(cut).collect();
        let out = feed(&mut engine, &mut device, &pieces).unwrap();
        let told: Vec<_> = replies(&out).into_iter().map(|(id, errno, _)| (id, errno)).collect();
        prop_assert_eq!(told, expected);
        prop_assert!(engine.is_idle());
    }

    /// Arbitrary payloads of every command: no panic, and exactly one reply, in step.
    #[test]
    fn any_payload_gets_one_reply(
        payloads in proptest::collection::vec((0..20u16, proptest::collection::vec(any::<u8>(), 0..64)), 1..30),
    ) {
        let (mut engine, mut device) = (Engine::new(), TestDevice::new(None, None));
        feed(&mut engine, &mut device, &[&version()]).unwrap();
        for (id, (command, payload)) in (1..).zip(&payloads) {
            let out = feed(&mut engine, &mut device, &[&message(id, *command, 0, payload)]).unwrap();
            let told: Vec<_> = replies(&out).into_iter().map(|(id, ..)| id).collect();
            prop_assert_eq!(told, [id]);
        }
    }

    /// Arbitrary bytes: no panic.
    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1..50usize) {
        let (mut engine, mut device) = (Engine::new(), TestDevice::new(None, None));
        let pieces: Vec<_> = bytes.chunks(cut).collect();
        match feed(&mut engine, &mut device, &pieces) {
            Ok(out) => drop(replies(&out)),
            Err(error) => prop_assert!(matches!(error, SessionError::OutOfStep(_) | SessionError::Version(_))),
        }
    }
}
