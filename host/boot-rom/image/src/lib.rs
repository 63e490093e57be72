//! The boot ROM as a program. It has no standard library, so the profiles of this workspace do not fit it: the build
//! script builds it in a workspace of its own, always as a release, and puts it beside the other programs. This
//! crate runs nothing and stands on no boundary; its tests run the program.
#![forbid(unsafe_code)]

/// Where this build put the program, for tests; installations find it beside the other programs.
pub const PROGRAM: &str = concat!(env!("OUT_DIR"), "/azote-boot-rom");
