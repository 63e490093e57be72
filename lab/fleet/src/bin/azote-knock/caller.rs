//! A caller that does as little as it can beside calling.

use crate::Outcome;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

const MAX_ANSWER: usize = 16 * 1024;

/// A connection that stays open.
pub(crate) struct Line(StreamOwned<ClientConnection, TcpStream>);

impl Line {
    /// Connects and shakes hands.
    pub(crate) fn open(tls: &Arc<ClientConfig>, door: SocketAddr) -> Outcome<Self> {
        let mut stream = TcpStream::connect(door)?;
        stream.set_nodelay(true)?;
        let mut session = ClientConnection::new(Arc::clone(tls), "localhost".try_into()?)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self(StreamOwned::new(session, stream)))
    }

    /// Sends a request; gives the time until the whole of an answer was there that begins as it should.
    pub(crate) fn call(&mut self, request: &[u8], begins: &str) -> Outcome<Duration> {
        let start = Instant::now();
        self.0.write_all(request)?;
        self.0.flush()?;
        let (mut answer, mut filled) = (vec![0; MAX_ANSWER], 0);
        loop {
            let room = answer.get_mut(filled..).filter(|room| !room.is_empty()).ok_or("a long answer")?;
            let read = self.0.read(room)?;
            filled += read;
            let so_far = answer.get(..filled).unwrap_or_default();
            if read == 0 {
                return Err("the door hung up".into());
            }
            if is_whole(so_far, begins)? {
                return Ok(start.elapsed());
            }
        }
    }
}

/// Whether an answer is there to its end.
fn is_whole(answer: &[u8], begins: &str) -> Outcome<bool> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let (head, body) = answer.split_at(end + 4);
    let head = str::from_utf8(head)?;
    if !head.starts_with(begins) {
        return Err(format!("refused: {head}{}", String::from_utf8_lossy(body)).into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or("no length")?;
    Ok(body.len() >= length.parse()?)
}
