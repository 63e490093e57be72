//! The process itself: it gives up everything but its socket before it reads the first request, and what it needed to
//! build the machine before the processors run.

use crate::{
    control::{Confine, Control},
    isolation,
    vcpu::PROCESS,
    vm,
};
use sandbox::Policy;
use seal::console::ConsoleKey;
use std::{error::Error, os::fd::OwnedFd, sync::LazyLock};
use wire::Link;

/// The sandbox file.
pub const SANDBOX: &str = include_str!("../../../sandbox/hypervisor.toml");

/// Serves the controller at the other end of `socket` until it is gone, confined by `policy`. To be called before any
/// thread is started.
pub fn serve(socket: OwnedFd, policy: Policy) -> Result<(), Box<dyn Error>> {
    sandbox::undumpable()?;
    vm::share_heap();
    // The first key makes the cryptographic library look at its surroundings. Nobody ever knows this one.
    drop(ConsoleKey::generate()?);
    LazyLock::force(&PROCESS);
    let isolation = isolation::detect();
    isolation::engage(&isolation)?;
    policy.enter(&[])?;
    let narrow: Confine = Box::new(move |keep| {
        let narrowing = policy.narrowing(keep)?;
        drop(policy);
        vm::give_back();
        Ok(narrowing.apply()?)
    });
    Control::new(Link::new(socket), isolation, narrow).run()?;
    Ok(())
}
