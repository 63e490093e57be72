//! Encrypted volumes on the storage side: their metadata with the wrapped key, their backing files, and
//! images written into them. It never sees a plain volume key: an image is written through a volume card of
//! its own, as a guest would write it. It stands on the storage side's boundary: whoever reads its folder
//! finds ciphertext and wrapped keys.
#![forbid(unsafe_code)]

mod import;
mod store;

pub use import::{Image, ImportError, Importer};
pub use store::{Draft, MAX_SIZE, Store, StoreError, UNIT, Volume};
