//! Claim 4: what the doors speak, tried with bytes that no TLS library of ours would send.

use super::{Basis, Evidence, Outcome};
use crate::{failure::Failure, place::Place, up};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(5);
/// The services of an installation that listen.
const SERVICES: [&str; 4] = ["controller", "tokens", "kms", "audit"];
/// A record with a fatal alert (RFC 8446 §6).
const ALERT: u8 = 21;
/// A record of the handshake.
const HANDSHAKE: u8 = 22;

/// One handshake that must fail.
pub(super) struct Tried {
    pub(super) service: &'static str,
    what: &'static str,
    outcome: Outcome,
    said: String,
}

/// Tries every door in ways that are not TLS 1.3.
pub(super) fn knock(place: &Place) -> Result<Vec<Tried>, Failure> {
    let (old, older) = (hello(0x0303), hello(0x0301));
    let mut tried = Vec::new();
    for service in SERVICES {
        let address = up::address(place, service)?;
        for (what, bytes) in [
            ("TLS 1.2", old.as_slice()),
            ("TLS 1.0", older.as_slice()),
            ("no TLS at all", b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ] {
            let (outcome, said) = judged(&answer(address, bytes));
            tried.push(Tried { service, what, outcome, said });
        }
    }
    Ok(tried)
}

/// The first bytes of what is said to these, up to the end.
fn answer(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    match stream.take(7).read_to_end(&mut answer) {
        // Hung up on, with the rest of our bytes unread.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
        _ => Ok(answer),
    }
}

/// An alert or silence at the end is a refusal; who did not answer in time did not refuse.
fn judged(answer: &io::Result<Vec<u8>>) -> (Outcome, String) {
    match answer.as_deref() {
        Ok([ALERT, _, _, _, _, _, alert]) => (Outcome::Holds, format!("alert {alert}")),
        Ok([]) => (Outcome::Holds, "closed".to_owned()),
        Ok([HANDSHAKE, ..]) => (Outcome::Broken, "a handshake".to_owned()),
        Ok(_) => (Outcome::Broken, "an answer".to_owned()),
        Err(error) => (Outcome::NotShown, format!("no answer: {error}")),
    }
}

/// A client's greeting that offers nothing later than `version`, with suites and curves that any server of it takes.
fn hello(version: u16) -> Vec<u8> {
    let suites: [&[u8]; 4] = [&[0xc0, 0x2b], &[0xc0, 0x2f], &[0xc0, 0x2c], &[0xc0, 0x30]];
    // Groups x25519 and P-256; uncompressed points; Ed25519, ECDSA and RSA-PSS signatures.
    let extensions: [&[u8]; 3] =
        [&[0, 10, 0, 6, 0, 4, 0, 29, 0, 23], &[0, 11, 0, 2, 1, 0], &[0, 13, 0, 8, 0, 6, 8, 7, 4, 3, 8, 4]];
    let (random, no_session, no_compression) = ([0x5a; 32], [0], [1, 0]);
    let parts: [&[u8]; 6] = [
        &version.to_be_bytes(),
        &random,
        &no_session,
        &sized(&suites.concat()),
        &no_compression,
        &sized(&extensions.concat()),
    ];
    let message = [&[1, 0], sized(&parts.concat()).as_slice()].concat();
    [&[HANDSHAKE, 3, 1], sized(&message).as_slice()].concat()
}

/// Behind their length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// Claim 4.
pub(super) fn evidence(tried: &[Tried]) -> Vec<Evidence> {
    let outcome = tried.iter().map(|it| it.outcome).max().unwrap_or(Outcome::NotShown);
    let of = tried.iter().filter(|it| it.outcome == outcome);
    let said: Vec<String> = of.map(|it| format!("{}, {}: {}", it.service, it.what, it.said)).collect();
    let found = match outcome {
        Outcome::Holds => format!(
            "{} handshakes, all refused ({}); this command itself spoke TLS 1.3",
            tried.len(),
            said.join("; ")
        ),
        _ => said.join("; "),
    };
    vec![
        Evidence::new(
            "Every door speaks TLS 1.3 and nothing else",
            outcome,
            found,
            &[Basis::Cryptography, Basis::Release],
        ),
        Evidence::absent(
            "Traffic of instances, encrypted between hosts",
            "this release gives instances no network",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    #[test]
    fn a_door_that_answers_is_broken_and_one_that_is_not_there_shows_nothing() {
        let says = |bytes: &'static [u8]| {
            let door = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = door.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = door.accept().unwrap();
                stream.read_exact(&mut [0; 4]).unwrap();
                stream.write_all(bytes).unwrap();
            });
            let outcome = judged(&answer(address, b"GET ")).0;
            server.join().unwrap();
            (outcome, address)
        };
        assert_eq!(says(&[ALERT, 3, 3, 0, 2, 2, 70]).0, Outcome::Holds);
        assert_eq!(says(b"").0, Outcome::Holds);
        assert_eq!(says(b"HTTP/1.1 200 OK\r\n").0, Outcome::Broken);
        let (outcome, gone) = says(&[HANDSHAKE, 3, 3, 0, 80, 2, 0]);
        assert_eq!(outcome, Outcome::Broken);
        assert_eq!(judged(&answer(gone, b"GET ")).0, Outcome::NotShown);
    }
}
