//! The kernel's tables of sockets.

use super::{MAX_ENTRIES, ParseError, text};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a socket that takes messages from others is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ListenerKind {
    Tcp,
    Udp,
    Raw,
    Packet,
    Unix,
}

/// A socket that takes connections or messages from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// Of which kind.
    pub kind: ListenerKind,
    /// `address:port`, a path, or `@name` for an abstract one.
    pub address: String,
    /// Its owner's user, where the table tells.
    pub user: Option<u32>,
    /// Its number.
    pub inode: u64,
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// Takes messages from others.
    Listener(Listener),
    /// Is connected to `peer`; `port` is its own.
    Connected {
        /// Its number.
        inode: u64,
        /// Its own port.
        port: u16,
        /// The other end.
        peer: SocketAddr,
    },
}

/// Lines after the first, cut into fields.
fn rows<'a>(
    bytes: &'a [u8],
    what: &'static str,
    row: impl Fn(&[&'a str]) -> Option<Option<Socket>>,
) -> Result<Vec<Socket>, ParseError> {
    let mut found = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = text(line, what)?.split_ascii_whitespace().collect();
        found.extend(row(&fields).ok_or(ParseError::Form(what))?);
        if found.len() > MAX_ENTRIES {
            return Err(ParseError::TooLong(what));
        }
    }
    Ok(found)
}

/// Reads `/proc/net/{tcp,udp,raw}` and their version 6.
pub fn inet(bytes: &[u8], kind: ListenerKind) -> Result<Vec<Socket>, ParseError> {
    const ESTABLISHED: &str = "01";
    const LISTEN: &str = "0A";
    const OVER: [&str; 3] = ["06", "07", "0C"]; // TIME_WAIT, CLOSE, NEW_SYN_RECV: nobody's, or not there yet
    rows(bytes, "a table of network sockets", |fields| {
        let &[_, local, peer, state, _, _, _, user, _, inode, ..] = fields else { return None };
        let (local, peer) = (address(local)?, address(peer)?);
        let (user, inode) = (Some(user.parse().ok()?), inode.parse().ok()?);
        let connected = Socket::Connected { inode, port: local.port(), peer };
        let listener = Socket::Listener(Listener { kind, address: local.to_string(), user, inode });
        Some(match kind {
            ListenerKind::Tcp if state == LISTEN => Some(listener),
            ListenerKind::Tcp => (!OVER.contains(&state)).then_some(connected),
            _ => Some(if state == ESTABLISHED { connected } else { listener }),
        })
    })
}

/// `0100007F:1F90`: words as the processor has them, the port as the network has it.
fn address(hex: &str) -> Option<SocketAddr> {
    let (address, port) = hex.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Reads `/proc/net/unix`: listening sockets, and datagram sockets with a name.
pub fn unix(bytes: &[u8]) -> Result<Vec<Socket>, ParseError> {
    const WHAT: &str = "a table of Unix sockets";
    const ACCEPTS: u32 = 0x1_0000;
    const DATAGRAM: &str = "0002";
    let mut found = Vec::new();
    let form = ParseError::Form(WHAT);
    for line in bytes.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
        // A name holds any byte but a line feed's; escaping is not to be had, so a forged row is a row too many.
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_ascii_whitespace();
        let mut field = |number| fields.nth(number).ok_or(form);
        let (flags, kind, inode) = (field(3)?, field(0)?, field(1)?);
        let inode_at = inode.as_ptr() as usize - line.as_ptr() as usize;
        let address = line.get(inode_at + inode.len()..).unwrap_or_default().trim_start().to_owned();
        let accepts = u32::from_str_radix(flags, 16).map_err(|_| form)? & ACCEPTS != 0;
        let inode = inode.parse().map_err(|_| form)?;
        if accepts || (kind == DATAGRAM && !address.is_empty()) {
            found.push(Socket::Listener(Listener { kind: ListenerKind::Unix, address, user: None, inode }));
        }
        if found.len() > MAX_ENTRIES {
            return Err(ParseError::TooLong(WHAT));
        }
    }
    Ok(found)
}

/// Reads `/proc/net/packet`: whoever holds one sees the wire.
pub fn packet(bytes: &[u8]) -> Result<Vec<Socket>, ParseError> {
    rows(bytes, "a table of packet sockets", |fields| {
        let &[_, _, _, protocol, interface, _, _, user, inode, ..] = fields else { return None };
        Some(Some(Socket::Listener(Listener {
            kind: ListenerKind::Packet,
            address: format!("protocol {protocol} on interface {interface}"),
            user: Some(user.parse().ok()?),
            inode: inode.parse().ok()?,
        })))
    })
}
