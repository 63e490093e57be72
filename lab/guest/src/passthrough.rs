//! A function of the host's hardware in the self-checking guest and in Debian: in an emulated machine with an IOMMU and an NVMe
//! function that has virtual functions, by Debian's kernel and its VFIO.

use crate::{
    Error, IMAGE,
    admin::Controller,
    linux::{self, Hardware, KERNEL, MODULES, ROOT},
    nested::Machine,
    report::{Check, Line, Verdict},
    rig::{Rig, Size, sealed},
    scenario::{Programs, row},
};
use parts::Parts;
use rustix::{
    fs::{Mode, OFlags, open},
    io::read,
    process::{Resource, Rlimit, setrlimit},
};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use vfio::{Claim, Descriptors, PciAddress};
use wire::hypervisor::{Request, State};

/// What makes a host of the emulated machine, after what [`MODULES`] does.
const VFIO: [&str; 5] = [
    "kernel/drivers/vfio/vfio.ko",
    "kernel/drivers/vfio/vfio_virqfd.ko",
    "kernel/drivers/vfio/vfio_iommu_type1.ko",
    "kernel/drivers/vfio/pci/vfio-pci-core.ko",
    "kernel/drivers/vfio/pci/vfio-pci.ko",
];
/// Where the function is in the emulated machine, its virtual function, one with a large BAR, and one that shares its
/// group with others.
const PHYSICAL: &str = "0000:01:00.0";
const VIRTUAL: &str = "0000:01:00.1";
const LARGE: &str = "0000:02:00.0";
const NOT_ALONE: &str = "0000:00:1f.2";
/// Bytes of the function's storage.
const STORAGE: u64 = 64 << 20;
/// Bytes of the large BAR, what the guest writes to its first word, and to its last.
const LARGE_BAR: u64 = 32 << 30;
const FIRST: u32 = 0x1234_5678;
const LAST: u32 = 0xcafe_babe;
/// What is typed into Debian's shell: a random megabyte is written to the virtual function and read back from it, not
/// from what the guest remembers.
const DISK: &str = "until n=$(grep -l QEMU /sys/class/nvme/*/model) && d=/dev/$(basename ${n%/model})n1 && [ -b $d ]; \
    do sleep 0.1; done; dd if=/dev/urandom of=/tmp/a bs=64k count=16 && dd if=/tmp/a of=$d bs=64k conv=fsync && \
    echo 3 >/proc/sys/vm/drop_caches && cmp -n 1048576 /tmp/a $d && echo azote-guest: hardware $(xargs <$n)";
/// Queue pairs and interrupts of the virtual function: one for administration, two for the guest's work.
const QUEUES: u32 = 3;
/// What the guest does with it.
const WORK: [&str; 7] =
    ["pci", "pci-bars", "nvme", "nvme-data", "nvme-queues", "nvme-interrupts", "nvme-reset"];
/// The guest's first check: its other waits are by the timer that it measures. Not told: emulated clocks are not exact.
const TIMER: &str = "timer";
/// The slot of a function that is there from the start, and of one that comes later.
const BOOT_SLOT: u8 = 3;
const LATER_SLOT: u8 = 7;
/// A guest may take as long as this: each of its exits is one of the emulated machine's, several times over.
const LIMIT: Duration = Duration::from_secs(180);

