//! The boot ROM as a program. It has no standard library, so the profiles of this workspace do not fit it: the build
//! script builds it in a workspace of its own, always as a release, and puts it beside the other programs. This
//! crate runs nothing and stands on no boundary; its tests run the program.
#![forbid(unsafe_code)]

/// The whole program.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/azote-boot-rom"));
