use std::{
    fs::File,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
};
use tempfile::{NamedTempFile, PersistError};

/// Writes a file so that a reader or a crash sees the old one or the new one whole; durable on return.
/// Only its owner can read it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, |file| file.persist(path))
}

/// The same, of a file that must not exist yet, whoever else makes it at this moment.
pub(crate) fn write_new_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(path, bytes, |file| file.persist_noclobber(path))
}

fn write(
    path: &Path,
    bytes: &[u8],
    persist: impl FnOnce(NamedTempFile) -> Result<File, PersistError>,
) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    persist(file)?;
    File::open(folder)?.sync_all()
}

/// Listens, then writes `ip:port` into `address_file`: who sees the file can connect.
pub fn bind(listen: SocketAddr, address_file: Option<&Path>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    if let Some(path) = address_file {
        write_atomic(path, listener.local_addr()?.to_string().as_bytes())?;
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_replaces_nothing_and_an_atomic_one_does() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new_atomic(&path, b"first").unwrap();
        assert_eq!(write_new_atomic(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_atomic(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