/// All of it, in an emulated machine.
pub fn nested(programs: &Programs, limit: Duration) -> Result<Vec<Check>, Error> {
    let parts = Parts::locate(&parts::default_dir())?;
    let root = image::build(&parts, &parts::default_dir(), &mut |_| {})?;
    let storage = tempfile::NamedTempFile::new()?;
    storage.as_file().set_len(STORAGE)?;
    let large = tempfile::NamedTempFile::new()?;
    large.as_file().set_len(LARGE_BAR)?;
    let memory =
        format!("memory-backend-file,id=large,size={LARGE_BAR},share=on,mem-path={}", large.path().display());
    let drive = format!("file={},if=none,format=raw,id=storage", storage.path().display());
    let devices = [
        ["-device", "intel-iommu,intremap=on,snoop-control=on"],
        ["-device", "pcie-root-port,id=root,chassis=1,slot=1"],
        ["-device", "nvme-subsys,id=subsystem"],
        // One virtual function, and queues and interrupts for both.
        [
            "-device",
            "nvme,id=nvme,bus=root,serial=azote,subsys=subsystem,max_ioqpairs=6,msix_qsize=6,\
             sriov_max_vfs=1,sriov_vq_flexible=3,sriov_vi_flexible=3",
        ],
        ["-device", "pcie-root-port,id=next,chassis=2,slot=2,pref64-reserve=64G"],
        ["-object", &memory],
        ["-device", "ivshmem-plain,memdev=large,bus=next"],
        ["-drive", &drive],
        ["-device", "nvme-ns,drive=storage,bus=nvme,nsid=1"],
    ];
    let machine = Machine {
        memory_mib: 1536,
        modules: &[MODULES.as_slice(), &VFIO].concat(),
        words: "intel_iommu=on",
        devices: &devices.concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(),
        files: &[(KERNEL, parts.kernel()), (ROOT, &root)],
        programs: &[std::env::current_exe()?, programs.hypervisor(), programs.card()],
        command: "/bin/azote-guest --programs /bin passthrough --here",
    };
    let said = machine.run(&parts, limit)?;
    let mut rows = vec![row("passthrough-way", true, "in an emulated machine with VT-d, SVM and SR-IOV")];
    let good = said.ended && said.checks.iter().any(|check| check.name == "linux-power-button");
    let text = said.text(good);
    rows.extend(said.checks);
    let word = |at| {
        let mut word = [0; 4];
        large.as_file().read_exact_at(&mut word, at).map(|()| u32::from_le_bytes(word))
    };
    let ends = [word(0)?, word(LARGE_BAR - 4)?];
    let told =
        format!("both ends of a BAR of {} GiB hold {:#x} and {:#x}", LARGE_BAR >> 30, ends[0], ends[1]);
    rows.push(row("passthrough-large", ends == [FIRST, LAST], told));
    rows.push(row("passthrough-nested", good, text));
    Ok(rows)
}

/// All of it, on this machine, which must be the emulated one; `said` hears of each check.
pub fn here(programs: &Programs, said: &mut dyn FnMut(&Check)) -> Result<Vec<Check>, Error> {
    let mut rows = Vec::new();
    let mut add = |checks: Vec<Check>| {
        checks.iter().for_each(&mut *said);
        rows.extend(checks);
    };
    // As the launcher starts hypervisors, which have no privilege by which they could lock memory without a limit.
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    let mut refused = vec![code(PHYSICAL), code(NOT_ALONE)];
    bind(PHYSICAL, "vfio-pci")?;
    let claim = Claim::new(address(PHYSICAL)?)?;
    let mut first = Guest::start(programs, &WORK, Some(&claim))?;
    refused.push(claim.connect().map_or_else(|error| error.code(), |_| "none").to_owned());
    let wanted = ["passthrough.driver", "passthrough.shared", "passthrough.busy"];
    add(vec![row("passthrough-refused", refused == wanted, refused.join(", "))]);
    add(first.finish(&mut |_, request| unexpected(request))?);
    add(vec![first.direct()?]);
    drop(first);
    add(outside(programs, &claim)?);
    add(killed(programs, &claim)?);
    add(come_and_go(programs, claim)?);
    let claim = virtual_function()?;
    add(vec![work(programs, &claim)?]);
    let (kernel, root) = linux::files(Path::new("/"));
    bind(LARGE, "vfio-pci")?;
    let large = Claim::new(address(LARGE)?)?;
    let hardware = [
        Hardware { name: "linux-hardware", claim: &claim, typed: DISK },
        Hardware { name: "linux-large-bar", claim: &large, typed: &write_large() },
    ];
    add(linux::here(programs, &kernel, &root, &hardware, LIMIT)?);
    Ok(rows)
}

/// What is typed to write to both ends of the large BAR, which is the function's third.
fn write_large() -> String {
    let function = format!("/sys/bus/pci/devices/0000:00:{:02x}.0", linux::LATER_SLOT);
    format!(
        "f={function}; until [ -d $f ]; do sleep 0.1; done; echo 1 >$f/enable; \
         set -- $(sed -n 3p $f/resource); e=$(printf 0x%x $(($2-3))); \
         devmem $1 32 {FIRST} && devmem $e 32 {LAST} && echo azote-guest: hardware $(devmem $1) $(devmem $e)"
    )
}

fn unexpected(request: &str) -> Result<(), Error> {
    Err(Error::Unexpected(format!("the guest asks for {request:?}")))
}

fn address(text: &str) -> Result<PciAddress, Error> {
    text.parse().map_err(|_| Error::Unexpected(text.to_owned()))
}

