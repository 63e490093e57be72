use super::*;
use proptest::prelude::*;

fn session() -> Session {
    Session::new(vec![
        Export { name: "code".into(), size: 4096 },
        Export { name: "variables".into(), size: 1000 },
    ])
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &option.to_be_bytes()[..], &u32::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
}

fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let wanted: Vec<u8> = [u16::try_from(wanted.len()).unwrap()]
        .iter()
        .chain(wanted)
        .flat_map(|kind| kind.to_be_bytes())
        .collect();
    [&u32::try_from(name.len()).unwrap().to_be_bytes(), name.as_bytes(), &wanted].concat()
}

fn command(flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    [
        &0x2560_9513u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let words = [option, kind, u32::try_from(data.len()).unwrap()].map(u32::to_be_bytes).concat();
    [&0x3e889045565a9u64.to_be_bytes()[..], &words, data].concat()
}

fn opened() -> Session {
    let mut session = session();
    session.feed(&[0, 0, 0, 3]);
    session.feed(&option(7, &go("variables", &[])));
    assert_eq!(session.request(), Ok(None));
    assert_eq!(session.export(), Some(1));
    session.take_output();
    session
}

#[test]
fn go_is_byte_exact() {
    let mut session = session();
    assert_eq!(session.take_output(), b"NBDMAGICIHAVEOPT\x00\x03");
    // What QEMU sends: structured replies first, then GO with two kinds of information.
    session.feed(&[0, 0, 0, 3]);
    session.feed(&option(8, &[]));
    session.feed(&option(7, &go("code", &[3, 1])));
    assert_eq!(session.request(), Ok(None));
    let expected = [
        option_reply(8, 0x8000_0001, &[]),
        option_reply(7, 3, b"\0\0\0\0\0\0\0\0\x10\0\0\x05"),
        option_reply(7, 3, b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0"),
        option_reply(7, 1, &[]),
    ]
    .concat();
    assert_eq!(session.take_output(), expected);
    assert_eq!(session.export(), Some(0));
}

#[test]
fn export_name_pads_unless_told_not_to() {
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let mut session = session();
        session.take_output();
        session.feed(&[0, 0, 0, flags]);
        session.feed(&option(1, b"variables"));
        assert_eq!(session.request(), Ok(None));
        let expected = [&b"\0\0\0\0\0\0\x03\xe8\0\x05"[..], &vec![0; zeroes]].concat();
        assert_eq!(session.take_output(), expected);
    }
}

#[test]
fn options_are_listed_refused_and_aborted() {
    let mut session = session();
    session.take_output();
    session.feed(&[0, 0, 0, 3]);
    for sent in [option(3, &[]), option(3, b"x"), option(5, &[]), option(77, b"what")] {
        session.feed(&sent);
    }
    for data in [go("nothing", &[]), b"\0\0\0\x09code\0\0".to_vec(), [go("code", &[]), vec![0]].concat()] {
        session.feed(&option(6, &data));
    }
    session.feed(&option(6, &go("code", &[])));
    session.feed(&option(2, &[]));
    assert_eq!(session.request(), Ok(Some(Request::Disconnect)));
    let expected = [
        option_reply(3, 2, b"\0\0\0\x04code"),
        option_reply(3, 2, b"\0\0\0\x09variables"),
        option_reply(3, 1, &[]),
        option_reply(3, 0x8000_0003, &[]),
        option_reply(5, 0x8000_0001, &[]),
        option_reply(77, 0x8000_0001, &[]),
        option_reply(6, 0x8000_0006, &[]),
        option_reply(6, 0x8000_0003, &[]),
        option_reply(6, 0x8000_0003, &[]),
        option_reply(6, 3, b"\0\0\0\0\0\0\0\0\x10\0\0\x05"),
        option_reply(6, 1, &[]),
        option_reply(2, 1, &[]),
    ]
    .concat();
    assert_eq!(session.take_output(), expected);
    assert_eq!(session.export(), None);
    session.feed(&option(7, &go("code", &[])));
    assert_eq!(session.request(), Ok(None));
    assert!(session.take_output().is_empty());
}

#[test]
fn violations_close() {
    let cases = [
        (vec![0, 0, 0, 2], Violation::ClientFlags),
        (vec![0, 0, 0, 7], Violation::ClientFlags),
        ([&[0, 0, 0, 3], &[0; 16][..]].concat(), Violation::Magic),
        ([&[0, 0, 0, 3], b"IHAVEOPT\0\0\0\x07\0\0\x20\x01".as_slice()].concat(), Violation::TooLong),
        ([vec![0, 0, 0, 3], option(1, b"nothing")].concat(), Violation::UnknownExport),
    ];
    for (bytes, violation) in cases {
        let mut session = session();
        session.feed(&bytes);
        assert_eq!(session.request(), Err(violation), "{bytes:?}");
        assert_eq!(session.request(), Ok(None));
    }
    for bytes in [vec![0; 28], command(0, 1, 1, 0, 1001)] {
        let mut session = opened();
        session.feed(&bytes);
        assert!(session.request().is_err());
    }
}

#[test]
fn requests_come_typed_and_replies_are_byte_exact() {
    let mut session = opened();
    session.feed(&command(0, 0, 7, 900, 100));
    session.feed(&command(0, 1, 8, 998, 2));
    assert_eq!(session.request(), Ok(Some(Request::Read { cookie: 7, offset: 900, length: 100 })));
    assert_eq!(session.request(), Ok(None));
    session.feed(b"hi");
    assert_eq!(session.request(), Ok(Some(Request::Write { cookie: 8, offset: 998, data: b"hi".to_vec() })));
    session.feed(&command(0, 3, 9, 0, 0));
    session.feed(&command(0, 2, 0, 0, 0));
    assert_eq!(session.request(), Ok(Some(Request::Flush { cookie: 9 })));
    session.reply(7, Ok(b"data"));
    session.reply(8, Err(Errno::Perm));
    assert_eq!(session.request(), Ok(Some(Request::Disconnect)));
    let expected =
        b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x07data\x67\x44\x66\x98\0\0\0\x01\0\0\0\0\0\0\0\x08";
    assert_eq!(session.take_output(), expected);
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_next_is_understood() {
    let refused = [
        (command(0, 0, 1, 901, 100), 22),
        (command(0, 0, 1, u64::MAX, 1), 22),
        (command(0, 0, 1, 0, u32::MAX), 22),
        (command(1, 0, 1, 0, 1), 22),
        ([command(0, 1, 1, 999, 2), vec![1, 2]].concat(), 28),
        ([command(1, 1, 1, 0, 2), vec![1, 2]].concat(), 22),
        (command(0, 4, 1, 0, 1), 22),
        (command(0, 6, 1, 0, 1), 22),
        (command(0, 99, 1, 0, 0), 22),
    ];
    let mut session = opened();
    for (bytes, errno) in refused {
        session.feed(&bytes);
        assert_eq!(session.request(), Ok(None), "{bytes:?}");
        let reply = session.take_output();
        assert_eq!((reply.len(), reply[7]), (16, errno), "{bytes:?}");
    }
    session.feed(&command(0, 3, 9, 0, 0));
    assert_eq!(session.request(), Ok(Some(Request::Flush { cookie: 9 })));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_the_cut_does_not_matter(
        tail in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0u16..9, flags in 0u16..2, offset in 0u64..1100, length in 0u32..1100,
        depth in 0usize..4, cut in 0usize..400,
    ) {
        let whole = [
            vec![0, 0, 0, 3],
            option(7, &go("variables", &[3])),
            command(flags, kind, 1, offset, length),
        ];
        let bytes = [whole[..depth.min(3)].concat(), tail].concat();
        let run = |pieces: [&[u8]; 2]| {
            let (mut session, mut seen) = (session(), Vec::new());
            for piece in pieces {
                session.feed(piece);
                loop {
                    let next = session.request();
                    if next == Ok(None) { break }
                    if let Ok(Some(Request::Read { offset, length, .. })) = next {
                        prop_assert!(offset + u64::from(length) <= 1000);
                    }
                    seen.push(next);
                }
            }
            Ok((seen, session.take_output()))
        };
        let cut = cut.min(bytes.len());
        prop_assert_eq!(run([&bytes, &[]])?, run([&bytes[..cut], &bytes[cut..]])?);
    }
}
