//! Bringing up what hypervisors need, while the controller may still open files and start programs.

use super::{
    Hypervisors, Launcher, Source,
    accelerators::{Accelerators, Function},
    share,
    topology::Share,
};
use crate::{
    boot::{configuration::Configured, out_of_service},
    card::Image,
};
use host_api::{OutOfService, Sha256, Virtualisation};
use rustix::thread::{CpuSet, sched_setaffinity};
use service::process::Failure;
use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd},
    str::FromStr,
    sync::Arc,
};
use vfio::{AddressError, Claim, ClaimError, PciAddress};
use wire::{Fault, Link};

/// A function of the host's hardware, and what it is for.
#[derive(Debug, Clone)]
pub struct Passthrough {
    /// The family of instance types whose accelerator it is.
    family: &'static str,
    /// Where it is.
    address: PciAddress,
}

impl FromStr for Passthrough {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("write it like g4dn=0000:03:00.1")?;
        let family = instance_types::accelerated_families().find(|family| *family == name);
        let family = family.ok_or("no instance type of this family has accelerators")?;
        Ok(Self { family, address: address.parse().map_err(|error: AddressError| error.to_string())? })
    }
}

/// What was brought up.
#[derive(Debug)]
pub struct Facts {
    /// The hypervisor's program.
    pub image: Sha256,
    /// What the processor offers.
    pub virtualisation: Virtualisation,
    /// Whether no instance starts while anything is missing that keeps tenants apart.
    pub refuse_weaknesses: bool,
    /// What instances' registers say of what they start from.
    pub registers: Vec<nsm::Extension>,
}

/// What became of the hypervisors at boot.
pub enum Outcome {
    /// There are none.
    Absent,
    /// They can be started.
    Up(Box<(Hypervisors, Facts)>),
    /// The host must not be in service.
    Objection(Option<OutOfService>),
}

/// What hypervisors are started with, out of the store.
#[derive(Debug)]
pub struct Images {
    /// What starts hypervisors.
    pub launcher: Image,
    /// Their program.
    pub hypervisor: Image,
    /// The kernel of instances.
    pub kernel: Image,
    /// What that kernel starts with.
    pub ramdisk: Option<Image>,
}

/// Divides the machine, starts the launcher, and asks a first hypervisor what it finds.
pub fn bring_up(configured: &Configured, images: Option<Images>) -> Result<Outcome, Failure> {
    let Some(Images { launcher, hypervisor, kernel, ramdisk }) = images.filter(|_| configured.shared) else {
        return Ok(Outcome::Absent);
    };
    // A host that cannot do what its measured configuration says is not the host that was asked for; now nobody loses
    // an instance by it.
    let accelerators = match claim(&configured.passthrough) {
        Ok(accelerators) => accelerators,
        Err(error) => return Ok(Outcome::Objection(out_of_service(error.code(), &error.to_string()))),
    };
    let virtualisation = virtualisation();
    let kvm = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(kvm) if virtualisation != Virtualisation::None => kvm,
        other => {
            tracing::warn!(?other, "no KVM: instances run on the main board only");
            return Ok(Outcome::Absent);
        }
    };
    let share = share(configured.host_cores.into(), configured.guest_memory)?;
    stay(&share)?;
    let image = Sha256::from_digest(hypervisor.digest());
    let (bytes, disk) = (content(&kernel)?, ramdisk.as_ref().map(content).transpose()?);
    let registers = nsm::of_machine(&bytes, &configured.command_line, disk.as_deref());
    let source = Source {
        kvm: kvm.into(),
        kernel: kernel.into(),
        initrd: ramdisk.map(Into::into),
        command_line: configured.command_line.clone(),
    };
    let refuse_weaknesses = configured.refuse_weaknesses;
    let facts = Facts { image, virtualisation, refuse_weaknesses, registers };
    match start(&launcher, &hypervisor, source, share, accelerators, &facts) {
        Ok(hypervisors) => Ok(Outcome::Up(Box::new((hypervisors, facts)))),
        Err(error) => {
            let message = format!("no hypervisor can be started: {error}");
            Ok(Outcome::Objection(out_of_service("boot.hypervisor", &message)))
        }
    }
}

