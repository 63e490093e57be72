//! What was needed until the machine was built, and is given back then.

use rustix::mm::{Advice, madvise};
use std::{
    ffi::{c_int, c_void},
    ptr::{null_mut, with_exposed_provenance_mut},
    slice,
};

const PAGE: usize = 4096;

/// Gives back what the heap holds and does not use, and the program's own pages: those that are used come again, from
/// the file that all processes share.
pub fn give_back() {
    // SAFETY: the C library's allocator gives pages back in which there is nothing.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: a function that keeps nothing of what it is given, and no data for it.
    unsafe { libc::dl_iterate_phdr(Some(give_back_program), null_mut()) };
}

/// Of the program: what nobody ever writes.
unsafe extern "C" fn give_back_program(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the C library gives what it says, for the time of this call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: not null, and so many program headers, which the loader has mapped for good and nobody changes.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
    {
        let (Ok(base), Ok(at), Ok(len)) = (
            usize::try_from(info.dlpi_addr),
            usize::try_from(header.p_vaddr),
            usize::try_from(header.p_memsz),
        ) else {
            continue;
        };
        let start = base.wrapping_add(at);
        let whole = start & !(PAGE - 1);
        let len = (len + (start - whole)).next_multiple_of(PAGE);
        // SAFETY: pages of a file that were never written: they come again as they were. An error changes nothing.
        let _ = unsafe { madvise(with_exposed_provenance_mut(whole), len, Advice::LinuxDontNeed) };
    }
    0
}
