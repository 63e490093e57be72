//! The lab's root image: a small real Linux on a raw disk (GPT; an EFI system partition with a boot manager
//! and Debian's unmodified cloud kernel; an ext4 root with busybox). It is a tenant's own demo image, so its
//! console is a root shell without a password. The kernel has NVMe and ext4 built in, so there is no initrd.
//!
//! Built without root and without mounting anything; the same parts give the same bytes. It runs on a
//! developer's machine only and stands on no trust boundary: it reads nothing but the parts and itself.
#![forbid(unsafe_code)]

mod disk;

use parts::{Parts, Progress};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What the guest prints on its console once it is up.
pub const READY: &str = "azote-guest: ready";
/// What the guest's shell prints when it waits for a command.
pub const PROMPT: &str = "azote-guest# ";

/// Why the image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool failed.
    #[error("building the root image: {step} failed: {output}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// What the tool said.
        output: String,
    },
    /// A file.
    #[error("building the root image: {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    |source| Error::File { path: path.to_owned(), source }
}

/// The root image at `out_dir`/root.img; built if it is not there or was built from other inputs. Several
/// processes may call it at once. Nobody may write to the image: copy it.
pub fn build(
    parts: &Parts,
    out_dir: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, Error> {
    let (image, stamp) = (out_dir.join("root.img"), out_dir.join("root.img.stamp"));
    let inputs = disk::inputs(parts);
    let fresh = || image.is_file() && fs::read_to_string(&stamp).is_ok_and(|text| text == inputs);
    // Without the lock: whoever may only read here can use what another user has built. The stamp goes before
    // the image changes and comes after it.
    if fresh() {
        return Ok(image);
    }
    fs::create_dir_all(out_dir).map_err(file_error(out_dir))?;
    let lock_path = out_dir.join("image.lock");
    let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| file_error(&lock_path)(e.into()))?;
    if fresh() {
        return Ok(image);
    }
    let work = out_dir.join("image.new");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(file_error(&work))?;
    disk::make(parts, &work, progress)?;
    let _ = fs::remove_file(&stamp);
    fs::rename(work.join(disk::IMAGE), &image).map_err(file_error(&image))?;
    fs::write(&stamp, inputs).map_err(file_error(&stamp))?;
    fs::remove_dir_all(&work).map_err(file_error(&work))?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_bytes_and_nothing_is_built_twice() {
        let parts = Parts::locate_or_fetch(&parts::default_dir(), &mut |_| {}).unwrap();
        let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let first = build(&parts, a.path(), &mut |_| {}).unwrap();
        let built = fs::metadata(&first).unwrap().modified().unwrap();
        // FAT's times have steps of two seconds: let them differ if they are taken from the clock.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let second = build(&parts, b.path(), &mut |_| {}).unwrap();
        assert!(fs::read(&first).unwrap() == fs::read(second).unwrap());

        assert_eq!(build(&parts, a.path(), &mut |_| panic!("built again")).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), built);
        fs::remove_file(a.path().join("image.lock")).unwrap();
        build(&parts, a.path(), &mut |_| {}).unwrap();
        assert!(!a.path().join("image.lock").exists(), "who only reads needs to write nothing");
        fs::write(a.path().join("root.img.stamp"), "other inputs").unwrap();
        build(&parts, a.path(), &mut |_| {}).unwrap();
        assert!(fs::metadata(&first).unwrap().modified().unwrap() > built);
    }
}
