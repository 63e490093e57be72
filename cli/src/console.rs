//! The instance's serial console, for people and for the demo, which types into it as a tenant would.

use crate::{interrupt, out::Out};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{OptionalActions, isatty, tcgetattr, tcsetattr},
};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// Most bytes kept while waiting for a text.
const WINDOW: usize = 256 * 1024;
/// Ctrl-].
pub(crate) const LEAVE: u8 = 0x1d;

/// Why the guest did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// Nothing came in time.
    #[error("the guest did not print {wanted:?} within {seconds} s; it printed last:\n{tail}")]
    Silent { wanted: String, seconds: u64, tail: String },
    /// There is none.
    #[error("no console: nothing is up here; `azote up` first")]
    None,
    /// The main board is gone.
    #[error("the main board closed the console: `azote status` tells more")]
    Closed,
    /// Somebody wants it all to end.
    #[error("interrupted: what this command started is stopped again")]
    Interrupted,
    /// The socket failed.
    #[error("console: {0}")]
    Io(#[from] io::Error),
}

impl ConsoleError {
    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "guest.silent",
            Self::None => "host.not-up",
            Self::Closed => "console.closed",
            Self::Interrupted => "interrupted",
            Self::Io(_) => "console.failed",
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, ConsoleError> {
    UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ConsoleError::None,
        _ => error.into(),
    })
}

/// A conversation with the guest's shell.
pub(crate) struct Console {
    stream: UnixStream,
    seen: Vec<u8>,
    /// Where in `seen` the next search starts.
    at: usize,
}

impl Console {
    /// Connects to the main board's console socket.
    pub(crate) fn connect(path: &Path) -> Result<Self, ConsoleError> {
        Ok(Self { stream: connect(path)?, seen: Vec::new(), at: 0 })
    }

    /// Waits for a text and gives what came before it; `tick` is called now and then.
    pub(crate) fn expect(
        &mut self,
        wanted: &str,
        limit: Duration,
        tick: &mut dyn FnMut(&str),
    ) -> Result<String, ConsoleError> {
        let deadline = Instant::now() + limit;
        self.stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        loop {
            if let Some(found) = find(&self.seen[self.at..], wanted.as_bytes()) {
                let before = String::from_utf8_lossy(&self.seen[self.at..self.at + found]).into_owned();
                self.at += found + wanted.len();
                return Ok(before);
            }
            if interrupt::asked() {
                return Err(ConsoleError::Interrupted);
            }
            if Instant::now() > deadline {
                let tail =
                    String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(800)..]).into_owned();
                return Err(ConsoleError::Silent {
                    wanted: wanted.to_owned(),
                    seconds: limit.as_secs(),
                    tail,
                });
            }
            self.read_more()?;
            let tail = String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(200)..]);
            tick(tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default());
        }
    }

    fn read_more(&mut self) -> Result<(), ConsoleError> {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ConsoleError::Closed),
            Ok(count) => self.seen.extend_from_slice(&bytes[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.into()),
        }
        if self.seen.len() > WINDOW {
            let drop = self.at.min(self.seen.len() - WINDOW / 2);
            self.seen.drain(..drop);
            self.at -= drop;
        }
        Ok(())
    }

    /// Runs a command in the guest's shell: its exit status and what it printed.
    pub(crate) fn run(&mut self, command: &str, limit: Duration) -> Result<(i32, String), ConsoleError> {
        // The shell echoes what is typed; quotes inside the marks keep the echo from looking like the answer.
        writeln!(self.stream, "echo '@'@begin; {command}; echo @'@'end=$?=")?;
        self.expect("@@begin", limit, &mut |_| ())?;
        let output = self.expect("@@end=", limit, &mut |_| ())?;
        let status = self.expect("=", limit, &mut |_| ())?;
        Ok((status.trim().parse().unwrap_or(-1), output.replace('\r', "").trim().to_owned()))
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Joins this terminal to the console until Ctrl-] or the end of either side.
pub(crate) fn join(out: Out, path: &Path) -> Result<(), ConsoleError> {
    let mut stream = connect(path)?;
    let (input, mut output) = (io::stdin(), io::stdout());
    if !isatty(&input) {
        return pump(&mut stream, &mut output);
    }
    out.remark("the instance's console; Ctrl-] leaves it");
    let joined = raw(|| pump(&mut stream, &mut output))?;
    out.remark("\nleft the console; the instance goes on");
    joined
}

/// Does something while the terminal hands on every key as it is typed.
pub(crate) fn raw<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let input = io::stdin();
    let before = tcgetattr(&input)?;
    let mut changed = before.clone();
    changed.make_raw();
    tcsetattr(&input, OptionalActions::Now, &changed)?;
    let done = act();
    tcsetattr(&input, OptionalActions::Now, &before)?;
    Ok(done)
}

fn pump(stream: &mut UnixStream, output: &mut dyn Write) -> Result<(), ConsoleError> {
    let input = io::stdin();
    let mut bytes = [0; 4096];
    loop {
        let mut waiting = [PollFd::new(&input, PollFlags::IN), PollFd::new(stream, PollFlags::IN)];
        match poll(&mut waiting, None::<&Timespec>) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled.map_err(io::Error::from)?,
        };
        let (typed, printed) = (!waiting[0].revents().is_empty(), !waiting[1].revents().is_empty());
        if printed {
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Err(ConsoleError::Closed);
            }
            match output.write_all(&bytes[..count]).and_then(|()| output.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        if typed {
            let count = rustix::io::read(&input, &mut bytes).map_err(io::Error::from)?;
            let keys = bytes[..count].split(|key| *key == LEAVE).next().unwrap_or_default();
            stream.write_all(keys)?;
            if keys.len() < count || count == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::net::UnixListener, process::Command};

    /// A real shell on the other side of the socket, echoing like a terminal.
    fn shell(scratch: &Path) -> std::path::PathBuf {
        let path = scratch.join("console");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let [input, output, errors] =
                [(); 3].map(|()| std::os::fd::OwnedFd::from(stream.try_clone().unwrap()));
            Command::new("sh").arg("-v").stdin(input).stdout(output).stderr(errors).status().unwrap();
        });
        path
    }

    #[test]
    fn a_command_gives_its_status_and_output_in_spite_of_the_echo() {
        let scratch = tempfile::tempdir().unwrap();
        let mut console = Console::connect(&shell(scratch.path())).unwrap();
        let limit = Duration::from_secs(10);
        let (status, output) = console.run("printf 'one\\ntwo\\n'; (exit 7)", limit).unwrap();
        assert_eq!(status, 7);
        assert!(output.ends_with("one\ntwo"), "{output:?}");
        assert_eq!(console.run("true", limit).unwrap().0, 0);
    }

    #[test]
    fn silence_is_reported_with_the_last_words() {
        let scratch = tempfile::tempdir().unwrap();
        let mut console = Console::connect(&shell(scratch.path())).unwrap();
        console.run("echo here", Duration::from_secs(10)).unwrap();
        let error = console.expect("never", Duration::from_millis(300), &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("never"), "{error}");
    }
}
