//! Steps 3 to 5: key and volume, boot, hot-plug.

use super::{Scene, Stage};
use crate::{cloud::Cloud, console::Console, failure::Failure, up};
use host_api::DeviceName;
use ids::Slot;
use std::{path::Path, time::Duration};
use volumes::Volume;

/// Under software emulation a boot takes this long at the most.
const BOOT: Duration = Duration::from_secs(240);
/// A command in the guest.
const COMMAND: Duration = Duration::from_secs(60);
/// The line that the root image prints when its shell is ready.
const READY: &str = "azote-guest: ready";
/// The size of the second volume.
const SECOND: u64 = 16 << 20;

/// The second volume and what was written into it.
pub(super) struct Second {
    pub(super) volume: Volume,
    pub(super) text: String,
}

pub(super) fn device(name: &str) -> Result<DeviceName, Failure> {
    name.parse().map_err(Failure::state)
}

fn slot(number: u8) -> Result<Slot, Failure> {
    Slot::try_from(number).map_err(Failure::state)
}

/// Key, volume, attach, start, boot.
pub(super) fn boots(stage: &mut Stage<'_>, image: &Path) -> Result<Scene, Failure> {
    let cloud = Cloud::open(stage.place)?;
    stage.report.step("A tenant makes a key in KMS, and an encrypted volume from a root image");
    let key = cloud.create_key()?;
    let root = {
        let progress = stage.out.progress("writing the root image through a volume card");
        cloud.import(&key, image, &mut |done, all| progress.bytes(done, all))?
    };
    stage.report.promise(
        "the volume is made, its key wrapped by KMS",
        cloud.store.get(&root.id)? == root,
        format!("{} ({} MiB) under {key}", root.id, root.size >> 20),
    );

    stage.report.step("With a token, the control plane attaches the volume and starts the instance");
    cloud.attach(&root, &device("xvda")?, slot(1)?)?;
    let instance = cloud.start(&root.id)?.instance;
    let mut console = {
        let progress = stage.out.progress("the guest boots");
        let mut console = Console::connect(&stage.place.path("run/console"))?;
        console.expect(READY, BOOT, &mut |line| progress.at(line))?;
        console
    };
    let (_, kernel) = console.run("uname -srv", COMMAND)?;
    stage.report.promise(
        "Debian's unmodified kernel runs",
        kernel.contains("Debian") && kernel.contains("cloud"),
        &kernel,
    );
    // The kernel calls what it mounts first /dev/root: look the device number up.
    let find = "readlink /sys/dev/block/$(grep ' / / ' /proc/self/mountinfo | cut -d' ' -f3); grep ' / ' /proc/mounts";
    let (_, mounted) = console.run(find, COMMAND)?;
    stage.report.promise(
        "its root is on the encrypted volume",
        mounted.contains("nvme0n1/nvme0n1p"),
        &mounted,
    );
    let (_, seen) =
        console.run("cat /sys/block/nvme0n1/device/model /sys/block/nvme0n1/device/serial", COMMAND)?;
    let expected = seen.contains("Amazon Elastic Block Store") && seen.contains(&root.id.serial());
    stage.report.promise("it sees the volume as EC2 guests do", expected, &seen);
    Ok(Scene { cloud, console, key, root, instance })
}

/// Hot-plug, write, read back, sync, remove, detach.
pub(super) fn second_volume(stage: &mut Stage<'_>, scene: &mut Scene) -> Result<Second, Failure> {
    stage
        .report
        .step("While it runs, a second encrypted volume is attached, written, read back, synced, detached");
    let volume = scene.cloud.create_volume(&scene.key, SECOND)?;
    let text = format!("Azote: whoever operates this host cannot read this line {:032x}", up::random()?);
    {
        let _progress = stage.out.progress("hot-plugging");
        scene.cloud.attach(&volume, &device("/dev/sdf")?, slot(2)?)?;
        let wait = "for i in $(seq 300); do [ -b /dev/nvme1n1 ] && break; sleep 0.1; done; cat /sys/block/nvme1n1/device/serial";
        let (_, serial) = scene.console.run(wait, COMMAND)?;
        stage.report.promise(
            "the running guest finds the new volume",
            serial.contains(&volume.id.serial()),
            &serial,
        );
    }
    let write = format!(
        "printf '%s' '{text}' | dd of=/dev/nvme1n1 bs=4096 seek=3 conv=sync,fsync 2>/dev/null && sync"
    );
    let (written, _) = scene.console.run(&write, COMMAND)?;
    let read = "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/nvme1n1 bs=4096 skip=3 count=1 2>/dev/null | tr -d '\\000'";
    let (_, back) = scene.console.run(read, COMMAND)?;
    // What the guest says is one side; the card has counted on the other.
    let counts = scene.cloud.status()?.volumes.into_iter().find(|v| v.volume == volume.id);
    let (reads, writes) = counts.map_or((0, 0), |volume| (volume.reads, volume.writes));
    stage.report.promise(
        "what the guest wrote comes back, through the card",
        written == 0 && back.contains(&text) && reads > 0 && writes > 0,
        format!("{back}\nthe card counted {reads} reads, {writes} writes"),
    );
    let busy = scene.cloud.detach(&volume.id, false);
    let code = busy.as_ref().err().map(|error| error.code().to_owned()).unwrap_or_default();
    stage.report.promise("it is not pulled out while the guest uses it", code == "volume.busy", &code);
    let socket = stage.place.path(&format!("functions/{}.sock", volume.id));
    let was_there = socket.exists();
    let remove = "echo 1 > /sys/block/nvme1n1/device/device/remove; sleep 0.2; [ ! -e /dev/nvme1n1 ]";
    let (gone, _) = scene.console.run(remove, COMMAND)?;
    scene.cloud.detach(&volume.id, false)?;
    let left: Vec<String> = scene.cloud.status()?.volumes.iter().map(|v| v.volume.to_string()).collect();
    let retired = was_there && !socket.exists();
    stage.report.promise(
        "the guest lets go, then the volume is detached and its socket retired",
        gone == 0 && retired && !left.contains(&volume.id.to_string()),
        format!("volumes that the host still has: {}", left.join(", ")),
    );
    Ok(Second { volume, text })
}
