//! The scenarios, in the order in which they are played: those that end processes and change disks come last, and
//! those whose rules wait long come before what would end their waiting.

mod credentials;
mod doors;
mod guests;
mod insiders;
mod logs;
mod quotas;

use crate::play::Scenario;

/// All of them.
pub(crate) fn all() -> Vec<Scenario> {
    let groups = [
        logs::gaps(),
        credentials::all(),
        doors::all(),
        guests::then(),
        quotas::all(),
        logs::tampered(),
        guests::last(),
        insiders::all(),
    ];
    groups.into_iter().flatten().collect()
}
