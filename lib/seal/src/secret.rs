//! A page of locked memory for one secret.

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap},
    param::page_size,
};
use std::{ffi::c_void, ptr::NonNull};
use zeroize::Zeroize;

/// Memory for a secret could not be had or not be locked.
#[derive(Debug, thiserror::Error)]
#[error("no locked memory for a key ({0}): raise the limit on locked memory (ulimit -l)")]
pub struct LockError(#[from] Errno);

/// `N` secret bytes in pages of their own: never written to swap, left out of core dumps, blank in a
/// forked child, wiped when dropped. It has neither `Debug` nor `Clone`, and no serialisation.
pub struct Secret<const N: usize> {
    bytes: NonNull<[u8; N]>,
}

// SAFETY: the pages belong to this value alone, as a Box's would; nothing ties them to a thread.
unsafe impl<const N: usize> Send for Secret<N> {}
// SAFETY: a shared Secret only gives out shared references to plain bytes.
unsafe impl<const N: usize> Sync for Secret<N> {}

impl<const N: usize> Secret<N> {
    /// All zeros, to be filled in place.
    pub fn zeroed() -> Result<Self, LockError> {
        // SAFETY: a new private mapping wherever the kernel likes; it aliases nothing.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                Self::mapped(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let bytes = NonNull::new(page.cast()).ok_or(LockError(Errno::NOMEM))?;
        // From here on Drop returns the mapping, however far the protection got.
        let secret = Self { bytes };
        // SAFETY: exactly the mapping made above.
        unsafe { mlock(page, Self::mapped()) }?;
        for advice in [Advice::LinuxDontDump, Advice::LinuxWipeOnFork] {
            // SAFETY: exactly the mapping made above; neither advice changes its bytes in this process.
            unsafe { madvise(page, Self::mapped(), advice) }?;
        }
        Ok(secret)
    }

    /// Moves a secret in: `bytes` is wiped.
    pub fn take(bytes: &mut [u8; N]) -> Result<Self, LockError> {
        let mut secret = Self::zeroed()?;
        secret.expose_mut().copy_from_slice(bytes);
        bytes.zeroize();
        Ok(secret)
    }

    /// The bytes. Do not copy them into memory that is not locked.
    pub fn expose(&self) -> &[u8; N] {
        // SAFETY: mapped readable for as long as self, at least N bytes, initialised (by zeros at first).
        unsafe { self.bytes.as_ref() }
    }

    /// The bytes, to fill or change.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: mapped writable for as long as self, at least N bytes, initialised (by zeros at first); &mut self makes
        // this the only reference.
        unsafe { self.bytes.as_mut() }
    }

    fn mapped() -> usize {
        N.max(1).next_multiple_of(page_size())
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.expose_mut().zeroize();
        // SAFETY: the mapping made in `zeroed`; no reference to it outlives self. Unmapping also unlocks.
        // It cannot fail for a mapping that exists, and there is nothing to do if it did.
        let _ = unsafe { munmap(self.bytes.as_ptr().cast::<c_void>(), Self::mapped()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags that the kernel shows for the mapping that holds `address`.
    fn vm_flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return format!("{flags} ");
            }
        }
        panic!("no mapping holds {address:#x}")
    }

    #[test]
    fn the_kernel_has_locked_it_and_keeps_it_out_of_dumps_and_children() {
        let secret = Secret::take(&mut [7; 64]).unwrap();
        let flags = vm_flags(secret.expose().as_ptr() as usize);
        for flag in [" lo ", " dd ", " wf "] {
            assert!(flags.contains(flag), "{flag} missing in {flags}");
        }
    }

    #[test]
    fn taking_wipes_the_source_and_large_secrets_fit() {
        let mut source = [9; 5000];
        let secret = Secret::take(&mut source).unwrap();
        assert_eq!(source, [0; 5000]);
        assert_eq!(secret.expose(), &[9; 5000]);
    }
}
