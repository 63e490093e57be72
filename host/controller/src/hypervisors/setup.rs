//! Bringing up what hypervisors need, while the controller may still open files and start programs.

use super::{
    Hypervisors, Launcher, Source,
    accelerators::{Accelerators, Function},
    share,
    topology::Share,
};
use crate::{
    boot::{Boot, KnownGood, Register, out_of_service},
    card::Image,
};
use clap::ValueEnum;
use host_api::{OutOfService, Sha256, Virtualisation};
use rustix::thread::{CpuSet, sched_setaffinity};
use service::process::Failure;
use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};
use vfio::{AddressError, Claim, ClaimError, PciAddress};
use wire::{Fault, Link};

/// What a host is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Environment {
    /// Other people's work: no instance starts while anything is missing that keeps tenants apart.
    Production,
    /// What is missing is told with every instance.
    Laboratory,
}

/// What instances run on that share the host.
#[derive(Debug, clap::Args)]
pub struct Guests {
    /// The hypervisor's program; without it, the only instances are those that get the whole main board
    #[arg(long, value_name = "FILE", requires_all = ["launcher", "kernel"])]
    pub hypervisor: Option<PathBuf>,
    /// The program that starts hypervisors
    #[arg(long, value_name = "FILE")]
    pub launcher: Option<PathBuf>,
    /// The kernel that instances start with; its hash must be in the known-good set
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk; its hash must be in the known-good set
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "root=/dev/nvme0n1p2 rw rootwait console=ttyS0 quiet panic=-1 reboot=t"
    )]
    pub command_line: String,
    /// Guest memory to set aside in large pages; without it, the large pages that are there
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub guest_memory: u64,
    /// Whole cores that the host keeps for itself
    #[arg(long, value_name = "CORES", default_value_t = 1)]
    pub host_cores: u16,
    /// The hardware function that is an accelerator of this family of instance types, as g4dn=0000:03:00.1;
    /// once for each function
    #[arg(long, value_name = "FAMILY=ADDRESS", requires = "hypervisor")]
    pub passthrough: Vec<Passthrough>,
    /// Whether an instance may start where tenants cannot be kept apart
    #[arg(long, value_enum, default_value_t = Environment::Laboratory)]
    pub environment: Environment,
}

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
    /// What the host is used for.
    pub environment: Environment,
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

/// Everything that an operator can set here and that changes what the host runs.
pub fn configuration(options: &Guests) -> String {
    let Guests { command_line, guest_memory, host_cores, passthrough, environment, .. } = options;
    let functions: String = passthrough
        .iter()
        .map(|Passthrough { family, address }| format!("passthrough={family}={address}\n"))
        .collect();
    format!(
        "command-line={command_line}\nguest-memory={guest_memory}\nhost-cores={host_cores}\n{functions}environment={environment:?}\n"
    )
}

/// Measures, verifies, divides the machine, starts the launcher, and asks a first hypervisor what it finds.
pub fn bring_up<R: Register>(
    options: &Guests,
    boot: &mut Boot<R>,
    known_good: &KnownGood,
) -> Result<Outcome, Failure> {
    let (Some(hypervisor), Some(launcher), Some(kernel)) =
        (&options.hypervisor, &options.launcher, &options.kernel)
    else {
        return Ok(Outcome::Absent);
    };
    let mut image = |what: &str, path: &PathBuf| -> Result<Image, Failure> {
        let image = Image::read(path, what).map_err(|error| format!("{}: {error}", path.display()))?;
        boot.measure_digest(what, *image.digest())?;
        Ok(image)
    };
    let (launcher, hypervisor) = (image("launcher", launcher)?, image("hypervisor", hypervisor)?);
    let kernel = image("guest kernel", kernel)?;
    let initrd = options.initrd.as_ref().map(|path| image("guest RAM disk", path)).transpose()?;
    let unknown = |image: &&Image| known_good.name_of(&Sha256::from_digest(image.digest())).is_none();
    if let Some(image) = [Some(&kernel), initrd.as_ref()].into_iter().flatten().find(unknown) {
        let hash = Sha256::from_digest(image.digest());
        let message =
            format!("guest kernel or RAM disk {hash} is not in the known-good set: install one that is");
        return Ok(Outcome::Objection(out_of_service("boot.kernel", &message)));
    }
    // A host that cannot do what its measured configuration says is not the host that was asked for; now nobody loses
    // an instance by it.
    let accelerators = match claim(&options.passthrough) {
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
    let share = share(options.host_cores.into(), options.guest_memory)?;
    stay(&share)?;
    let image = Sha256::from_digest(hypervisor.digest());
    let source = Source {
        kvm: kvm.into(),
        kernel: kernel.into(),
        initrd: initrd.map(Into::into),
        command_line: options.command_line.clone(),
    };
    let facts = Facts { image, virtualisation, environment: options.environment };
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

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        guests: Guests,
    }

    #[test]
    fn functions_of_the_hosts_hardware_are_measured() {
        let words = ["azote-controller", "--hypervisor=h", "--launcher=l", "--kernel=k"];
        let measured = |more: &[&str]| {
            let words = words.iter().chain(more);
            configuration(&<Words as clap::Parser>::try_parse_from(words).unwrap().guests)
        };
        let (one, other) = ("--passthrough=g4dn=0000:03:00.1", "--passthrough=g5=0000:03:00.2");
        let with = measured(&[one, other]);
        assert!(with.contains("passthrough=g4dn=0000:03:00.1\npassthrough=g5=0000:03:00.2\n"), "{with}");
        assert!(!measured(&[]).contains("passthrough"));
        assert!(<Words as clap::Parser>::try_parse_from(["azote-controller", one]).is_err());
    }

    struct Nothing;

    impl Register for Nothing {
        fn extend(&mut self, _: [u8; 32]) -> Result<(), tpm::Error> {
            Ok(())
        }

        fn value(&mut self) -> Result<[u8; 32], tpm::Error> {
            Ok([0; 32])
        }
    }

    #[test]
    fn a_host_without_a_function_that_it_is_to_have_is_out_of_service() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let words = ["azote-controller".to_owned(), "--passthrough=g5=ffff:ff:1f.7".to_owned()];
        let files = ["hypervisor", "launcher", "kernel"].map(|what| format!("--{what}={path}"));
        let words = words.into_iter().chain(files);
        let guests = <Words as clap::Parser>::try_parse_from(words).unwrap().guests;
        let known_good = format!("{}  a kernel", Sha256::from_digest(&crate::boot::sha256(&[])));
        let known_good = KnownGood::parse(&known_good).unwrap();
        let outcome = bring_up(&guests, &mut Boot::new(Nothing), &known_good).unwrap();
        let Outcome::Objection(Some(reason)) = outcome else { panic!("it came up") };
        assert_eq!(reason.code.as_str(), "passthrough.absent");
        assert!(reason.message.as_str().contains("ffff:ff:1f.7"), "{}", reason.message);
    }
}
