//! XTS-AES-256 (IEEE 1619, NIST SP 800-38E) as a volume's cipher: data units of 512 bytes, the tweak is the
//! sector number, little-endian. It enciphers what lies in memory; it does no I/O, keeps no state between
//! calls, and gives secrecy without integrity: whoever can write the ciphertext can change what is read.
//! It stands on the boundary between guest memory, which the guest may change at any moment, and the
//! backing store: guest memory is only ever touched through raw pointers, each byte read once.
//!
//! Two kernels give the same bytes: one for VAES and AVX-512 that works on the tweaks of many sectors at
//! once, and AWS-LC's, which is fast for large data units and runs everywhere. The best one is chosen when
//! a key is taken.

mod awslc;
pub mod measure;
#[cfg(target_arch = "x86_64")]
mod schedule;
#[cfg(target_arch = "x86_64")]
mod vaes;

use seal::VolumeKey;

/// Size of a data unit of a volume in bytes.
pub const SECTOR: usize = 512;

/// Why a key could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum XtsError {
    /// No locked memory for the key schedule.
    #[error(transparent)]
    Lock(#[from] seal::LockError),
    /// This processor lacks the instructions of the kernel that was asked for.
    #[error("this processor has no VAES with AVX-512: use the portable kernel")]
    Unsupported,
    /// AWS-LC refused the key.
    #[error("AWS-LC did not take the key")]
    Refused,
}

/// Implementations of the cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// VAES and AVX-512, tweaks of many units at once.
    Vaes512,
    /// AWS-LC.
    AwsLc,
}

impl Kernel {
    /// The kernels that run on this processor, best first.
    pub fn available() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        if vaes::supported() {
            return &[Self::Vaes512, Self::AwsLc];
        }
        &[Self::AwsLc]
    }
}

/// Size of the data unit, over which one tweak counts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 512 bytes: what volumes use.
    B512,
    /// 4096 bytes, to compare with.
    B4096,
}

impl Unit {
    /// In bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

enum Engine {
    #[cfg(target_arch = "x86_64")]
    Vaes(vaes::Cipher),
    AwsLc(awslc::Cipher),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// The cipher under one volume's key. The key schedule lies in locked memory and is wiped on drop.
pub struct Xts {
    engine: Engine,
    unit: Unit,
}

impl Xts {
    /// Takes a key, for 512-byte sectors and with the best kernel of this processor.
    pub fn new(key: &VolumeKey) -> Result<Self, XtsError> {
        Self::with(key, Kernel::available().first().copied().unwrap_or(Kernel::AwsLc), Unit::B512)
    }

    /// Takes a key with a given kernel and unit.
    pub fn with(key: &VolumeKey, kernel: Kernel, unit: Unit) -> Result<Self, XtsError> {
        let engine = match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Vaes512 => Engine::Vaes(vaes::Cipher::new(key)?),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Vaes512 => return Err(XtsError::Unsupported),
            Kernel::AwsLc => Engine::AwsLc(awslc::Cipher::new(key)?),
        };
        Ok(Self { engine, unit })
    }

    /// Encrypts `len` bytes from `src` to `dst`, which hold whole units from number `first` on. Other
    /// processors may change `src` meanwhile: then what they wrote, before or after, is what is encrypted.
    /// Bytes beyond the last whole unit are left alone.
    ///
    /// # Safety
    /// `src` is readable and `dst` writable for `len` bytes. They are the same or do not overlap. Nobody
    /// holds a reference to the bytes at `dst`.
    pub unsafe fn encrypt(&self, first: u64, src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: `run` wants of the pointers what the caller promises.
        unsafe { self.run(Direction::Encrypt, first, src, dst, len) }
    }

    /// Decrypts; otherwise as [`Xts::encrypt`].
    ///
    /// # Safety
    /// As for [`Xts::encrypt`].
    pub unsafe fn decrypt(&self, first: u64, src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: `run` wants of the pointers what the caller promises.
        unsafe { self.run(Direction::Decrypt, first, src, dst, len) }
    }

    /// Decrypts `len` bytes where they are; otherwise as [`Xts::encrypt`].
    ///
    /// # Safety
    /// `at` is readable and writable for `len` bytes, and nobody holds a reference to them.
    pub unsafe fn decrypt_in_place(&self, first: u64, at: *mut u8, len: usize) {
        // SAFETY: source and destination are the same, readable and writable as the caller promises.
        unsafe { self.run(Direction::Decrypt, first, at, at, len) }
    }

    /// Encrypts scattered pieces, each of whole units, into one buffer.
    ///
    /// # Safety
    /// As for [`Xts::encrypt`], for each piece; `dst` has room for all of them.
    pub unsafe fn encrypt_gather(
        &self,
        first: u64,
        pieces: impl IntoIterator<Item = (*const u8, usize)>,
        dst: *mut u8,
    ) {
        let mut done = 0;
        for (src, len) in pieces {
            // SAFETY: the caller promises the piece, and room at `dst` for those before it and this one.
            unsafe { self.encrypt(self.after(first, done), src, dst.wrapping_add(done), len) };
            done += len;
        }
    }

    /// Decrypts scattered pieces, each of whole units, where they are.
    ///
    /// # Safety
    /// As for [`Xts::decrypt_in_place`], for each piece.
    pub unsafe fn decrypt_pieces(&self, first: u64, pieces: impl IntoIterator<Item = (*mut u8, usize)>) {
        let mut done = 0;
        for (at, len) in pieces {
            // SAFETY: the caller promises it of each piece.
            unsafe { self.decrypt_in_place(self.after(first, done), at, len) };
            done += len;
        }
    }

    /// Encrypts memory of our own. Of `data` and `out`, the whole units that both have room for.
    pub fn encrypt_slice(&self, first: u64, data: &[u8], out: &mut [u8]) {
        let len = data.len().min(out.len());
        // SAFETY: both slices have `len` bytes, and a shared and an exclusive one cannot overlap.
        unsafe { self.encrypt(first, data.as_ptr(), out.as_mut_ptr(), len) }
    }

    /// Decrypts memory of our own, where it is.
    pub fn decrypt_slice(&self, first: u64, data: &mut [u8]) {
        // SAFETY: the slice is exclusive.
        unsafe { self.decrypt_in_place(first, data.as_mut_ptr(), data.len()) }
    }

    fn after(&self, first: u64, bytes: usize) -> u64 {
        first.wrapping_add((bytes / self.unit.size()) as u64)
    }

    /// # Safety
    /// As for [`Xts::encrypt`].
    unsafe fn run(&self, direction: Direction, first: u64, src: *const u8, dst: *mut u8, len: usize) {
        let units = len / self.unit.size();
        match &self.engine {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `units` whole units lie within the `len` bytes that the caller promises.
            Engine::Vaes(cipher) => unsafe { cipher.run(direction, self.unit, first, src, dst, units) },
            // SAFETY: `units` whole units lie within the `len` bytes that the caller promises.
            Engine::AwsLc(cipher) => unsafe { cipher.run(direction, self.unit, first, src, dst, units) },
        }
    }
}

#[cfg(test)]
mod tests;
