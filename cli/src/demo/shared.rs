//! Step 9: the same Linux as an instance that shares its host, in a hypervisor of its own: directly where the
//! processor runs kernels of guests, else inside an emulated machine that has SVM, slow but exact.

use super::Stage;
use crate::{
    failure::{Doing, Failure},
    rack::program,
};
use serde::Deserialize;
use std::process::Command;

/// Seconds until it is given up.
const LIMIT: &str = "80";

#[derive(Deserialize)]
struct Report {
    checks: Vec<Check>,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    verdict: String,
    text: String,
}

/// Checks of the runner, and what they promise.
const PROMISES: [(&str, &str); 3] = [
    (
        "linux-root",
        "Debian's unmodified kernel has its root on the volume card's function, under our own hypervisor",
    ),
    ("linux-hotplug", "a second volume is hot-plugged, read, and given back"),
    ("linux-power-button", "the power button shuts it down, and its machine ends"),
];

/// Boots it, and says in which of the two ways.
pub(super) fn linux(stage: &mut Stage<'_>) -> Result<(), Failure> {
    stage.report.step("The same Linux beside other tenants, in a hypervisor process of its own");
    let output = {
        let _progress = stage.out.progress("booting it under the hypervisor");
        let mut guest = Command::new(program("azote-guest")?);
        guest.args(["--json", "linux", "--limit", LIMIT]).output().doing("azote-guest")?
    };
    let report: Report = serde_json::from_slice(&output.stdout).map_err(|error| {
        Failure::State(format!("azote-guest: {error}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    })?;
    if let Some(way) = report.checks.iter().find(|check| check.name == "linux-way") {
        stage.out.line(&format!("   {}", way.text));
    }
    let ready = report.checks.iter().find(|check| check.name == "linux-ready");
    for (name, words) in PROMISES {
        let check = report.checks.iter().find(|check| check.name == name);
        let held = check.is_some_and(|check| check.verdict == "ok");
        let text = check.map_or("it never came so far", |check| &check.text);
        let after = ready.filter(|_| name == "linux-root").map(|ready| format!("; ready {}", ready.text));
        stage.report.promise(words, held, format!("{text}{}", after.unwrap_or_default()));
    }
    Ok(())
}
