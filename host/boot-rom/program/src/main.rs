//! `azote-boot-rom`: the first program of a host. It knows the hash of the root key from a fuse, verifies that key's
//! signature over stage 1, its environment and its security version, measures it, and becomes it. It decides nothing
//! by itself (the crate `boot_rom` does), keeps nothing, and is the only program of a host that nobody verified.
//!
//! It stands on the boundary of the root of trust: fuse and command line are the board, everything else is hostile.
#![no_std]
#![no_main]

mod machine;
mod rom;
mod system;

use boot_rom::{Refusal, arguments::Arguments, report::Line};
use core::ffi::CStr;
use machine::Words;

/// Where the machine starts.
fn main(words: &mut Words) -> Refusal {
    let Some(arguments) = Arguments::parse(words.iter()) else { return refused(Refusal::Arguments, None) };
    match rom::run(&arguments) {
        Ok(ready) => {
            system::forget_report(arguments.report);
            let refusal = match ready.hand_on() {
                Ok(image) => words.become_image(image, arguments.end, c"azote-stage1"),
                Err(refusal) => refusal,
            };
            refused(refusal, Some(arguments.report))
        }
        Err(refusal) => refused(refusal, Some(arguments.report)),
    }
}

fn refused(refusal: Refusal, report: Option<&CStr>) -> Refusal {
    system::say(format_args!("azote-boot-rom: {}: {}\n", refusal.code(), refusal.message()));
    if let Some(path) = report {
        system::write_report(path, Line::report(refusal).bytes());
    }
    refusal
}
