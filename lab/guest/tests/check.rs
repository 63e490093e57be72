//! The self-checking guest under the hypervisor's and the card's real processes, on this machine's `/dev/kvm`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use guest::{
    report::Verdict,
    scenario::{self, Programs},
};
use std::path::Path;

#[test]
fn every_check_of_every_machine_passes() {
    if let Some(why) = scenario::missing() {
        println!("skipped: every_check_of_every_machine_passes: {why}");
        return;
    }
    let programs = Programs(Path::new(env!("CARGO_BIN_EXE_azote-guest")).parent().unwrap().to_owned());
    let checks = scenario::all(&programs, &mut |_| {}).unwrap();
    let bad: Vec<_> = checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(checks.iter().any(|check| check.name == "nvme-data"), "the guest's own checks were made");
}
