//! The portable kernel: AWS-LC's XTS, one call for each data unit.

use crate::{Direction, Unit, XtsError};
use aws_lc_sys::{
    AES_KEY, EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex,
    EVP_aes_256_xts,
};
use rustix::{
    mm::{Advice, madvise, mlock},
    param::page_size,
};
use seal::{LockError, VolumeKey};
use std::ptr::{NonNull, null, null_mut};

/// One keyed context for each direction. AWS-LC changes a context while it works, so this is not `Sync`.
pub(crate) struct Cipher {
    encrypt: Context,
    decrypt: Context,
}

struct Context(NonNull<EVP_CIPHER_CTX>);

// SAFETY: a context is plain memory with one owner; AWS-LC ties it to no thread.
unsafe impl Send for Context {}

impl Cipher {
    pub(crate) fn new(key: &VolumeKey) -> Result<Self, XtsError> {
        Ok(Self { encrypt: Context::new(key, 1)?, decrypt: Context::new(key, 0)? })
    }

    /// # Safety
    /// As for `Xts::encrypt`, with `units` whole units.
    pub(crate) unsafe fn run(
        &self,
        direction: Direction,
        unit: Unit,
        first: u64,
        src: *const u8,
        dst: *mut u8,
        units: usize,
    ) {
        let context = match direction {
            Direction::Encrypt => &self.encrypt,
            Direction::Decrypt => &self.decrypt,
        };
        for index in 0..units {
            let tweak = u128::from(first.wrapping_add(index as u64)).to_le_bytes();
            let at = index * unit.size();
            // SAFETY: `index` is below `units`, so this unit lies within what the caller promised.
            unsafe { context.unit(&tweak, src.wrapping_add(at), dst.wrapping_add(at), unit.size()) };
        }
    }
}

impl Context {
    fn new(key: &VolumeKey, encrypt: i32) -> Result<Self, XtsError> {
        // SAFETY: it takes nothing, and gives null or a context that is ours to free.
        let context = Self(NonNull::new(unsafe { EVP_CIPHER_CTX_new() }).ok_or(XtsError::Refused)?);
        // SAFETY: it takes nothing, and gives the address of a static.
        let method = unsafe { EVP_aes_256_xts() };
        // SAFETY: a fresh context that nobody else has, and a method that lives for ever; no engine, no key and no tweak
        // are read where null is given. This allocates the place of the key schedule.
        let begun =
            unsafe { EVP_CipherInit_ex(context.0.as_ptr(), method, null_mut(), null(), null(), encrypt) };
        if begun != 1 {
            return Err(XtsError::Refused);
        }
        context.lock()?;
        // SAFETY: the context has its method, whose keys are the 64 bytes that a volume key has. It also refuses equal
        // halves.
        let keyed = unsafe {
            EVP_CipherInit_ex(context.0.as_ptr(), null(), null_mut(), key.expose().as_ptr(), null(), encrypt)
        };
        if keyed == 1 { Ok(context) } else { Err(XtsError::Refused) }
    }

    /// Locks the heap pages under the two key schedules, before there is a key in them. They stay locked
    /// when the context is freed (AWS-LC wipes what it frees): other contexts may lie on the same page.
    fn lock(&self) -> Result<(), XtsError> {
        // SAFETY: the context lives as long as self, AWS-LC has initialised it, and nobody changes it meanwhile.
        let start = unsafe { self.0.as_ref() }.cipher_data as usize;
        let from = start - start % page_size();
        let len = (start + 2 * size_of::<AES_KEY>()).next_multiple_of(page_size()) - from;
        // SAFETY: these pages hold a live heap block; locking changes neither their bytes nor their addresses.
        unsafe { mlock(from as *mut _, len) }.map_err(LockError::from)?;
        // SAFETY: the same pages; whether they are dumped changes neither their bytes nor their addresses.
        unsafe { madvise(from as *mut _, len, Advice::LinuxDontDump) }.map_err(LockError::from)?;
        Ok(())
    }

    /// # Safety
    /// `size` bytes are readable at `src` and writable at `dst`; they are the same or do not overlap.
    unsafe fn unit(&self, tweak: &[u8; 16], src: *const u8, dst: *mut u8, size: usize) {
        // SAFETY: the context has method and key; without another key only the tweak is set anew, which has the 16 bytes
        // that the method reads.
        unsafe { EVP_CipherInit_ex(self.0.as_ptr(), null(), null_mut(), null(), tweak.as_ptr(), -1) };
        // SAFETY: it reads and writes `size` bytes, which the caller promises; XTS works in place. It fails only for
        // sizes that a unit never has and for contexts without a key.
        unsafe { EVP_Cipher(self.0.as_ptr(), dst, src, size) };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once. It wipes the key schedule.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) }
    }
}
