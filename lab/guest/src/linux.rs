//! Debian's unmodified cloud kernel under the hypervisor, its root on a volume card's NVMe function. On machines
//! with VMX or SVM directly; on others inside an emulated machine that has SVM (QEMU, `-cpu max`), nested: slow,
//! but every instruction of kernel and hypervisor is the real one.

use crate::{
    Error,
    card::Card,
    nested::Machine,
    passthrough::give,
    report::Check,
    rig::{Rig, Size, sealed},
    scenario::{self, Programs, row},
};
use parts::Parts;
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use vfio::Claim;
use wire::hypervisor::{Request, State};

/// The slot of the root volume.
const ROOT_SLOT: u8 = 4;
/// The slot and the size of one that comes later.
pub(crate) const LATER_SLOT: u8 = 9;
/// How many lines of a guest that does not end are told.
const LAST: usize = 12;
/// How long a guest may take to use or to give back what it is told to: on a busy machine ten times what it usually does.
const COME: Duration = Duration::from_secs(120);
const LATER_SIZE: u64 = 8 << 20;
/// No byte before the console's driver: each is an exit, and nested exits are dear.
const COMMAND_LINE: &str = "root=/dev/nvme0n1p2 rw rootwait console=ttyS0 quiet panic=-1 reboot=t";
/// Names of the files in the emulated machine.
pub(crate) const KERNEL: &str = "vmlinuz";
pub(crate) const ROOT: &str = "root.img";
/// Modules that make an emulated machine a host, in this order.
pub(crate) const MODULES: [&str; 3] =
    ["kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko", "kernel/arch/x86/kvm/kvm-amd.ko"];
/// A function of the host's hardware for the guest, which says what it is when it has used it.
pub struct Hardware<'a> {
    /// The name of the check.
    pub name: &'static str,
    /// It.
    pub claim: &'a Claim,
    /// What is typed into the guest's shell to use it; in the end it prints [`USED`] and what it likes.
    pub typed: &'a str,
}

/// The beginning of the line by which the guest says that it has used a function.
pub const USED: &str = "azote-guest: hardware ";

