//! A small client of QEMU's machine protocol (QMP): one command at a time, each with a time limit; events go
//! to whoever started the client. QEMU is treated as the guest's: lines are bounded, and what is no QMP ends
//! the connection.

use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

/// Longest line in bytes.
const MAX_LINE: u64 = 1 << 20;
/// How long QEMU may take over one command.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU is gone or speaks something else.
    #[error("QEMU's machine protocol ended")]
    Ended,
    /// No answer in time.
    #[error("QEMU did not answer within {} s", PATIENCE.as_secs())]
    Late,
    /// QEMU refused.
    #[error("QEMU refused {command}: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
    /// The socket.
    #[error("QEMU's machine protocol: {0}")]
    Io(#[from] io::Error),
}

/// What comes from QEMU.
#[derive(Debug, Clone, PartialEq)]
enum Incoming {
    Greeting,
    Reply { id: u64, result: Result<Value, String> },
    Event { name: String, data: Value },
}

fn parse(line: &[u8]) -> Option<Incoming> {
    let mut message: Value = serde_json::from_slice(line).ok()?;
    if message.get("QMP").is_some() {
        return Some(Incoming::Greeting);
    }
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let name = name.to_owned();
        return Some(Incoming::Event {
            name,
            data: message.get_mut("data").map(Value::take).unwrap_or_default(),
        });
    }
    let result = match (message.get_mut("return").map(Value::take), message.get("error")) {
        (Some(value), _) => Ok(value),
        (None, Some(error)) => Err(error.get("desc")?.as_str()?.to_owned()),
        (None, None) => return None,
    };
    Some(Incoming::Reply { id: message.get("id")?.as_u64()?, result })
}

/// What QEMU says unasked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    /// An event.
    Event { name: String, data: Value },
    /// The connection is over.
    Ended,
}

/// A connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    replies: Receiver<(u64, Result<Value, String>)>,
    last: u64,
}

impl Qmp {
    /// Greets QEMU. `notice` is called from a thread of its own until the connection ends.
    pub(crate) fn new(
        stream: UnixStream,
        notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, QmpError> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(stream.try_clone()?);
        let (send, replies) = mpsc::channel();
        std::thread::spawn(move || listen(reader, &send, notice));
        let mut qmp = Self { stream, replies, last: 0 };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command to its end.
    pub(crate) fn execute(&mut self, command: &'static str, arguments: &Value) -> Result<Value, QmpError> {
        self.last += 1;
        let mut line = json!({ "execute": command, "arguments": arguments, "id": self.last }).to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        let end = Instant::now() + PATIENCE;
        loop {
            match self.replies.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((id, result)) if id == self.last => {
                    return result.map_err(|reason| QmpError::Refused { command, reason });
                }
                // The answer to a command that was given up.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(QmpError::Late),
                Err(RecvTimeoutError::Disconnected) => return Err(QmpError::Ended),
            }
        }
    }
}

fn listen(
    mut reader: impl BufRead,
    replies: &mpsc::Sender<(u64, Result<Value, String>)>,
    mut notice: impl FnMut(Notice),
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if !matches!(got, Ok(length) if length > 0) || line.last() != Some(&b'\n') {
            break;
        }
        match parse(&line) {
            Some(Incoming::Greeting) => {}
            Some(Incoming::Reply { id, result }) => drop(replies.send((id, result))),
            Some(Incoming::Event { name, data }) => notice(Notice::Event { name, data }),
            None => break,
        }
    }
    notice(Notice::Ended);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The other end: answers each line by `answer`, and ends the connection when that gives nothing.
    fn qemu(mut answer: impl FnMut(Value) -> Option<String> + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut out = theirs.try_clone().unwrap();
            out.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            for line in BufReader::new(theirs).lines() {
                let Some(text) = answer(serde_json::from_str(&line.unwrap()).unwrap()) else { break };
                if out.write_all(text.as_bytes()).is_err() {
                    break;
                }
            }
        });
        ours
    }

    #[test]
    fn answers_are_matched_refusals_told_and_events_passed_on() {
        let (send, events) = mpsc::channel();
        let stream = qemu(|asked| {
            let id = asked["id"].as_u64().unwrap();
            Some(match asked["execute"].as_str().unwrap() {
                "cont" => format!(
                    "{{\"event\": \"RESUME\", \"timestamp\": {{}}}}\n{{\"return\": 1, \"id\": {}}}\n{{\"return\": 2, \"id\": {id}}}\n",
                    id - 1
                ),
                "quit" => format!(
                    "{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}, \"id\": {id}}}\n"
                ),
                _ => format!("{{\"return\": {{}}, \"id\": {id}}}\n"),
            })
        });
        let mut qmp = Qmp::new(stream, move |notice| send.send(notice).unwrap()).unwrap();
        assert_eq!(qmp.execute("cont", &json!({})).unwrap(), json!(2));
        let told = qmp.execute("quit", &json!({})).unwrap_err().to_string();
        assert_eq!(told, "QEMU refused quit: no");
        let event = events.recv().unwrap();
        assert_eq!(event, Notice::Event { name: "RESUME".into(), data: Value::Null });
    }

    #[test]
    fn what_is_no_qmp_ends_the_connection() {
        for bad in ["what?\n".to_owned(), "{}\n".into(), "x".repeat(2 << 20)] {
            let (send, notices) = mpsc::channel();
            let stream = qemu(move |asked| match asked["execute"].as_str().unwrap() {
                "qmp_capabilities" => Some(format!("{{\"return\": {{}}, \"id\": {}}}\n", asked["id"])),
                _ => Some(bad.clone()),
            });
            let mut qmp = Qmp::new(stream, move |notice| send.send(notice).unwrap()).unwrap();
            assert!(matches!(qmp.execute("cont", &json!({})), Err(QmpError::Ended)));
            assert_eq!(notices.recv().unwrap(), Notice::Ended);
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(line: Vec<u8>, text in "\\{\"(event|return|error|id|QMP)\": ?[0-9\"{}a-z:]{0,9}\\}") {
            let _ = (parse(&line), parse(text.as_bytes()));
        }
    }
}
