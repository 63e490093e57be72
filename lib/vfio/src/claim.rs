//! Takes a function for use by virtual machines.

use crate::{PciAddress, sys};
use rustix::{
    fs::{Mode, OFlags, open},
    io::{Errno, fcntl_dupfd_cloexec},
};
use std::{
    ffi::CString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The driver that leaves a function to VFIO.
const DRIVER: &str = "vfio-pci";

/// Why a function cannot be given to a virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// No such function.
    #[error("there is no PCI function {0}: `lspci -D` lists them")]
    Absent(PciAddress),
    /// No IOMMU is in front of it.
    #[error("no IOMMU is in front of {0}: turn it on in the firmware and on the kernel's command line")]
    NoIommu(PciAddress),
    /// Another function could reach it, or be reached, behind the IOMMU's back.
    #[error("{0} cannot be isolated from {1}: they are in one IOMMU group")]
    Shared(PciAddress, String),
    /// A driver of the host has it.
    #[error("{0} is not bound to vfio-pci: its driver is {1}")]
    Driver(PciAddress, String),
    /// The kernel was told to let interrupts through that the function makes up.
    #[error(
        "{0} could raise interrupts that are not its own: unload vfio_iommu_type1 and load it without allow_unsafe_interrupts"
    )]
    Interrupts(PciAddress),
    /// Someone has it.
    #[error("{0} is in use")]
    Busy(PciAddress),
    /// DMA would bypass the processors' caches.
    #[error("the IOMMU in front of {0} does not keep DMA in step with the caches")]
    Incoherent(PciAddress),
    /// The system refused.
    #[error("the system refused to {what} {address}: {error}")]
    System {
        /// Which function.
        address: PciAddress,
        /// What was tried.
        what: &'static str,
        /// Its answer. `EPERM` on giving it an IOMMU: its interrupts are not isolated (interrupt remapping).
        error: Errno,
    },
}

impl ClaimError {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent(_) => "passthrough.absent",
            Self::NoIommu(_) => "passthrough.no-iommu",
            Self::Shared(..) => "passthrough.shared",
            Self::Driver(..) => "passthrough.driver",
            Self::Interrupts(_) => "passthrough.interrupts",
            Self::Busy(_) => "passthrough.busy",
            Self::Incoherent(_) => "passthrough.incoherent",
            Self::System { .. } => "passthrough.system",
        }
    }
}

/// What a virtual machine's process needs of a function, and nobody else must keep.
#[derive(Debug)]
pub struct Descriptors {
    /// For [`crate::Container::new`].
    pub container: OwnedFd,
    /// For [`crate::Device::new`].
    pub device: OwnedFd,
}

/// A function that nobody else in this machine can take while this is held. Only [`Claim::new`] opens paths.
#[derive(Debug)]
pub struct Claim {
    address: PciAddress,
    container: OwnedFd,
    group: OwnedFd,
}

impl Claim {
    /// Takes a function that stands alone in its IOMMU group and is bound to `vfio-pci`.
    pub fn new(address: PciAddress) -> Result<Self, ClaimError> {
        let group = group(Path::new("/sys"), address)?;
        let open = |name: &Path, what| {
            let path = Path::new("/dev/vfio").join(name);
            open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed(address, what))
        };
        let container = open(Path::new("vfio"), "open a container for")?;
        let group = open(&group, "open the group of")?;
        let mut status = sys::GroupStatus::default();
        sys::ask(&group, sys::GROUP_GET_STATUS, &mut status).map_err(failed(address, "look at"))?;
        if status.flags & sys::GROUP_VIABLE == 0 {
            return Err(ClaimError::Driver(address, "one of the host's".to_owned()));
        }
        Ok(Self { address, container, group })
    }

    /// Which function it is.
    pub const fn address(&self) -> PciAddress {
        self.address
    }

    /// Takes the function back from a virtual machine whose process is gone, and lets go of the memory that was mapped
    /// for it. [`ClaimError::Busy`] until the kernel has closed the last copy of the device's descriptor.
    pub fn release(&self) -> Result<(), ClaimError> {
        match sys::leave_container(&self.group) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(failed(self.address, "take back")(error)),
        }
    }

    /// Descriptors for one virtual machine, with nothing mapped. To be handed over and not kept: when the last copy of
    /// the device's is closed the kernel resets the function, and it can be connected again. Until then it is
    /// [`ClaimError::Busy`]. The process that had them before must be gone: with the container it could reach into the next
    /// one's. Makes no call but `ioctl` and `fcntl` (`F_DUPFD_CLOEXEC`).
    pub fn connect(&self) -> Result<Descriptors, ClaimError> {
        let address = self.address;
        self.release()?;
        let step = |what| failed(address, what);
        sys::enter_container(&self.group, &self.container).map_err(step("open a container for"))?;
        sys::set_iommu(&self.container, sys::TYPE1_V2).map_err(step("give an IOMMU to"))?;
        if !sys::has_extension(&self.container, sys::COHERENT).map_err(step("look at the IOMMU of"))? {
            return Err(ClaimError::Incoherent(address));
        }
        let name = CString::new(address.to_string()).map_err(|_| ClaimError::Absent(address))?;
        let device = sys::device(&self.group, &name).map_err(step("open"))?;
        let container = fcntl_dupfd_cloexec(&self.container, 0).map_err(step("hand over"))?;
        Ok(Descriptors { container, device })
    }
}

