//! The byte stream to a TPM: one command out, one response in, never out of step.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read, Result, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::Path,
    time::Duration,
};
use zeroize::Zeroizing;

/// Longest command or response in bytes.
pub const MAX_FRAME: usize = tpm2_protocol::constant::TPM_MAX_COMMAND_SIZE;
/// Tag, size and code (part 1, §18).
pub(crate) const HEADER: usize = 10;
/// Key generation on a slow TPM takes seconds; and a software TPM serves one client after the other.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Opens a Unix socket or a character device.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Stream>> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Box::new(stream))
    } else if kind.is_char_device() {
        Ok(Box::new(File::options().read(true).write(true).open(path)?))
    } else {
        Err(Error::new(ErrorKind::InvalidInput, "neither a Unix socket nor a character device"))
    }
}

/// Sends one command and reads its response. After an error the stream is out of step and of no more use.
pub(crate) fn exchange(stream: &mut dyn Stream, command: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    stream.write_all(command)?;
    stream.flush()?;
    // A device gives a whole response to one read; a socket may give it in pieces.
    let mut response = Zeroizing::new(vec![0; MAX_FRAME]);
    let mut have = 0;
    let mut wanted = HEADER;
    while have < wanted {
        match stream.read(response.get_mut(have..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if have >= HEADER {
            wanted = size(&response);
            if !(HEADER..=MAX_FRAME).contains(&wanted) || have > wanted {
                return Err(Error::new(ErrorKind::InvalidData, "a response with an impossible size"));
            }
        }
    }
    response.truncate(have);
    Ok(response)
}

fn word(frame: &[u8], at: usize) -> u32 {
    frame.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn size(frame: &[u8]) -> usize {
    usize::try_from(word(frame, 2)).unwrap_or(usize::MAX)
}

/// The response code of a whole response.
pub(crate) fn code(frame: &[u8]) -> u32 {
    word(frame, 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Takes any command, gives the bytes it was made with, one per read.
    struct Canned(Cursor<Vec<u8>>);
    impl Read for Canned {
        fn read(&mut self, to: &mut [u8]) -> Result<usize> {
            self.0.read(to.get_mut(..1).unwrap_or_default())
        }
    }
    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn answer(bytes: &[u8]) -> Result<Vec<u8>> {
        exchange(&mut Canned(Cursor::new(bytes.to_vec())), b"command").map(|frame| frame.to_vec())
    }

    #[test]
    fn responses_are_bounded_and_whole() {
        let mut frame = vec![0x80, 1, 0, 0, 0, 12, 0, 0, 9, 0x22, 7, 7];
        assert_eq!(answer(&frame).unwrap(), frame);
        assert_eq!(code(&frame), 0x922);
        assert_eq!(answer(&frame[..11]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        for size in [0u32, 9, 4097, u32::MAX] {
            frame[2..6].copy_from_slice(&size.to_be_bytes());
            assert_eq!(answer(&frame).unwrap_err().kind(), ErrorKind::InvalidData, "{size}");
        }
    }
}
