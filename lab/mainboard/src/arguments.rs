//! QEMU's command line.

use crate::board::Functions;
use ids::Slot;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs::{self, File},
    path::Path,
};

/// Where on the root bus the way to SPI and I²C is.
const BUSES: &str = "0x1d";

/// What executes the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// Translation: the processor has no virtualisation.
    TcgNoProcessor,
    /// Translation: the processor has virtualisation, and this process may not use it.
    TcgNoAccess,
}

impl Accelerator {
    /// What this machine can do. `/dev/kvm` alone proves nothing: kernels exist that offer it without the
    /// processor's help, and they do not run an unmodified guest.
    pub fn of_this_machine() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let device = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
        match has_virtualisation(&processor) {
            false => Self::TcgNoProcessor,
            true if device() => Self::Kvm,
            true => Self::TcgNoAccess,
        }
    }

    /// `kvm` or `tcg`.
    pub fn name(self) -> &'static str {
        if self == Self::Kvm { "kvm" } else { "tcg" }
    }

    /// Why, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Kvm => "the processor has vmx or svm, and /dev/kvm opens",
            Self::TcgNoProcessor => "the processor shows neither vmx nor svm",
            Self::TcgNoAccess => "the processor has vmx or svm, but /dev/kvm does not open for this user",
        }
    }

    /// The processor that the guest sees. Five-level page tables cost translation a step for nothing.
    fn processor(self) -> &'static str {
        if self == Self::Kvm { "host" } else { "max,la57=off" }
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// What the machine is made of.
#[derive(Debug, Clone)]
pub(crate) struct Hardware<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) firmware: &'a Path,
    pub(crate) buses: Option<&'a Path>,
    pub(crate) memory: u32,
    pub(crate) cpus: u8,
    pub(crate) functions: &'a Functions,
}

/// A PCI function as QEMU's `-device` and `device_add` take it.
pub(crate) fn function(slot: Slot, socket: &Path) -> Value {
    json!({
        "driver": "vfio-user-pci",
        "id": format!("function{slot}"),
        "bus": format!("slot{slot}"),
        "socket": { "type": "unix", "path": socket },
    })
}

/// QEMU's arguments for a machine that waits, processors held, for `cont` on the QMP socket `qmp`. The guest's
/// serial port is standard input and output.
pub(crate) fn arguments(hardware: &Hardware<'_>, qmp: &Path) -> Vec<OsString> {
    let Hardware { accelerator, memory, cpus, .. } = hardware;
    let mut all: Vec<OsString> = ["-S", "-nodefaults", "-no-user-config"].map(Into::into).into();
    let mut add = |name: &str, value: &str| all.extend([name.into(), value.into()]);
    add("-name", "azote-mainboard");
    add("-display", "none");
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    // A reset must end this QEMU: only a fresh one reads the flash from the chip again.
    add("-action", "reboot=shutdown,shutdown=pause");
    add("-accel", accelerator.name());
    add("-cpu", accelerator.processor());
    add("-smp", &cpus.to_string());
    add("-m", &format!("{memory}M"));
    add("-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    add("-machine", "q35,memory-backend=memory,pflash0=code,pflash1=variables");
    for region in ["code", "variables"] {
        let server = json!({ "type": "unix", "path": hardware.firmware });
        let flash = json!({ "driver": "nbd", "node-name": region, "export": region, "server": server });
        add("-blockdev", &flash.to_string());
    }
    for slot in 1..=u8::from(Slot::HOST) {
        // So many ports' worth of I/O space does not exist, and no card uses any.
        add(
            "-device",
            &format!("pcie-root-port,id=slot{slot},chassis={slot},slot={slot},addr={slot:#x},io-reserve=0"),
        );
    }
    for (order, (slot, socket)) in hardware.functions.iter().enumerate() {
        let mut device = function(*slot, socket);
        if order == 0 && *slot != Slot::HOST {
            device["bootindex"] = json!(0);
        }
        add("-device", &device.to_string());
    }
    if let Some(socket) = hardware.buses {
        let socket = json!({ "type": "unix", "path": socket });
        let device = json!({ "driver": "vfio-user-pci", "id": "buses", "bus": "pcie.0", "addr": BUSES, "socket": socket });
        add("-device", &device.to_string());
    }
    add("-smbios", "type=0,vendor=Amazon EC2,version=1.0,uefi=on");
    add("-smbios", "type=1,manufacturer=Amazon EC2,product=azote-lab");
    add("-smbios", "type=3,manufacturer=Amazon EC2");
    add("-serial", "stdio");
    let mut monitor = OsString::from("unix:");
    monitor.push(qmp.to_string_lossy().replace(',', ",,"));
    monitor.push(",server=off");
    all.extend(["-qmp".into(), monitor]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn virtualisation_is_read_from_the_flags_alone() {
        assert!(has_virtualisation("model name\t: svm\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags\t\t: fpu svm"));
        for text in ["", "flags\t\t: fpu vmxx", "model name\t: vmx\nflags\t\t: fpu"] {
            assert!(!has_virtualisation(text), "{text}");
        }
    }

    #[test]
    fn functions_sit_in_their_slots_and_the_lowest_is_booted_from() {
        let slot = |n: u8| Slot::try_from(n).unwrap();
        let functions: Functions =
            [(slot(9), PathBuf::from("/run/b,c.sock")), (slot(2), PathBuf::from("/run/a.sock"))].into();
        let hardware = Hardware {
            accelerator: Accelerator::TcgNoProcessor,
            firmware: Path::new("/run/firmware"),
            buses: Some(Path::new("/run/buses")),
            memory: 256,
            cpus: 1,
            functions: &functions,
        };
        let devices: Vec<Value> = arguments(&hardware, Path::new("/run/qmp"))
            .iter()
            .filter_map(|argument| serde_json::from_str(argument.to_str()?).ok())
            .filter(|device: &Value| device["driver"] == "vfio-user-pci")
            .collect();
        let seen: Vec<_> =
            devices.iter().map(|d| (&d["bus"], &d["socket"]["path"], &d["bootindex"])).collect();
        assert_eq!(
            seen,
            [
                (&json!("slot2"), &json!("/run/a.sock"), &json!(0)),
                (&json!("slot9"), &json!("/run/b,c.sock"), &Value::Null),
                (&json!("pcie.0"), &json!("/run/buses"), &Value::Null)
            ]
        );
    }
}
