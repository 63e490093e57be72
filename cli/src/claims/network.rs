//! Claim 4: what the doors speak, tried with bytes that no TLS library of ours would send.

use super::{Basis, Evidence, Outcome};
use crate::{failure::Failure, place::Place, up};
use std::{
    io::{Read, Write},
    net::TcpStream,
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
    refused: bool,
    said: String,
}

/// Tries every door in ways that are not TLS 1.3.
pub(super) fn knock(place: &Place) -> Result<Vec<Tried>, Failure> {
    let old = hello(0x0303);
    let older = hello(0x0301);
    let mut tried = Vec::new();
    for service in SERVICES {
        let address = up::address(place, service)?;
        for (what, bytes) in [
            ("TLS 1.2", old.as_slice()),
            ("TLS 1.0", older.as_slice()),
            ("no TLS at all", b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ] {
            let answer = TcpStream::connect_timeout(&address, LIMIT).and_then(|mut stream| {
                stream.set_read_timeout(Some(LIMIT))?;
                stream.write_all(bytes)?;
                let mut answer = [0; 7];
                let mut length = 0;
                while length < answer.len() {
                    match stream.read(&mut answer[length..]) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => length += count,
                    }
                }
                Ok(answer[..length].to_vec())
            });
            let (refused, said) = match answer.as_deref() {
                Ok([ALERT, _, _, _, _, _, alert, ..]) => (true, format!("alert {alert}")),
                Ok([]) => (true, "closed".to_owned()),
                Ok([HANDSHAKE, ..]) => (false, "a handshake".to_owned()),
                Ok(_) => (false, "an answer".to_owned()),
                Err(error) => (false, error.to_string()),
            };
            tried.push(Tried { service, what, refused, said });
        }
    }
    Ok(tried)
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
    let wrong: Vec<String> = tried
        .iter()
        .filter(|it| !it.refused)
        .map(|it| format!("{} takes {}: {}", it.service, it.what, it.said))
        .collect();
    let found = if wrong.is_empty() {
        let said: Vec<String> =
            tried.iter().map(|it| format!("{} {}: {}", it.service, it.what, it.said)).collect();
        format!(
            "{} handshakes, all refused ({}); this command itself spoke TLS 1.3",
            tried.len(),
            said.join(", ")
        )
    } else {
        wrong.join("; ")
    };
    vec![
        Evidence::new(
            "Every door speaks TLS 1.3 and nothing else",
            Outcome::of(wrong.is_empty() && !tried.is_empty()),
            found,
            &[Basis::Cryptography, Basis::Release],
        ),
        Evidence::absent(
            "Traffic of instances, encrypted between hosts",
            "this release gives instances no network",
        ),
    ]
}
