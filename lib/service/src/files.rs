use std::{
    fs::File,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
};

/// Writes a file so that a reader or a crash sees the old one or the new one whole; durable on return.
/// Only its owner can read it.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
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
