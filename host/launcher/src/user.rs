//! The launcher's own user.

use crate::FIRST_USER;
use rustix::{
    io::Errno,
    process::{Gid, Uid},
    thread::{
        CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use wire::launcher::MAX_PROCESSES;

/// Becomes the launcher's own user, in no other groups, and keeps the capabilities until the sandbox is entered.
/// `EINVAL` if this namespace has no such user. There must be one thread only.
pub(crate) fn own() -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(OWN), Gid::from_raw(OWN));
    set_thread_res_gid(group, group, group)?;
    set_thread_groups(&[])?;
    set_keep_capabilities(true)?;
    set_thread_res_uid(user, user, user)?;
    set_keep_capabilities(false)?;
    let held = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })
}

/// The one after the hypervisors'. The sandbox file lets the launcher become any of those and nobody else.
const OWN: u32 = FIRST_USER + 0x100;
const _: () = assert!(MAX_PROCESSES == 0x100);
