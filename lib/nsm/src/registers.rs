//! What an instance's registers are extended by before it starts. Registers 0 to 4 mean what they mean for Nitro
//! Enclaves; 5 and 6, zero there, are the host's. All other registers below 16 stay zero, and all of them are locked.
//!
//! | register | extended by | instance |
//! |---|---|---|
//! | 0 | SHA-384(kernel ‖ command line ‖ initial RAM disk) | with a hypervisor |
//! | 1 | the same: there is one RAM disk at most | with a hypervisor |
//! | 2 | SHA-384 of nothing: there are no further RAM disks | with a hypervisor |
//! | 0 | SHA-256 of the main board's firmware | metal |
//! | 4 | the instance's id, its ASCII bytes | all |
//! | 5 | SHA-256 of the signed manifest of the host's release | all, where the host knows it |
//! | 6 | each entry of the host's boot log, its 72 bytes, in order | all |

use aws_lc_rs::digest::{Context, SHA384, digest};
use ids::InstanceId;

/// Bytes of an entry of a host's boot log.
const ENTRY: usize = 72;

/// One extension of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Which register.
    pub register: u16,
    /// By what, at most [`crate::MAX_EXTENSION`] bytes.
    pub data: Vec<u8>,
}

fn extension(register: u16, data: &[u8]) -> Extension {
    Extension { register, data: data.to_vec() }
}

/// What a machine under a hypervisor starts from.
pub fn of_machine(kernel: &[u8], command_line: &str, initrd: Option<&[u8]>) -> Vec<Extension> {
    let mut hash = Context::new(&SHA384);
    hash.update(kernel);
    hash.update(command_line.as_bytes());
    hash.update(initrd.unwrap_or_default());
    let image = hash.finish();
    vec![
        extension(0, image.as_ref()),
        extension(1, image.as_ref()),
        extension(2, digest(&SHA384, b"").as_ref()),
    ]
}

/// What the main board starts from: the SHA-256 of its firmware. What that loads comes from the tenant's own volume, and
/// is the tenant's to measure into registers 16 and up.
pub fn of_board(firmware: &[u8; 32]) -> Vec<Extension> {
    vec![extension(0, firmware)]
}

/// Which instance it is.
pub fn of_instance(instance: &InstanceId) -> Vec<Extension> {
    vec![extension(4, instance.as_str().as_bytes())]
}

/// What the host is: SHA-256 of its release's signed manifest, if it started from one, and its boot log.
pub fn of_host(release: Option<&[u8; 32]>, log: &[u8]) -> Vec<Extension> {
    let release = release.map(|digest| extension(5, digest));
    let entries = log.chunks_exact(ENTRY).map(|entry| extension(6, entry));
    release.into_iter().chain(entries).collect()
}
