//! Volumes' backing files and functions' sockets: the only two places in the file system where requests
//! lead to, by identifier, never by path.

use crate::Refusal;
use ids::VolumeId;
use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, chmodat, flock, fstat, openat2,
        unlinkat,
    },
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use std::{
    fmt::Display,
    fs::File,
    io::{self, Seek, SeekFrom},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The folder with the volumes' backing files, and the one with the functions' sockets.
#[derive(Debug)]
pub struct Storage {
    volumes: OwnedFd,
    functions: OwnedFd,
    functions_path: PathBuf,
}

impl Storage {
    /// Opens both folders.
    pub fn open(volumes: &Path, functions: &Path) -> io::Result<Self> {
        let folder = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let functions_path = functions.canonicalize()?;
        Ok(Self { volumes: folder(volumes)?, functions: folder(&functions_path)?, functions_path })
    }

    /// Opens the backing file or block device of `volume`, past the page cache where that is possible, and
    /// locks it against other hosts on this machine. Refused unless it has `size` bytes.
    pub fn open_volume(&self, volume: &VolumeId, size: u64) -> Result<OwnedFd, Refusal> {
        let name = format!("{volume}.img");
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let open = |direct| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC | direct;
            openat2(&self.volumes, &name, flags, Mode::empty(), resolve)
        };
        let file = match open(OFlags::DIRECT) {
            Err(Errno::INVAL) => open(OFlags::empty()),
            other => other,
        };
        let file = file.map_err(|error| {
            tracing::warn!(%volume, %error, "a volume's storage cannot be opened");
            Refusal::of("volume.no-storage")
        })?;
        let stat = fstat(&file).map_err(|_| Refusal::of("volume.no-storage"))?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            return Err(Refusal::of("volume.no-storage"));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Refusal::of("volume.storage-in-use"))?;
        let mut file = File::from(file);
        match file.seek(SeekFrom::End(0)) {
            Ok(length) if length == size => Ok(file.into()),
            _ => Err(Refusal::of("volume.size")),
        }
    }

    /// Makes the listening socket of the function of a volume, or of an instance, which only the host's own processes
    /// can reach.
    pub fn listen(&self, volume: &impl Display) -> Result<(OwnedFd, PathBuf), Refusal> {
        self.remove_socket(volume);
        let path = self.functions_path.join(socket_name(volume));
        let bound = (|| {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(&path)?)?;
            chmodat(self.functions.as_fd(), socket_name(volume), Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
            listen(&socket, 1)?;
            Ok::<_, Errno>(socket)
        })();
        match bound {
            Ok(socket) => Ok((socket, path)),
            Err(error) => {
                tracing::error!(%volume, %error, "a function's socket cannot be made");
                Err(Refusal::of("host.failed"))
            }
        }
    }

    /// Takes the path of a function's socket away.
    pub fn remove_socket(&self, volume: &impl Display) {
        match unlinkat(&self.functions, socket_name(volume), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => tracing::error!(%volume, %error, "a function's socket cannot be removed"),
        }
    }
}

fn socket_name(volume: &impl Display) -> String {
    format!("{volume}.sock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::symlink, net::UnixStream};

    fn storage() -> (tempfile::TempDir, Storage) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["volumes", "functions"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let storage = Storage::open(&dir.path().join("volumes"), &dir.path().join("functions")).unwrap();
        (dir, storage)
    }

    #[test]
    fn a_volume_is_opened_by_its_id_and_exclusively() {
        let (dir, storage) = storage();
        let volume = VolumeId::from_random(1);
        assert_eq!(storage.open_volume(&volume, 8192).unwrap_err().code, "volume.no-storage");
        File::create(dir.path().join(format!("volumes/{volume}.img"))).unwrap().set_len(8192).unwrap();
        assert_eq!(storage.open_volume(&volume, 4096).unwrap_err().code, "volume.size");
        let open = storage.open_volume(&volume, 8192).unwrap();
        assert_eq!(storage.open_volume(&volume, 8192).unwrap_err().code, "volume.storage-in-use");
        drop(open);
        storage.open_volume(&volume, 8192).unwrap();
    }

    #[test]
    fn what_is_no_plain_storage_is_refused() {
        let (dir, storage) = storage();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, [1; 4096]).unwrap();
        let link = VolumeId::from_random(2);
        symlink(&secret, dir.path().join(format!("volumes/{link}.img"))).unwrap();
        let folder = VolumeId::from_random(3);
        std::fs::create_dir(dir.path().join(format!("volumes/{folder}.img"))).unwrap();
        for volume in [link, folder] {
            assert_eq!(storage.open_volume(&volume, 4096).unwrap_err().code, "volume.no-storage");
        }
    }

    #[test]
    fn a_function_listens_until_its_path_is_taken_away() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, storage) = storage();
        let volume = VolumeId::from_random(4);
        let (_socket, path) = storage.listen(&volume).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // A path that an earlier controller left is no obstacle.
        let (_again, path) = storage.listen(&volume).unwrap();
        UnixStream::connect(&path).unwrap();
        storage.remove_socket(&volume);
        assert!(UnixStream::connect(&path).is_err());
    }
}
