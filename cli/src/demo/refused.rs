//! Steps 7 and 8: what must fail, and the log that has it all.

use super::{Scene, Stage};
use crate::{
    cloud::{Ask, Who},
    failure::{Doing, Failure},
    up::hex_sha256,
};
use host_api::{Api, Resource};
use ids::HostId;
use std::{fs, time::Duration};

/// A command in the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// Long enough for one call, short enough to wait for its end.
const BRIEF: Duration = Duration::from_secs(1);
/// A physical address in the main board's firmware.
const TARGET: u64 = 0xffe0_0000;

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
    let elsewhere = scene.cloud.installation.importer.clone();
    let token = |ask: Ask| scene.cloud.token(Who::ControlPlane, &ask).map(Some);
    let expired = token(ask(vec![Api::DetachVolume], root.clone(), here.clone(), BRIEF))?;
    {
        let _progress = stage.out.progress("waiting for a token to expire");
        std::thread::sleep(BRIEF + Duration::from_millis(1100));
    }
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
        said.starts_with("rights.api"),
        said,
    );
    Ok(())
}

/// An attempt on the firmware that the log must show.
pub(super) struct Attack {
    /// The last record before it.
    pub(super) after: u64,
    /// Where in the flash it went.
    pub(super) offset: u64,
}

/// A guest with root writes to its main board's firmware flash.
pub(super) fn firmware(stage: &mut Stage<'_>, scene: &mut Scene) -> Result<Attack, Failure> {
    let flash = stage.place.path("flash/code.bin");
    let before = fs::read(&flash).doing(flash.display())?;
    let status = scene.cloud.status()?;
    let count = status.chip.map_or(0, |chip| chip.refused_writes);
    // Byte program, then the byte, then back to reading: the commands of a CFI flash. Firmware ends at 4 GiB.
    let write = format!("id -u; for v in 0x40 0x00 0xff; do devmem {TARGET:#x} 8 $v; done");
    let (_, root) = scene.console.run(&write, COMMAND)?;
    let (alive, _) = scene.console.run("true", COMMAND)?;
    let after = fs::read(&flash).doing(flash.display())?;
    let recorded = scene.cloud.status()?.chip.map_or(0, |chip| chip.refused_writes);
    let offset = (before.len() as u64).saturating_sub((4 << 30) - TARGET);
    // A zero written over a zero would change nothing: the byte must be one that the write could have changed.
    let changeable =
        usize::try_from(offset).ok().and_then(|at| before.get(at)).is_some_and(|byte| *byte != 0);
    stage.report.promise(
        "a guest with root writes to its firmware flash: refused and recorded",
        root.starts_with('0') && alive == 0 && changeable && recorded > count && before == after,
        format!(
            "writes refused by the chip: {count} before (the firmware itself probes its flash), {recorded} after; \
             flash sha256 {} as before",
            hex_sha256(&after)
        ),
    );
    Ok(Attack { after: status.log.last, offset })
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
        "the instance is stopped, its board held in reset, no volume left attached",
        held && left == 0,
        format!("volumes attached: {left}"),
    );
    Ok(())
}
