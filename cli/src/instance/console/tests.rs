//! A tenant and a machine, without a host between them.

use super::*;
use seal::console::{ConsoleKey, Direction, Place as At, seal_output};

/// An instance that keeps 16 bytes and echoes what is typed; it takes one message until it is read again.
struct Echo {
    key: ConsoleKey,
    tenant: [u8; 32],
    written: Vec<u8>,
    accepted: u64,
    waiting: usize,
    instance: InstanceId,
    /// What the carrier does to messages.
    spoil: fn(&mut u64, &mut Vec<u8>),
}

impl Carrier for Echo {
    fn read(&mut self, after: u64) -> Result<(u64, Vec<u8>), Failure> {
        self.waiting = 0;
        let end = self.written.len();
        let at = usize::try_from(after).unwrap().clamp(end.saturating_sub(16), end);
        let bytes = &self.written[at..end.min(at + 10)];
        let mut next = (at + bytes.len()) as u64;
        let mut sealed = Vec::new();
        if !bytes.is_empty() {
            sealed = seal_output(&self.key, &self.tenant, &self.instance, at as u64, self.accepted, bytes)?;
        }
        (self.spoil)(&mut next, &mut sealed);
        Ok((next, sealed))
    }

    fn write(&mut self, sealed: &[u8]) -> Result<(), Failure> {
        let at = At { instance: &self.instance, direction: Direction::Input, at: self.accepted };
        let bytes = self.key.open(&self.tenant, at, sealed)?;
        if self.waiting > 0 {
            return Err(Failure::Advice("console.full", String::new()));
        }
        self.waiting = bytes.len();
        self.accepted += bytes.len() as u64;
        self.written.extend(bytes);
        Ok(())
    }
}

fn session(folder: &std::path::Path, written: &[u8]) -> Session<Echo> {
    let place = Place::new(folder).unwrap();
    place.folder("identities").unwrap();
    let (keys, instance) = (Keys::of(&place), InstanceId::from_random(1));
    let tenant = *keys.read_or_make().unwrap().public();
    let key = ConsoleKey::generate().unwrap();
    let written = written.to_vec();
    let echo =
        Echo { key, tenant, written, accepted: 0, waiting: 0, instance: instance.clone(), spoil: |_, _| () };
    let tenant = keys.tenant(&instance, false).unwrap();
    Session { carrier: echo, keys, instance, tenant, next: 0, lost: 0 }
}

#[test]
fn output_comes_once_and_what_was_not_kept_is_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let mut session = session(scratch.path(), b"0123456789abcdefghij");
    assert_eq!(session.rest().unwrap(), b"456789abcdefghij");
    assert_eq!((session.lost, session.next), (4, 20));
    assert_eq!(session.fresh().unwrap(), None);
    // The carrier brings an old message again.
    session.next = 20;
    assert_eq!(session.read(15).unwrap().unwrap().0, 15);
    assert_eq!(session.rest().unwrap(), b"");
    session.carrier.spoil = |next, _| *next += 1;
    session.carrier.written.push(b'!');
    assert_eq!(session.fresh().unwrap_err().code(), "console.sealed");
    session.carrier.spoil = |_, sealed| sealed.clear();
    assert_eq!(session.fresh().unwrap(), None, "withheld");
    session.carrier.spoil = |_, _| ();
    assert_eq!(session.fresh().unwrap().unwrap(), b"!");
}

#[test]
fn what_is_typed_arrives_in_order_though_the_guest_is_slow() {
    let scratch = tempfile::tempdir().unwrap();
    let mut session = session(scratch.path(), b"");
    assert_eq!(session.send(b"x").unwrap_err().code(), "console.silent");
    session.carrier.written.extend(b"$ ");
    assert_eq!(session.rest().unwrap(), b"$ ");
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(3 * CHUNK).collect();
    session.send(&text).unwrap();
    assert_eq!(session.carrier.written[2..], text);
    assert_eq!(session.carrier.accepted, text.len() as u64);
    // Another session goes on where this one was.
    let tenant = session.keys.tenant(&session.instance, false).unwrap();
    let mut other = Session { tenant, ..session };
    other.send(b"more").unwrap();
    assert!(other.carrier.written.ends_with(b"more"));
}

#[test]
fn an_instance_with_another_key_is_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let mut session = session(scratch.path(), b"login: ");
    session.rest().unwrap();
    session.carrier.key = ConsoleKey::generate().unwrap();
    session.carrier.written.extend(b"give me your password");
    assert_eq!(session.fresh().unwrap_err().code(), "console.machine");
    session.tenant = session.keys.tenant(&session.instance, false).unwrap();
    assert_eq!(session.fresh().unwrap_err().code(), "console.machine", "nor in another command");
    session.tenant = session.keys.tenant(&session.instance, true).unwrap();
    assert!(session.fresh().unwrap().is_some());
}
