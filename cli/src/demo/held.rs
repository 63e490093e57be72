//! Steps 1 and 2: held in reset, then verified and released.

use super::Stage;
use crate::{
    args::Board,
    cloud::Cloud,
    failure::{Doing, Failure},
    up::{Rack, hex_sha256},
};
use std::fs;
use wire::{board, chip};

/// The main board is powered, and the security chip holds it.
pub(super) fn powered(stage: &mut Stage<'_>, rack: &Rack<'_>, board: &Board) -> Result<(), Failure> {
    stage.report.step("The emulated main board is powered, and held in reset by the security chip");
    {
        let _progress = stage.out.progress("starting TPMs, security chip, main board");
        rack.power(board)?;
    }
    // Nobody else talks to the chip and the board yet: the controller does not run.
    let run = stage.place.path("run");
    let to_chip = wire::connect::<chip::Request, chip::Reply>(&run.join("chip")).map_err(Failure::state)?;
    let reply = to_chip.call(&chip::Request::Status, &[]).map_err(Failure::state)?;
    let held = matches!(reply, chip::Reply::Status { reset_held: true, .. });
    stage.report.promise("the security chip holds reset from the start", held, format!("{reply:?}"));
    let guess = chip::Request::ReleaseReset { code: "00".repeat(32) };
    let reply = to_chip.call(&guess, &[]).map_err(Failure::state)?;
    let refused = matches!(&reply, chip::Reply::Fault(fault) if fault.code == "chip.unverified");
    stage.report.promise(
        "it does not release reset to one who has not verified the firmware",
        refused,
        format!("{reply:?}"),
    );
    let to_board =
        wire::connect::<board::Request, board::Reply>(&run.join("board")).map_err(Failure::state)?;
    let reply = to_board.call(&board::Request::Status, &[]).map_err(Failure::state)?;
    let (paused, evidence) = match &reply {
        board::Reply::Status(status) => (
            status.power == board::Power::Held && status.boots == 0,
            format!(
                "power: {:?}, starts so far: {}, guest runs by: {} (the main board is QEMU, hardware's stand-in)",
                status.power, status.boots, status.accelerator
            ),
        ),
        other => (false, format!("{other:?}")),
    };
    stage.report.promise("its processors have not run an instruction", paused, evidence);
    Ok(())
}

/// The controller measures, verifies, and only then lets reset go.
pub(super) fn verified(stage: &mut Stage<'_>, rack: &Rack<'_>) -> Result<(), Failure> {
    stage.report.step("The controller measures what it starts, verifies the firmware, then releases reset");
    {
        let progress = stage.out.progress("starting the control plane");
        rack.cloud()?;
        progress.at("starting the controller");
        rack.host()?;
    }
    let status = Cloud::open(stage.place)?.status()?;
    let mut lines: Vec<String> = Vec::new();
    let mut log = Vec::new();
    for entry in &status.measurements {
        lines.push(format!(
            "PCR {:>2}  {}…  {}",
            entry.pcr,
            &entry.sha256.as_str()[..16],
            entry.what.as_str()
        ));
        let pcr = u8::try_from(entry.pcr).map_err(Failure::state)?;
        log.push(tpm::Measurement {
            pcr,
            digest: unhex(entry.sha256.as_str())?,
            description: entry.what.to_string(),
        });
    }
    let told = status.pcr.as_ref().map(|pcr| pcr.as_str().to_owned()).unwrap_or_default();
    let replayed = tpm::replay(&log).map_err(Failure::state)?;
    let agrees = replayed.iter().any(|(_, value)| hex(value) == told);
    lines.push(format!("the TPM's register: {told}"));
    stage.report.promise(
        "what it started is in the TPM: replaying its log gives the TPM's value",
        agrees,
        lines.join("\n"),
    );
    let known = fs::read_to_string(stage.place.path("host/known-good")).doing("known-good")?;
    let flash = hex_sha256(&fs::read(stage.place.path("flash/code.bin")).doing("flash")?);
    let chip = status.chip.as_ref();
    let verified = chip.is_some_and(|chip| chip.firmware.as_str() == flash) && known.contains(&flash);
    stage.report.promise(
        "the firmware in the chip's flash is in the known-good set",
        verified,
        format!("sha256 {flash}"),
    );
    let released = status.in_service && chip.is_some_and(|chip| !chip.reset_held);
    stage.report.promise(
        "then, and only then, reset was released",
        released,
        format!("in service: {}", status.in_service),
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Result<tpm::Digest, Failure> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| Failure::state("not a SHA-256 value"))
}
