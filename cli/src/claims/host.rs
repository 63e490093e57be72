//! Claims 1 and 7: what runs, who could get in, and what was measured.

use super::{Basis, Evidence, Outcome, door};
use crate::{
    attest,
    boot::{is_released, running},
    cloud::{Cloud, Who},
    exposure::look,
    failure::Failure,
    place::Place,
};
use exposure::{Allowances, Report, Scope};
use host_api::HostStatus;
use release::Kind;

const ATTESTATION: &str = "An attestation that a verifier asks for: the TPM's word, for the verifier's nonce";

/// Claim 1.
pub(super) fn login(place: &Place, knocks: &door::Knocks) -> Vec<Evidence> {
    vec![
        Evidence::of("What the host's processes expose", processes(place)),
        knocks.row(door::Kind::Unknown, "Ways in that no operation is for"),
        Evidence::of("The machine under them", machine(place)),
    ]
}

fn processes(place: &Place) -> Result<Evidence, Failure> {
    let (report, expected) = look(place, Scope::Installation, Allowances::default())?;
    let Report { findings, survey, .. } = &report;
    let real = findings.iter().filter(|it| it.code != "exposure.unreadable").count();
    let outcome = match (real, findings.len()) {
        (0, 0) => Outcome::Holds,
        (0, _) => Outcome::NotShown,
        _ => Outcome::Broken,
    };
    let stand_ins = survey
        .processes
        .iter()
        .filter(|it| expected.of(&it.name).is_some_and(|it| it.stands_in.is_some()))
        .count();
    let said: Vec<String> =
        findings.iter().take(5).map(|it| format!("{} {}: {}", it.code, it.process, it.detail)).collect();
    let found = format!(
        "{} processes, {stand_ins} of them stand-ins for hardware: sockets, mappings, capabilities, files, terminals, filters; \
         {real} exposures that no sandbox file names, {} facts not readable by this user{}{}",
        survey.processes.len(),
        findings.len() - real,
        if said.is_empty() { "" } else { ": " },
        said.join("; ")
    );
    let basis = [Basis::Kernel, Basis::Release, Basis::LabStandIn];
    Ok(Evidence::new(
        "What the host's processes expose",
        outcome,
        found,
        if stand_ins > 0 { &basis } else { &basis[..2] },
    ))
}

/// Whether anything else runs here.
fn machine(place: &Place) -> Result<Evidence, Failure> {
    let (report, expected) = look(place, Scope::Machine, Allowances::default())?;
    let others: Vec<_> =
        report.survey.processes.iter().filter(|it| expected.of(&it.name).is_none()).collect();
    let terminals = others.iter().filter(|it| it.terminal != 0).count();
    let what = "The machine under them";
    if others.is_empty() && report.holds {
        let found = "nothing else runs on it".to_owned();
        return Ok(Evidence::new(what, Outcome::Holds, found, &[Basis::Kernel]));
    }
    let found = format!(
        "a development machine: {} other processes run on it, {terminals} of them with a terminal; whoever has an account \
         on it can log in, and root can read everything. The sealed host image is not in this release",
        others.len()
    );
    Ok(Evidence::new(what, Outcome::NotShown, found, &[Basis::DevelopmentMachine]))
}

/// Claim 7.
pub(super) fn software(place: &Place, cloud: &Cloud) -> Vec<Evidence> {
    let status = cloud.status();
    let mut rows = match status {
        Ok(status) => vec![
            Evidence::of("What the controller measured", measured(&status)),
            Evidence::of("The main board's firmware", firmware(place, &status)),
            Evidence::of("The volume card's image", card(place, &status)),
        ],
        Err(error) => vec![Evidence::of("What the controller measured", Err(error))],
    };
    rows.extend([
        Evidence::of(ATTESTATION, attestation(place, cloud)),
        Evidence::of("Signed releases", signed(place)),
        Evidence::absent("The deployment service", "software comes to this host by hand"),
    ]);
    rows
}