fn start(
    launcher: &Image,
    hypervisor: &Image,
    source: Source,
    share: Share,
    accelerators: Accelerators,
    facts: &Facts,
) -> Result<Hypervisors, Failure> {
    let (child, control) = launcher::start(launcher.as_fd(), hypervisor.as_fd())?;
    let mut launcher = Launcher::new(Link::new(control), Some(child))?;
    let mut weaknesses = Hypervisors::probe(&mut launcher)?.refused;
    if facts.virtualisation == Virtualisation::Other {
        weaknesses.push(Fault::new(
            "virtualisation.other",
            "the processor shows neither VMX nor SVM: use a server that has one of them, switched on in its setup",
        ));
    }
    Ok(Hypervisors::new(source, share, launcher, accelerators, weaknesses)?)
}

/// The bytes of an image.
fn content(image: &Image) -> io::Result<Vec<u8>> {
    fs::read(format!("/proc/self/fd/{}", image.as_fd().as_raw_fd()))
}

/// Takes the functions: from here on nobody else can.
fn claim(functions: &[Passthrough]) -> Result<Accelerators, ClaimError> {
    let claimed: Result<Vec<_>, _> = functions
        .iter()
        .map(|Passthrough { family, address }| {
            Claim::new(*address).map(|claim| (*family, Arc::new(claim) as Arc<dyn Function>))
        })
        .collect();
    claimed.map(Accelerators::new)
}

/// This process, and all that it starts, keep off the cores of instances.
fn stay(share: &Share) -> Result<(), Failure> {
    let mut cpus = CpuSet::new();
    share.host.iter().for_each(|cpu| cpus.set(*cpu as usize));
    Ok(sched_setaffinity(None, &cpus)?)
}

fn virtualisation() -> Virtualisation {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = fs::exists("/dev/kvm").unwrap_or(false);
    kind(&text, kvm)
}

/// What a processor offers: the flags of its first CPU.
fn kind(cpuinfo: &str, kvm: bool) -> Virtualisation {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    let has = |name| flags.is_some_and(|(_, flags)| flags.split_whitespace().any(|flag| flag == name));
    match (kvm, has("vmx"), has("svm")) {
        (false, ..) => Virtualisation::None,
        (true, true, _) => Virtualisation::Vmx,
        (true, false, true) => Virtualisation::Svm,
        (true, false, false) => Virtualisation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use token::{Ed25519KeyPair, PublicKey};

    #[test]
    fn the_kind_of_virtualisation_is_told_apart() {
        for (flags, kvm, kind_of) in [
            ("model name\t: vmx\nflags\t\t: fpu vmx sse\n", true, Virtualisation::Vmx),
            ("flags\t\t: fpu svm", true, Virtualisation::Svm),
            ("flags\t\t: fpu svmx vmxx", true, Virtualisation::Other),
            ("", true, Virtualisation::Other),
            ("flags\t\t: vmx", false, Virtualisation::None),
        ] {
            assert_eq!(kind(flags, kvm), kind_of, "{flags}");
        }
    }

    #[test]
    fn a_function_of_the_hosts_hardware_is_for_a_family_that_has_some() {
        let given: Passthrough = "g4dn=0000:03:00.1".parse().unwrap();
        assert_eq!((given.family, given.address.to_string().as_str()), ("g4dn", "0000:03:00.1"));
        for bad in ["", "g4dn", "g4dn=", "g4dn=03:00.1", "t3=0000:03:00.1", "g4dn.xlarge=0000:03:00.1"] {
            bad.parse::<Passthrough>().unwrap_err();
        }
        let nowhere = "g5=ffff:ff:1f.7".parse().unwrap();
        assert_eq!(claim(&[nowhere]).unwrap_err().code(), "passthrough.absent");
    }

    #[test]
    fn a_host_without_a_function_that_it_is_to_have_is_out_of_service() {
        let image = || Image::new(memfd_create("empty", MemfdFlags::CLOEXEC).unwrap(), [0; 32]);
        let images = Images { launcher: image(), hypervisor: image(), kernel: image(), ramdisk: None };
        let key = String::from(PublicKey::of(&Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()));
        let text = format!("shared=yes\npassthrough=g5=ffff:ff:1f.7\ntoken-keys={key}\n");
        let configured = Configured::parse(&text).unwrap();
        let outcome = bring_up(&configured, Some(images)).unwrap();
        let Outcome::Objection(Some(reason)) = outcome else { panic!("it came up") };
        assert_eq!(reason.code.as_str(), "passthrough.absent");
        assert!(reason.message.as_str().contains("ffff:ff:1f.7"), "{}", reason.message);
        assert!(matches!(bring_up(&configured, None).unwrap(), Outcome::Absent));
    }
}
