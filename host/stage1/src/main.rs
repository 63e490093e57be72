//! `azote-stage1`: verifies, measures and becomes the controller. The boot ROM starts it, with the event log at
//! descriptor 3 and its verified header at 4.
#![allow(clippy::print_stderr)]

use boot_rom::{events, header};
use release::Report;
use rustix::{
    io::dup2,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::set_no_new_privs,
};
use stage1::{Arguments, Handed, Refusal, prepare};
use std::{
    convert::Infallible,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode},
};

const USAGE: &str =
    "usage, by the boot ROM alone: azote-stage1 --tpm PATH --release DIR --report FILE -- ARGUMENT...";

fn main() -> ExitCode {
    let handed = [events::DESCRIPTOR, header::DESCRIPTOR].map(inherited);
    let Some(arguments) = Arguments::parse(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let refusal = start(handed, &arguments);
    eprintln!("azote-stage1: {}: {refusal}", refusal.code());
    if let Err(error) = refusal.report().write(&arguments.report) {
        eprintln!("azote-stage1: {error}");
    }
    ExitCode::FAILURE
}

/// Takes a descriptor that was open when the program started.
fn inherited(number: i32) -> Option<OwnedFd> {
    if !Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return None;
    }
    // SAFETY: it is open, and nothing else in this program knows of it: this is the first thing that it does.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns only if the controller is not started.
fn start([log, header]: [Option<OwnedFd>; 2], arguments: &Arguments) -> Refusal {
    let started = || -> Result<Infallible, Refusal> {
        set_no_new_privs(true).map_err(io::Error::from)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
        let (Some(mut place), Some(header)) = (log, header) else { return Err(Refusal::alone()) };
        let ready = prepare(Handed::read(place.try_clone()?, header)?, arguments)?;
        Report::forget(&arguments.report).map_err(|error| Refusal::Start(error.to_string()))?;
        dup2(&ready.log, &mut place).map_err(io::Error::from)?;
        let image = format!("/proc/self/fd/{}", ready.image.as_raw_fd());
        let mut controller = Command::new(image);
        // What a host does depends on nobody's environment.
        Err(controller.arg0("azote-controller").args(&arguments.rest).env_clear().exec().into())
    };
    let Err(refusal) = started();
    refusal
}
