//! Steps 1 and 2: held in reset, then verified and released.

use super::Stage;
use crate::{
    args::Board,
    boot::is_released,
    cloud::Cloud,
    failure::{Doing, Failure},
    guests::Guests,
    up::{Rack, hex_sha256},
};
use host_api::{Code, HostStatus, LogRecord, RecordKind};
use release::Kind;
use std::fs;
use wire::{board, chip};

/// The main board is powered, and the security chip holds it.
pub(super) fn powered(stage: &mut Stage<'_>, rack: &Rack<'_>, board: &Board) -> Result<(), Failure> {
    stage.report.step("The emulated main board is powered, and held in reset by the security chip");
    {
        let _progress = stage.out.progress("starting TPM, security chip, main board");
        rack.power(board)?;
    }
    // Nobody else talks to the chip and the board yet: the controller does not run.
    let run = stage.place.path("run");
    let to_chip = wire::connect::<chip::Request, chip::Reply>(&run.join("chip")).map_err(Failure::state)?;
    let reply = to_chip.call(&chip::Request::Status, &[]).map_err(Failure::state)?;
    let (held, evidence) = match reply {
        chip::Reply::Status { lines, .. } => {
            let reset_held = lines == chip::Lines::HELD;
            (reset_held, format!("the chip says: reset {}", if reset_held { "held" } else { "released" }))
        }
        other => (false, chip_says(&other)),
    };
    stage.report.promise("the security chip holds reset from the start", held, evidence);
    let firmware = chip::Firmware { code: "00".repeat(32), bmc: None };
    let guess = chip::Request::Release { line: chip::Line::Bmc, firmware };
    let reply = to_chip.call(&guess, &[]).map_err(Failure::state)?;
    let refused = matches!(&reply, chip::Reply::Fault(fault) if fault.code == "chip.unverified");
    stage.report.promise(
        "it does not release reset to one who has not verified the firmware",
        refused,
        chip_says(&reply),
    );
    let to_board =
        wire::connect::<board::Request, board::Reply>(&run.join("board")).map_err(Failure::state)?;
    let reply = to_board.call(&board::Request::Status, &[]).map_err(Failure::state)?;
    let (paused, evidence) = match &reply {
        board::Reply::Status(status) => (
            status.power == board::Power::Held && status.boots == 0,
            format!(
                "the board says: {}, started {} times (it is QEMU with {}, hardware's stand-in)",
                if status.power == board::Power::Held { "held" } else { "not held" },
                status.boots,
                status.accelerator.to_uppercase()
            ),
        ),
        board::Reply::Fault(fault) => (false, fault.to_string()),
        _ => (false, "the board gave no status".to_owned()),
    };
    stage.report.promise("its processors have not run an instruction", paused, evidence);
    Ok(())
}

/// A chip's answer in words.
fn chip_says(reply: &chip::Reply) -> String {
    match reply {
        chip::Reply::Fault(fault) => format!("the chip says: {fault}"),
        _ => "the chip did not refuse".to_owned(),
    }
}

/// The controller measures, verifies, and only then lets reset go.
pub(super) fn verified(stage: &mut Stage<'_>, rack: &Rack<'_>, board: &Board) -> Result<(), Failure> {
    stage.report.step("The controller measures what it starts, verifies the firmware, then releases reset");
    let flash = hex_sha256(&fs::read(stage.place.path("flash/code.bin")).doing("flash")?);
    let before = {
        let progress = stage.out.progress("starting the control plane");
        rack.cloud(&Guests::default())?;
        progress.at("the host is enrolled as it left the factory");
        rack.host_ready(&Guests::default())?;
        progress.at("a host with another byte in its flash");
        rack.unplug()?;
        flip(stage)?;
        rack.power(board)?;
        rack.host(&Guests::default())?;
        let before = Cloud::open(stage.place)?.status()?;
        progress.at("power cycle, then with the right one");
        rack.unplug()?;
        flip(stage)?;
        rack.power(board)?;
        rack.host(&Guests::default())?;
        before
    };
    let (code, why) =
        before.out_of_service.map(|o| (o.code.to_string(), o.message.to_string())).unwrap_or_default();
    let stayed =
        before.chip.is_some_and(|chip| chip.reset_held) && before.board.is_some_and(|b| b.boots == 0);
    stage.report.promise(
        "firmware that is not the signed release's is never started",
        stayed && code == "boot.firmware",
        format!("{code}: {why}"),
    );
    let cloud = Cloud::open(stage.place)?;
    let status = cloud.status()?;
    measured(stage, &status)?;
    let chip = status.chip.as_ref();
    let verified = chip.is_some_and(|chip| chip.firmware.as_str() == flash);
    let verified = verified && is_released(stage.place, Kind::MainboardFirmware, &flash)?;
    stage.report.promise(
        "the firmware in the chip's flash is in the release that the root key signed",
        verified,
        format!("sha256 {flash}"),
    );
    let up = status.in_service && chip.is_some_and(|chip| !chip.reset_held);
    let (ordered, evidence) = order(&cloud.log(0)?, &flash);
    stage.report.promise("then, and only then, reset was released", up && ordered, evidence);
    Ok(())
}