/// Why a function is not taken.
fn code(function: &str) -> String {
    let claim = address(function).map(Claim::new);
    claim.map_or_else(
        |error| error.to_string(),
        |claim| claim.map_or_else(|e| e.code(), |_| "none").to_owned(),
    )
}

/// Gives a function to a driver of the emulated machine. One that has it already keeps it: Linux 6.1's NVMe driver hangs
/// if it is taken off while it still looks at what it was just given, which takes long on a busy machine.
fn bind(function: &str, driver: &str) -> Result<(), Error> {
    let folder = Path::new("/sys/bus/pci/devices").join(function);
    if fs::read_link(folder.join("driver")).is_ok_and(|present| present.ends_with(driver)) {
        return Ok(());
    }
    fs::write(folder.join("driver_override"), driver)?;
    if folder.join("driver").exists() {
        fs::write(folder.join("driver/unbind"), function)?;
    }
    Ok(fs::write("/sys/bus/pci/drivers_probe", function)?)
}

/// A running guest.
struct Guest {
    rig: Rig,
    begun: Instant,
    /// How many checks it is to make.
    wanted: usize,
}

impl Guest {
    fn start(programs: &Programs, only: &[&str], claim: Option<&Claim>) -> Result<Self, Error> {
        let mut rig = Rig::start(&programs.hypervisor())?;
        rig.passthrough = true;
        let words: String =
            only.iter().fold(format!("only={TIMER}"), |words, check| words + " only=" + check);
        rig.create(&Size { cpus: 1, memory_mib: 64 }, &words, &sealed("guest", IMAGE)?, None)?;
        if let Some(claim) = claim {
            give(&rig, BOOT_SLOT, claim)?;
        }
        rig.ask(&Request::Resume, &[])?;
        Ok(Self { rig, begun: Instant::now(), wanted: only.len() })
    }

    /// Its checks, and what it asks for done by `serve`, until it turns itself off.
    fn finish(
        &mut self,
        serve: &mut dyn FnMut(&Rig, &str) -> Result<(), Error>,
    ) -> Result<Vec<Check>, Error> {
        let (mut checks, mut ended) = (Vec::new(), false);
        loop {
            let state = self.rig.statistics()?.state;
            for line in self.rig.lines()? {
                match Line::parse(&line) {
                    Line::Check(check) if check.name == TIMER => {}
                    Line::Check(check) => checks.push(check),
                    Line::Request(request) => serve(&self.rig, &request)?,
                    Line::End(_) => ended = true,
                    Line::Other(_) => {}
                }
            }
            if state != State::Running || self.begun.elapsed() > LIMIT {
                if !ended || state != State::Off || checks.len() != self.wanted {
                    let text = format!("{state:?} after {} of {} checks", checks.len(), self.wanted);
                    checks.push(row("passthrough-guest", false, text));
                }
                return Ok(checks);
            }
            sleep(Duration::from_millis(20));
        }
    }
}

impl Guest {
    /// The function's registers are in the guest's own memory space: thousands of commands, and few of the guest's
    /// accesses were exits.
    fn direct(&self) -> Result<Check, Error> {
        let exits: u64 = self.rig.statistics()?.cpus.iter().map(|cpu| cpu.mmio_read + cpu.mmio_write).sum();
        Ok(row("passthrough-direct", exits < 1000, format!("{exits} exits by registers in all")))
    }
}

/// Puts the function into a slot.
pub(crate) fn give(rig: &Rig, slot: u8, claim: &Claim) -> Result<(), Error> {
    let Descriptors { container, device } = claim.connect()?;
    rig.ask(&Request::Passthrough { slot }, &[&container, &device])
}

/// The function is told to write where the guest has no memory: the IOMMU says that it has stopped it.
fn outside(programs: &Programs, claim: &Claim) -> Result<Vec<Check>, Error> {
    let before = faults()?.len();
    let mut guest = Guest::start(programs, &["nvme-hostile"], Some(claim))?;
    guest.finish(&mut |_, request| unexpected(request))?;
    let faults = faults()?;
    let text = faults.get(before).cloned().unwrap_or_else(|| "nothing was stopped".to_owned());
    Ok(vec![row("passthrough-outside", faults.len() > before, text)])
}

