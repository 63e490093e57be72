use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What an image is for. The order is the one in which manifests list them, and hosts measure them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Header and image of what the boot ROM starts.
    #[serde(rename = "stage-1")]
    Stage1,
    /// The host's controller.
    Controller,
    /// The policy set.
    Policies,
    /// The volume card.
    VolumeCard,
    /// The hypervisor.
    Hypervisor,
    /// What starts hypervisors.
    Launcher,
    /// The kernel that instances boot.
    GuestKernel,
    /// What that kernel starts with, where it needs something.
    GuestRamdisk,
    /// The card that attests instances.
    AttestationCard,
    /// Firmware in the main board's flash.
    MainboardFirmware,
    /// Firmware of the board's management controller.
    BmcFirmware,
}

impl Kind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[
        Self::Stage1,
        Self::Controller,
        Self::Policies,
        Self::VolumeCard,
        Self::Hypervisor,
        Self::Launcher,
        Self::GuestKernel,
        Self::GuestRamdisk,
        Self::AttestationCard,
        Self::MainboardFirmware,
        Self::BmcFirmware,
    ];

    /// Its name in manifests, and that of its file in a release.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage1 => "stage-1",
            Self::Controller => "controller",
            Self::Policies => "policies",
            Self::VolumeCard => "volume-card",
            Self::Hypervisor => "hypervisor",
            Self::Launcher => "launcher",
            Self::GuestKernel => "guest-kernel",
            Self::GuestRamdisk => "guest-ramdisk",
            Self::AttestationCard => "attestation-card",
            Self::MainboardFirmware => "mainboard-firmware",
            Self::BmcFirmware => "bmc-firmware",
        }
    }

    /// Whether the host's processors run it as a program.
    pub const fn is_program(self) -> bool {
        match self {
            Self::Stage1
            | Self::Controller
            | Self::VolumeCard
            | Self::Hypervisor
            | Self::Launcher
            | Self::AttestationCard => true,
            Self::Policies
            | Self::GuestKernel
            | Self::GuestRamdisk
            | Self::MainboardFirmware
            | Self::BmcFirmware => false,
        }
    }

    /// PCR and name of its entry in the event log of a start.
    pub const fn event(self) -> (u8, &'static str) {
        match self {
            Self::Stage1 => (boot_rom::events::ROM_PCR, boot_rom::events::STAGE_1),
            Self::Controller => (boot_rom::events::STAGE_1_PCR, boot_rom::events::CONTROLLER),
            Self::Policies => (10, "policies"),
            Self::VolumeCard => (11, "volume card"),
            Self::Hypervisor => (11, "hypervisor"),
            Self::Launcher => (11, "launcher"),
            Self::GuestKernel => (11, "guest kernel"),
            Self::GuestRamdisk => (11, "guest ramdisk"),
            Self::AttestationCard => (11, "attestation card"),
            Self::MainboardFirmware => (12, "main-board firmware"),
            Self::BmcFirmware => (12, "bmc firmware"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or("not a kind of image")
    }
}