/// Boots the kernel with its root image here, gives it a volume and takes it back, likewise functions of the
/// host's hardware, presses the power button, and waits for the end.
pub fn here(
    programs: &Programs,
    kernel: &Path,
    root: &Path,
    hardware: &[Hardware<'_>],
    limit: Duration,
) -> Result<Vec<Check>, Error> {
    let (kernel, root) = (sealed("kernel", &fs::read(kernel)?)?, fs::read(root)?);
    let mut card = Card::start(&programs.card())?;
    let function = card.volume(root.len() as u64, &root)?;
    let mut rig = Rig::start(&programs.hypervisor())?;
    rig.passthrough = !hardware.is_empty();
    rig.create(&Size { cpus: 2, memory_mib: 256 }, COMMAND_LINE, &kernel, None)?;
    rig.ask(&Request::Attach { slot: ROOT_SLOT }, &[&function])?;
    let begun = Instant::now();
    rig.ask(&Request::Resume, &[])?;
    let mut rows = Vec::new();
    let (mut pressed, mut last) = (None, Vec::new());
    loop {
        let state = rig.statistics()?.state;
        for line in rig.lines()? {
            rows.extend(read(&line, begun));
            last.push(line.trim().to_owned());
            if line.trim() == image::READY && pressed.is_none() {
                rows.push(hot_plug(&rig, &mut card)?);
                for function in hardware {
                    rows.push(use_hardware(&mut rig, function)?);
                }
                rig.ask(&Request::PowerButton, &[])?;
                pressed = Some(Instant::now());
            }
        }
        if state != State::Running || begun.elapsed() > limit {
            let off = state == State::Off && pressed.is_some();
            let mut text = pressed.map_or_else(
                || format!("{state:?} after {:.1} s, before it was ready", begun.elapsed().as_secs_f64()),
                |at| format!("{state:?} {:.1} s after the power button", at.elapsed().as_secs_f64()),
            );
            if !off {
                let said = last.get(last.len().saturating_sub(LAST)..).unwrap_or_default().join(" | ");
                text = format!("{text}; its last words: {said}; {:?}", rig.statistics()?.cpus);
            }
            rows.push(row("linux-power-button", off, text));
            rig.stop()?;
            return Ok(rows);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Puts a second volume into the running machine, waits until the guest's driver has read from it, asks for it back
/// and waits until the guest has let go.
fn hot_plug(rig: &Rig, card: &mut Card) -> Result<Check, Error> {
    let function = card.volume(LATER_SIZE, &[])?;
    let begun = Instant::now();
    rig.ask(&Request::Attach { slot: LATER_SLOT }, &[&function])?;
    let used = until(|| Ok(card.status()?.last().is_some_and(|volume| volume.reads > 0)))?;
    let used_after = begun.elapsed();
    rig.ask(&Request::Detach { slot: LATER_SLOT, force: false }, &[])?;
    let gone = until(|| Ok(rig.statistics()?.slots.iter().all(|used| used.slot != LATER_SLOT)))?;
    let text = format!(
        "read from after {:.1} s, given back after {:.1} s more",
        used_after.as_secs_f64(),
        (begun.elapsed() - used_after).as_secs_f64()
    );
    Ok(row("linux-hotplug", used && gone, text))
}

/// Puts a function of the host's hardware into the running machine, lets the guest use it, and asks for it back.
fn use_hardware(rig: &mut Rig, function: &Hardware<'_>) -> Result<Check, Error> {
    give(rig, LATER_SLOT, function.claim)?;
    rig.type_line(function.typed)?;
    let mut found = None;
    let used = until(|| {
        let said = rig.lines()?.into_iter().find_map(|line| Some(line.trim().strip_prefix(USED)?.to_owned()));
        found = said;
        Ok(found.is_some())
    })?;
    rig.ask(&Request::Detach { slot: LATER_SLOT, force: false }, &[])?;
    let gone = until(|| Ok(rig.statistics()?.slots.iter().all(|used| used.slot != LATER_SLOT)))?;
    let (address, found) = (function.claim.address(), found.unwrap_or_default());
    Ok(row(function.name, used && gone, format!("{address} {found}, written, read back, given back")))
}

/// Waits for something, for as long as [`COME`]; says whether it came.
fn until(mut come: impl FnMut() -> Result<bool, Error>) -> Result<bool, Error> {
    let begun = Instant::now();
    while begun.elapsed() < COME {
        if come()? {
            return Ok(true);
        }
        sleep(Duration::from_millis(20));
    }
    Ok(false)
}

/// What a line of the guest's start script says.
fn read(line: &str, begun: Instant) -> Option<Check> {
    let text = line.trim().strip_prefix("azote-guest: ")?;
    Some(match text.split_once(' ') {
        Some(("kernel", version)) => row("linux-kernel", true, version),
        Some(("root", device)) => row("linux-root", device.starts_with("nvme"), device),
        Some((device, model)) if device.starts_with("nvme") => row("linux-nvme", true, model),
        _ if line.trim() == image::READY => row(
            "linux-ready",
            true,
            format!("{:.1} s from the first instruction", begun.elapsed().as_secs_f64()),
        ),
        _ => return None,
    })
}

/// Where this machine's processor runs kernels, and `/dev/kvm` is there, directly; else nested. Says which.
pub fn anywhere(programs: &Programs, limit: Duration) -> Result<Vec<Check>, Error> {
    let (name, kernels) = scenario::virtualisation();
    if kernels && scenario::missing().is_none() {
        let parts = Parts::locate(&parts::default_dir())?;
        let root = image::build(&parts, &parts::default_dir(), &mut |_| {})?;
        let mut rows = vec![row("linux-way", true, format!("directly: the processor has {name}"))];
        rows.extend(here(programs, parts.kernel(), &root, &[], limit)?);
        return Ok(rows);
    }
    let why = if kernels { "no /dev/kvm" } else { name };
    let mut rows = vec![row("linux-way", true, format!("nested in emulated SVM: here is {why}"))];
    rows.extend(nested(programs, limit)?);
    Ok(rows)
}

/// The same, inside an emulated machine with SVM.
pub fn nested(programs: &Programs, limit: Duration) -> Result<Vec<Check>, Error> {
    let parts = Parts::locate(&parts::default_dir())?;
    let root = image::build(&parts, &parts::default_dir(), &mut |_| {})?;
    let machine = Machine {
        memory_mib: 1536,
        modules: &MODULES,
        words: "",
        devices: &[],
        files: &[(KERNEL, parts.kernel()), (ROOT, &root)],
        programs: &[std::env::current_exe()?, programs.hypervisor(), programs.card()],
        command: "/bin/azote-guest --programs /bin linux --here /",
    };
    let mut said = machine.run(&parts, limit)?;
    let good = said.ended && said.checks.iter().any(|check| check.name == "linux-power-button");
    let text = said.text(good);
    said.checks.push(row("linux-nested", good, text));
    Ok(said.checks)
}

/// The kernel and the root image in a folder, as [`nested`] puts them.
pub fn files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join(KERNEL), folder.join(ROOT))
}