/// Changes a byte of the firmware in the flash, and back again.
fn flip(stage: &Stage<'_>) -> Result<(), Failure> {
    let path = stage.place.path("flash/code.bin");
    let mut bytes = fs::read(&path).doing(path.display())?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    service::write_atomic(&path, &bytes).doing(path.display())
}

/// Replays the list of measurements and compares it with the TPM's registers.
fn measured(stage: &mut Stage<'_>, status: &HostStatus) -> Result<(), Failure> {
    let mut lines: Vec<String> = Vec::new();
    let mut log = Vec::new();
    for entry in &status.measurements {
        let (sha256, what) = (entry.sha256.as_str(), entry.what.as_str());
        lines.push(format!("PCR {:>2}  {}…  {what}", entry.pcr, sha256.get(..16).unwrap_or_default()));
        let pcr = u8::try_from(entry.pcr).map_err(Failure::state)?;
        log.push(tpm::Measurement { pcr, digest: entry.sha256.to_digest(), description: what.to_owned() });
    }
    let replayed = tpm::replay(&log).map_err(Failure::state)?;
    let told = status.registers.iter().map(|it| (it.pcr, it.value.to_digest()));
    let agrees = told.eq(replayed.into_iter().map(|(pcr, value)| (u64::from(pcr), value)));
    // Each of these must be in a register: a list without one would replay just as well.
    let all = [
        "root key",
        "stage 1",
        "release",
        "controller",
        "configuration",
        "policies",
        "volume card",
        "hypervisor",
        "launcher",
        "guest kernel",
        "main-board firmware",
    ];
    let complete =
        all.iter().all(|what| status.measurements.iter().any(|entry| entry.what.as_str() == *what));
    for register in &status.registers {
        lines.push(format!("the TPM's register {}: {}", register.pcr, register.value));
    }
    stage.report.promise(
        "from the root key on, all that started is in the TPM: replaying the log gives the TPM's values",
        agrees && complete,
        lines.join("\n"),
    );
    Ok(())
}

/// In the host's log: it boots, it names the firmware that it verified, and only after that the chip tells of
/// its first release of reset, ever since it was powered.
fn order(records: &[LogRecord], firmware: &str) -> (bool, String) {
    let events: Vec<(&LogRecord, &str, &str)> = records
        .iter()
        .filter(|record| record.kind == RecordKind::Event)
        .map(|record| {
            (
                record,
                record.code.as_ref().map_or("", Code::as_str),
                record.detail.as_ref().map_or("", |d| d.as_str()),
            )
        })
        .collect();
    let boot = events.iter().rposition(|(_, code, _)| *code == "host.started");
    let (earlier, events) = events.split_at(boot.unwrap_or(0));
    let at = |wanted: &str| events.iter().position(|(_, code, _)| *code == wanted);
    let (verified, released) = (at("host.releases-reset"), at("chip.reset-released"));
    let named = verified.is_some_and(|at| events[at].2.contains(firmware));
    let first = released.is_some_and(|at| events[at].2.starts_with("event 1:"));
    let never_before = !earlier.iter().any(|(_, code, _)| *code == "chip.reset-released");
    let ordered = boot.is_some() && named && first && never_before && verified < released;
    let line = |(record, code, detail): &(&LogRecord, &str, &str)| {
        let time = record.time.as_str().get(11..23).unwrap_or_default();
        format!("record {}  {time}  {code}  {detail}", record.seq)
    };
    (ordered, events.iter().map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(events: &[(&str, &str)]) -> Vec<LogRecord> {
        let record = |(seq, (code, detail)): (usize, &(&str, &str))| {
            let detail = if detail.is_empty() { "none" } else { detail };
            serde_json::from_value(json!({
                "seq": seq, "time": "2026-01-02T03:04:05.678901Z", "kind": "event", "code": code, "detail": detail,
                "prev": "00".repeat(32),
            }))
            .unwrap()
        };
        events.iter().enumerate().map(record).collect()
    }

    #[test]
    fn a_release_before_the_verification_or_of_other_firmware_is_noticed() {
        let (boots, verified, released) = (
            ("host.started", ""),
            ("host.releases-reset", "firmware abc"),
            ("chip.reset-released", "event 1: BMC"),
        );
        assert!(order(&log(&[boots, boots, verified, released]), "abc").0);
        for wrong in [
            &[boots, released, verified][..],
            &[boots, verified],
            &[boots, released],
            &[verified, released],
            &[boots, released, boots, verified, released],
            &[boots, verified, ("chip.reset-released", "event 2: BMC")],
        ] {
            assert!(!order(&log(wrong), "abc").0, "{wrong:?}");
        }
        assert!(!order(&log(&[boots, verified, released]), "def").0);
    }
}