fn measured(status: &HostStatus) -> Result<Evidence, Failure> {
    let what = "What the controller measured";
    let log: Vec<tpm::Measurement> = status
        .measurements
        .iter()
        .filter_map(|it| {
            let pcr = it.pcr.try_into().ok()?;
            Some(tpm::Measurement { pcr, digest: it.sha256.to_digest(), description: it.what.to_string() })
        })
        .collect();
    let values = tpm::replay(&log).map_err(Failure::state)?;
    let told = status.registers.iter().map(|it| (it.pcr, it.value.to_digest()));
    let replayed =
        !values.is_empty() && told.eq(values.into_iter().map(|(pcr, value)| (u64::from(pcr), value)));
    let names: Vec<&str> = log.iter().map(|it| it.description.as_str()).collect();
    let found = format!(
        "{} measurements ({}) replay to the values of the TPM's registers",
        log.len(),
        names.join(", ")
    );
    let found = if replayed { found } else { format!("{found}: they do NOT") };
    Ok(Evidence::new(what, Outcome::of(replayed), found, &[Basis::LabStandIn, Basis::Cryptography]))
}

fn firmware(place: &Place, status: &HostStatus) -> Result<Evidence, Failure> {
    let what = "The main board's firmware";
    let Some(chip) = &status.chip else {
        return Ok(Evidence::new(what, Outcome::NotShown, "the security chip does not answer", &[]));
    };
    let hash = chip.firmware.to_string();
    let good = is_released(place, Kind::MainboardFirmware, &hash)?;
    let measured = status.measurements.iter().any(|it| it.sha256 == chip.firmware);
    let found = format!(
        "{hash} in the chip's flash: {}, {}; writes by the main board that it refused: {}",
        if good { "as the signed release has it" } else { "NOT of the signed release" },
        if measured { "measured before reset was released" } else { "NOT measured" },
        chip.refused_writes
    );
    Ok(Evidence::new(what, Outcome::of(good && measured), found, &[Basis::LabStandIn, Basis::Release]))
}

fn card(place: &Place, status: &HostStatus) -> Result<Evidence, Failure> {
    let what = "The volume card's image";
    let Some(card) = &status.card else {
        return Ok(Evidence::new(what, Outcome::NotShown, "no volume card runs", &[]));
    };
    let measured = status.measurements.iter().any(|it| it.sha256 == card.image);
    let released = is_released(place, Kind::VolumeCard, &card.image.to_string())?;
    let found = format!(
        "{}: {}, {}",
        card.image,
        if measured { "measured before it was started" } else { "NOT measured" },
        if released { "as the signed release has it" } else { "NOT of the signed release" }
    );
    Ok(Evidence::new(what, Outcome::of(measured && released), found, &[Basis::LabStandIn, Basis::Release]))
}

/// Evidence for a nonce of ours, judged as the key service judges it.
fn attestation(place: &Place, cloud: &Cloud) -> Result<Evidence, Failure> {
    let policy = attest::read_policy(&place.path(attest::POLICY))?;
    let rests_on = [Basis::LabStandIn, Basis::Cryptography, Basis::Release];
    let (outcome, found) = match attest::appraise(place, cloud, &policy, Who::Auditor) {
        Ok(appraisal) => {
            (Outcome::Holds, attest::text(&appraisal).split_whitespace().collect::<Vec<_>>().join(" "))
        }
        Err(Failure::Attest(refusal)) => (Outcome::Broken, format!("{}: {refusal}", refusal.code)),
        Err(error) => return Err(error),
    };
    Ok(Evidence::new(ATTESTATION, outcome, found, &rests_on))
}

/// The release's signature, under the key that the fuse knows.
fn signed(place: &Place) -> Result<Evidence, Failure> {
    let (what, release) = ("Signed releases", running(place)?);
    let (version, svn) = (&release.manifest.version, release.manifest.svn);
    let found = format!(
        "release {version}, security version {svn}, {} images, signed by the root key (in the lab, its own)",
        release.manifest.images.len()
    );
    Ok(Evidence::new(what, Outcome::Holds, found, &[Basis::LabStandIn, Basis::Cryptography]))
}