fn failed(address: PciAddress, what: &'static str) -> impl Fn(Errno) -> ClaimError {
    move |error| match error {
        Errno::BUSY => ClaimError::Busy(address),
        error => ClaimError::System { address, what, error },
    }
}

/// The number of the function's IOMMU group, in which it must be alone and with VFIO.
fn group(sysfs: &Path, address: PciAddress) -> Result<PathBuf, ClaimError> {
    let function = sysfs.join("bus/pci/devices").join(address.to_string());
    if !function.exists() {
        return Err(ClaimError::Absent(address));
    }
    let link = |name: &str| Some(PathBuf::from(fs::read_link(function.join(name)).ok()?.file_name()?));
    let group = link("iommu_group").ok_or(ClaimError::NoIommu(address))?;
    let members = |folder: &Path| -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let members = members(&function.join("iommu_group/devices"))
        .map_err(|error| failed(address, "look at the group of")(errno(&error)))?;
    if let Some(other) = members.into_iter().find(|member| *member != address.to_string()) {
        return Err(ClaimError::Shared(address, other));
    }
    // Without it the kernel itself refuses where interrupts are not remapped.
    let unsafe_ones = sysfs.join("module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    if fs::read_to_string(unsafe_ones).is_ok_and(|allowed| allowed.trim() != "N") {
        return Err(ClaimError::Interrupts(address));
    }
    match link("driver") {
        Some(driver) if driver.as_os_str() == DRIVER => Ok(group),
        Some(driver) => Err(ClaimError::Driver(address, driver.display().to_string())),
        None => Err(ClaimError::Driver(address, "none".to_owned())),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A tree as the kernel shows it: groups with their members, and the driver of each.
    fn machine(groups: &[&[(&str, Option<&str>)]]) -> tempfile::TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        let at = |path: &str| sysfs.path().join(path);
        for driver in ["nvme", DRIVER] {
            fs::create_dir_all(at("bus/pci/drivers").join(driver)).unwrap();
        }
        for (number, members) in groups.iter().enumerate() {
            let devices = at("kernel/iommu_groups").join(number.to_string()).join("devices");
            fs::create_dir_all(&devices).unwrap();
            for (member, driver) in *members {
                let function = at("bus/pci/devices").join(member);
                fs::create_dir_all(&function).unwrap();
                symlink(&function, devices.join(member)).unwrap();
                symlink(devices.parent().unwrap(), function.join("iommu_group")).unwrap();
                if let Some(driver) = driver {
                    symlink(at("bus/pci/drivers").join(driver), function.join("driver")).unwrap();
                }
            }
        }
        fs::create_dir_all(at("bus/pci/devices/0000:09:00.0")).unwrap();
        sysfs
    }

    #[test]
    fn only_a_function_alone_with_vfio_is_taken() {
        let vfio = Some(DRIVER);
        let machine = machine(&[
            &[("0000:03:00.1", vfio)],
            &[("0000:04:00.0", vfio), ("0000:04:00.1", vfio)],
            &[("0000:05:00.0", Some("nvme"))],
            &[("0000:06:00.0", None)],
        ]);
        let code = |address: &str| match group(machine.path(), address.parse().unwrap()) {
            Ok(number) => number.display().to_string(),
            Err(error) => error.code().to_owned(),
        };
        assert_eq!(code("0000:03:00.1"), "0");
        assert_eq!(code("0000:04:00.0"), "passthrough.shared");
        assert_eq!(code("0000:05:00.0"), "passthrough.driver");
        assert_eq!(code("0000:06:00.0"), "passthrough.driver");
        assert_eq!(code("0000:07:00.0"), "passthrough.absent");
        assert_eq!(code("0000:09:00.0"), "passthrough.no-iommu");
        let parameters = machine.path().join("module/vfio_iommu_type1/parameters");
        fs::create_dir_all(&parameters).unwrap();
        for (allowed, wanted) in [("N\n", "0"), ("Y\n", "passthrough.interrupts")] {
            fs::write(parameters.join("allow_unsafe_interrupts"), allowed).unwrap();
            assert_eq!(code("0000:03:00.1"), wanted);
        }
    }

    #[test]
    fn a_machine_without_the_function_says_so() {
        let error = Claim::new("ffff:ff:1f.7".parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), "passthrough.absent");
    }
}
