//! Where alarms arrive: receivers of the webhook, which check its signature, note the moment and can be closed.

use crate::Outcome;
use monitor::Alarm;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Longest alarm that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// An alarm, and when it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) alarm: Alarm,
}

/// A receiver.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    closed: Arc<AtomicBool>,
}

impl Inbox {
    /// Listens on a free port of the loopback.
    pub(crate) fn open() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("inbox: {e}"))?;
        let address = listener.local_addr().map_err(|e| format!("inbox: {e}"))?;
        let inbox = Self { address, arrived: Arc::default(), closed: Arc::default() };
        let here = inbox.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let here = here.clone();
                thread::spawn(move || here.serve(stream));
            }
        });
        Ok(inbox)
    }

    /// Its address for the webhook.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Turns everything away from now on, or no longer.
    pub(crate) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::Relaxed);
    }

    /// Everything that arrived so far.
    pub(crate) fn arrived(&self) -> MutexGuard<'_, Vec<Arrived>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request after the other.
    fn serve(&self, stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
        let mut stream = BufReader::new(stream);
        while let Some(body) = read(&mut stream) {
            let at = Instant::now();
            let alarm = serde_json::from_slice(&body).ok().filter(|_| !self.closed.load(Ordering::Relaxed));
            let status = if alarm.is_some() { "204 taken" } else { "503 closed" };
            self.arrived().extend(alarm.map(|alarm| Arrived { at, alarm }));
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The body of the next request.
fn read(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        stream.by_ref().take(8192).read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim_end().to_ascii_lowercase().strip_prefix("content-length:") {
            Some(value) => length = value.trim().parse::<usize>().ok(),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length.filter(|length| *length <= MAX_BODY)?];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}
