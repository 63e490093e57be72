//! What the host's firmware store holds: `azote firmware …`.

use crate::{
    cloud::{Cloud, Who},
    failure::Failure,
    out::Out,
};
use host_api::{FirmwareImage, FirmwareStatus, ListFirmware, VerifyFirmware};
use std::fmt::Write;

/// The verbs.
#[derive(clap::Subcommand)]
pub(crate) enum Firmware {
    /// The images of the release that the host runs.
    List,
    /// Have the host read its store and its flash again; fails if anything is not what the release says.
    Verify,
}

/// Carries out a verb.
pub(crate) fn run(out: Out, cloud: &Cloud, verb: &Firmware) -> Result<(), Failure> {
    let status = match verb {
        Firmware::List => cloud.call(Who::Operator, &ListFirmware {})?,
        Firmware::Verify => cloud.call(Who::Operator, &VerifyFirmware {})?,
    };
    out.result(&text(&status), &status);
    let differ = status.images.iter().filter(|image| image.intact == Some(false));
    let differ: Vec<_> = differ.map(|image| image.kind.as_str()).collect();
    if differ.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}: not what the release says; take the host out of service and install it anew",
        differ.join(", ")
    );
    Err(Failure::Advice("firmware.altered", message))
}

fn text(status: &FirmwareStatus) -> String {
    let mut text = String::new();
    if let Some(release) = &status.release {
        let (version, environment) = (release.version.as_str(), release.environment.as_str());
        let _ =
            writeln!(text, "release {version}, security version {}, {environment}", release.security_version);
    }
    for FirmwareImage { kind, length, sha256, intact } in &status.images {
        let verdict = match intact {
            Some(true) => "  intact",
            Some(false) => "  ALTERED",
            None => "",
        };
        let _ = writeln!(text, "{:<18} {} {length:>10}{verdict}", kind.as_str(), sha256.as_str());
    }
    text.truncate(text.trim_end().len());
    text
}
