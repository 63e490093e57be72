//! The serial console: one socket that outlives every QEMU. Clients see the recent output first, then what
//! comes; what any of them types goes to the guest. Output is the guest's and is neither read nor logged here.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Recent output that is kept, in bytes: as much as EC2's `GetConsoleOutput` gives.
const RECENT: usize = 64 * 1024;
/// Clients at once.
const MAX_CLIENTS: usize = 8;
/// How long one client may hold up the guest's output before it is dropped.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<u8>,
    clients: Vec<UnixStream>,
    /// The serial port of the present QEMU.
    port: Option<Arc<UnixStream>>,
}

/// The console.
#[derive(Debug, Default)]
pub(crate) struct Console(Mutex<State>);

impl Console {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes clients at `path` from now on.
    pub(crate) fn listen(self: &Arc<Self>, path: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(path)?;
        let console = Arc::clone(self);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Err(error) = console.admit(client) {
                    tracing::warn!(%error, "a console client was turned away");
                }
            }
        });
        Ok(())
    }

    fn admit(self: &Arc<Self>, mut client: UnixStream) -> io::Result<()> {
        client.set_write_timeout(Some(PATIENCE))?;
        let input = client.try_clone()?;
        let mut state = self.state();
        if state.clients.len() >= MAX_CLIENTS {
            return Err(io::Error::other("eight clients are enough"));
        }
        client.write_all(state.recent.make_contiguous())?;
        state.clients.push(client);
        drop(state);
        let console = Arc::clone(self);
        std::thread::spawn(move || console.type_from(input));
        Ok(())
    }

    /// Passes on what a client types until it goes away. Typing waits while the guest does not read.
    fn type_from(&self, mut client: UnixStream) {
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = client.read(&mut bytes) {
            let port = self.state().port.clone();
            if let (Some(port), Some(typed)) = (port, bytes.get(..length)) {
                // Fails if this QEMU has just been ended; then nobody is there to type to.
                let _ = (&*port).write_all(typed);
            }
        }
        // Its output end learns of it at the next byte.
        let _ = client.shutdown(Shutdown::Both);
    }

    /// Takes the serial port of a new QEMU; the one before is cut off.
    pub(crate) fn attach(self: &Arc<Self>, port: UnixStream) -> io::Result<()> {
        let mut output = port.try_clone()?;
        if let Some(old) = self.state().port.replace(Arc::new(port)) {
            let _ = old.shutdown(Shutdown::Both);
        }
        let console = Arc::clone(self);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                console.show(bytes.get(..length).unwrap_or_default());
            }
        });
        Ok(())
    }

    fn show(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.recent.extend(bytes);
        let excess = state.recent.len().saturating_sub(RECENT);
        state.recent.drain(..excess);
        state.clients.retain_mut(|client| client.write_all(bytes).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(client: &mut UnixStream, length: usize) -> Vec<u8> {
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = vec![0; length];
        client.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_console_outlives_the_machine_and_late_clients_see_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let console = Arc::new(Console::default());
        console.listen(&path).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.attach(port).unwrap();
        let mut early = UnixStream::connect(&path).unwrap();
        guest.write_all(b"one ").unwrap();
        assert_eq!(read(&mut early, 4), b"one ");

        let (mut second, port) = UnixStream::pair().unwrap();
        console.attach(port).unwrap();
        assert_eq!(guest.read(&mut [0]).unwrap(), 0, "the machine before is cut off");
        second.write_all(b"two").unwrap();
        assert_eq!(read(&mut early, 3), b"two");
        let mut late = UnixStream::connect(&path).unwrap();
        assert_eq!(read(&mut late, 7), b"one two");
        late.write_all(b"ls\n").unwrap();
        assert_eq!(read(&mut second, 3), b"ls\n");
    }

    #[test]
    fn a_client_that_does_not_read_does_not_stop_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let console = Arc::new(Console::default());
        console.listen(&path).unwrap();
        let lazy = UnixStream::connect(&path).unwrap();
        let (mut guest, port) = UnixStream::pair().unwrap();
        console.attach(port).unwrap();
        guest.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        for _ in 0..64 {
            guest.write_all(&[b'x'; 65536]).unwrap();
        }
        drop(lazy);
        let mut late = UnixStream::connect(&path).unwrap();
        assert_eq!(read(&mut late, RECENT), vec![b'x'; RECENT]);
    }
}
