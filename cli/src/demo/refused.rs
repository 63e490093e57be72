//! Steps 7 and 8: what must fail, and the log that has it all.

use super::{Scene, Stage};
use crate::{
    cloud::{Ask, Who},
    failure::{Doing, Failure},
    up::{self, hex_sha256},
};
use host_api::{Api, Code, LogRecord, RecordKind, Resource};
use ids::HostId;
use std::{fs, time::Duration};

/// A command in the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// Long enough for one call, short enough to wait for its end.
const BRIEF: Duration = Duration::from_secs(1);

/// Calls without the right token.
pub(super) fn tokens(stage: &mut Stage<'_>, scene: &Scene) -> Result<(), Failure> {
    stage.report.step("What must fail does, with its code");
    let here = scene.cloud.installation.host.clone();
    let call = host_api::DetachVolume { volume: scene.root.id.clone(), force: true };
    let ask = |apis: Vec<Api>, resource: Resource, audience: HostId, lifetime| Ask {
        apis,
        resources: vec![resource],
        audience: Some(audience),
        lifetime,
    };
    let root = Resource::Volume(scene.root.id.clone());
    let minute = Duration::from_secs(60);
    let elsewhere = HostId::from_random(up::random()?);
    let token = |ask: Ask| scene.cloud.token(Who::ControlPlane, &ask).map(Some);
    let expired = token(ask(vec![Api::DetachVolume], root.clone(), here.clone(), BRIEF))?;
    std::thread::sleep(BRIEF + Duration::from_millis(1100));
    let stolen = scene
        .cloud
        .token(Who::ControlPlane, &ask(vec![Api::DetachVolume], root.clone(), here.clone(), minute))?;
    let cases = [
        ("no token", Who::ControlPlane, None, "token.missing"),
        ("an expired token", Who::ControlPlane, expired, "token.expired"),
        (
            "a token for another API",
            Who::ControlPlane,
            token(ask(vec![Api::AttachVolume], root.clone(), here.clone(), minute))?,
            "token.api",
        ),
        (
            "a token for another host",
            Who::ControlPlane,
            token(ask(vec![Api::DetachVolume], root, elsewhere, minute))?,
            "token.audience",
        ),
        ("a stolen token, without its holder's key", Who::Operator, Some(stolen), "proof.signature"),
    ];
    for (what, who, token, wanted) in cases {
        let answer = scene.cloud.knock(who, token.as_deref(), &call);
        let said = answer.as_ref().err().map(ToString::to_string).unwrap_or_else(|| "not refused".to_owned());
        let refused = answer.is_err_and(|error| error.code() == wanted);
        stage.report.promise(&format!("{what}: refused"), refused, said);
    }
    let other = ask(vec![Api::AttachVolume], Resource::Volume(scene.root.id.clone()), here, minute);
    let said = scene.cloud.token(Who::Operator, &other).err().map(|e| e.to_string()).unwrap_or_default();
    stage.report.promise(
        "an operator asks for an API outside the rights configuration: no token",
        said.contains("rights."),
        said,
    );
    Ok(())
}

/// A guest with root writes to its main board's firmware flash.
pub(super) fn firmware(stage: &mut Stage<'_>, scene: &mut Scene) -> Result<(), Failure> {
    let flash = stage.place.path("flash/code.bin");
    let before = hex_sha256(&fs::read(&flash).doing(flash.display())?);
    let refusals =
        |scene: &Scene| Ok::<_, Failure>(scene.cloud.status()?.chip.map_or(0, |chip| chip.refused_writes));
    let count = refusals(scene)?;
    // Byte program, then the byte, then back to reading: the commands of a CFI flash.
    let write = "id -u; for v in 0x40 0x00 0xff; do devmem 0xffe00000 8 $v; done";
    let (_, root) = scene.console.run(write, COMMAND)?;
    let (alive, _) = scene.console.run("true", COMMAND)?;
    let after = hex_sha256(&fs::read(&flash).doing(flash.display())?);
    let recorded = refusals(scene)?;
    stage.report.promise(
        "a guest with root writes to its firmware flash: refused and recorded",
        root.starts_with('0') && alive == 0 && recorded > count && before == after,
        format!(
            "refused writes: {count} before, {recorded} after; flash sha256 {}… before and after",
            &after[..16]
        ),
    );
    Ok(())
}

/// The instance stops.
pub(super) fn stop(stage: &mut Stage<'_>, scene: &Scene) -> Result<(), Failure> {
    {
        let _progress = stage.out.progress("stopping the instance");
        scene.cloud.stop(&scene.instance, false)?;
    }
    let held = scene.cloud.status()?.chip.is_some_and(|chip| chip.reset_held);
    scene.cloud.detach(&scene.root.id, false)?;
    let left = scene.cloud.status()?.volumes.len();
    stage.report.promise(
        "the instance is stopped, its board held, its keys wiped",
        held && left == 0,
        format!("volumes attached: {left}"),
    );
    Ok(())
}

/// The host's log: chained, each attempt before its outcome, every refusal there.
pub(super) fn log(stage: &mut Stage<'_>, scene: &Scene) -> Result<serde_json::Value, Failure> {
    stage
        .report
        .step("The host's log has every attempt, refusals included, each written before it was acted on");
    let records = scene.cloud.log(0)?;
    stage.out.line(&crate::verbs::log_table(&records));
    let (mut hash, mut intact) = (host_api::GENESIS, true);
    for (seq, record) in (1..).zip(&records) {
        match record.follows(seq, &hash) {
            Ok(next) => hash = next,
            Err(_) => intact = false,
        }
    }
    stage.report.promise(
        "its chain is whole from the first record on",
        intact && !records.is_empty(),
        format!("{} records", records.len()),
    );
    let intents = records.iter().filter(|record| record.kind == RecordKind::Intent).count();
    let orphan = records.iter().filter(|r| r.kind == RecordKind::Outcome).find(|outcome| {
        !records
            .iter()
            .any(|r| r.kind == RecordKind::Intent && Some(r.seq) == outcome.intent && r.seq < outcome.seq)
    });
    stage.report.promise(
        "every outcome follows its intent",
        orphan.is_none() && intents > 0,
        format!("{intents} intents"),
    );
    let has = |code: &str| records.iter().any(|r| r.code.as_ref().map(Code::as_str) == Some(code));
    let wanted = [
        "token.missing",
        "token.expired",
        "token.api",
        "token.audience",
        "proof.signature",
        "key.sealed",
        "volume.busy",
    ];
    let missing: Vec<&str> = wanted.into_iter().filter(|code| !has(code)).collect();
    let firmware = records.iter().any(|r| {
        r.kind == RecordKind::Event && r.detail.as_ref().is_some_and(|d| d.as_str().contains("write"))
    });
    let evidence =
        if missing.is_empty() { wanted.join(", ") } else { format!("missing: {}", missing.join(", ")) };
    stage.report.promise("every refusal of the steps above is there", missing.is_empty(), evidence);
    let event = records
        .iter()
        .rev()
        .find(|r| r.kind == RecordKind::Event && firmware)
        .map(LogRecord::line)
        .unwrap_or_default();
    stage.report.promise("so is the guest's attempt on the firmware", firmware, event);
    serde_json::to_value(&records).map_err(Failure::state)
}