/// What the kernel has logged of DMA that its IOMMU stopped.
fn faults() -> Result<Vec<String>, Error> {
    let log = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let (mut found, mut record) = (Vec::new(), [0; 8192]);
    while let Ok(count @ 1..) = read(&log, &mut record) {
        let text = String::from_utf8_lossy(&record[..count]).into_owned();
        let text = text.split_once(';').map_or("", |(_, text)| text.trim());
        if text.contains("DMAR") && text.contains("fault addr") {
            found.push(text.lines().next().unwrap_or_default().to_owned());
        }
    }
    Ok(found)
}

/// The process is killed in the middle of its work: the next one finds the function as if nothing had been.
fn killed(programs: &Programs, claim: &Claim) -> Result<Vec<Check>, Error> {
    let guest = Guest::start(programs, &["nvme-queues"], Some(claim))?;
    sleep(Duration::from_secs(1));
    drop(guest);
    // The memory of the one that is gone is held until then.
    claim.release()?;
    let checks =
        Guest::start(programs, &["nvme"], Some(claim))?.finish(&mut |_, request| unexpected(request))?;
    let good = checks.iter().all(|check| check.verdict == Verdict::Ok);
    Ok(vec![row("passthrough-killed", good, format!("the next machine finds {}", told(&checks)))])
}

fn told(checks: &[Check]) -> String {
    checks.iter().map(|check| check.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// The function comes and goes: asked back, pulled out, and taken by the host.
fn come_and_go(programs: &Programs, claim: Claim) -> Result<Vec<Check>, Error> {
    let mut unbinding = None;
    let mut guest = Guest::start(programs, &["hotplug", "hotplug-surprise"], None)?;
    let checks = guest.finish(&mut |rig, request| match request {
        "attach" => give(rig, LATER_SLOT, &claim),
        "detach" => rig.ask(&Request::Detach { slot: LATER_SLOT, force: false }, &[]),
        "pull" => rig.ask(&Request::Detach { slot: LATER_SLOT, force: true }, &[]),
        "lose" => {
            // It returns when the function is free.
            unbinding = Some(std::thread::spawn(|| bind(PHYSICAL, "nvme")));
            Ok(())
        }
        other => unexpected(other),
    })?;
    drop(guest);
    drop(claim);
    if let Some(Ok(bound)) = unbinding.map(std::thread::JoinHandle::join) {
        bound?;
    }
    Ok(checks)
}

/// A virtual function: its command register is the kernel's invention, its identity its parent's.
fn virtual_function() -> Result<Claim, Error> {
    bind(PHYSICAL, "nvme")?;
    let physical = Path::new("/sys/bus/pci/devices").join(PHYSICAL);
    let parent = live(&physical)?;
    parent.release()?;
    fs::write(controller(&physical)?.join("reset_controller"), "1")?;
    let parent = live(&physical)?;
    fs::write(physical.join("sriov_drivers_autoprobe"), "0")?;
    fs::write(physical.join("sriov_numvfs"), "1")?;
    parent.start_secondary(QUEUES)?;
    bind(VIRTUAL, "vfio-pci")?;
    Ok(Claim::new(address(VIRTUAL)?)?)
}

/// All that the guest does with the physical function, with this one.
fn work(programs: &Programs, claim: &Claim) -> Result<Check, Error> {
    let mut guest = Guest::start(programs, &WORK, Some(claim))?;
    let checks = guest.finish(&mut |_, request| unexpected(request))?;
    let good = checks.iter().all(|check| check.verdict == Verdict::Ok);
    Ok(row("passthrough-virtual", good, told(&checks)))
}

/// The folder of the controller that the kernel's driver has made of a function.
fn controller(function: &Path) -> Result<PathBuf, Error> {
    let found = fs::read_dir(function.join("nvme")).ok().and_then(|mut all| all.next());
    Ok(found.ok_or_else(|| Error::Unexpected("no controller".to_owned()))??.path())
}

/// The same controller, when it works.
fn live(function: &Path) -> Result<Controller, Error> {
    let begun = Instant::now();
    loop {
        if let Ok(folder) = controller(function)
            && fs::read_to_string(folder.join("state")).is_ok_and(|state| state.trim() == "live")
        {
            let name = folder.file_name().unwrap_or_default();
            return Ok(Controller::open(&Path::new("/dev").join(name))?);
        }
        if begun.elapsed() > LIMIT {
            return Err(Error::Unexpected("the controller does not come to life".to_owned()));
        }
        sleep(Duration::from_millis(20));
    }
}
