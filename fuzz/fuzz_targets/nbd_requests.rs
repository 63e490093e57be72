//! Any bytes from a hostile NBD client.
#![no_main]

use nbd::{Errno, Export, Request, Session};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut session = Session::new(vec![Export { name: "code".into(), size: 4096 }]);
    for piece in bytes.chunks(64) {
        session.feed(piece);
        while let Ok(Some(request)) = session.request() {
            match request {
                Request::Read { cookie, offset, length } => {
                    assert!(offset + u64::from(length) <= 4096);
                    session.reply(cookie, Ok(&[]));
                }
                Request::Write { cookie, offset, data } => {
                    assert!(offset + data.len() as u64 <= 4096);
                    session.reply(cookie, Err(Errno::Perm));
                }
                Request::Flush { cookie } => session.reply(cookie, Ok(&[])),
                Request::Disconnect => return,
            }
        }
    }
});
