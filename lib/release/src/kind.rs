use std::{fmt, str::FromStr};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $pcr:literal $event:literal;)*) => {
        /// What an image of a release is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[doc = $doc])* $name),* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As manifests and file names have it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The PCR that it is measured into, and the name of that entry in the event log.
            pub const fn event(self) -> (u8, &'static str) {
                match self { $(Self::$name => ($pcr, $event)),* }
            }
        }
    };
}

kinds! {
    /// What the boot ROM starts: header and image.
    Stage1 = "stage-1", 8 "stage 1";
    /// The controller.
    Controller = "controller", 9 "controller";
    /// The policy set.
    Policies = "policies", 10 "policies";
    /// The volume card.
    VolumeCard = "volume-card", 11 "volume card";
    /// The hypervisor.
    Hypervisor = "hypervisor", 11 "hypervisor";
    /// What starts hypervisors.
    Launcher = "launcher", 11 "launcher";
    /// The kernel that instances start with.
    GuestKernel = "guest-kernel", 11 "guest kernel";
    /// The card that attests instances.
    AttestationCard = "attestation-card", 11 "attestation card";
    /// The main board's firmware.
    MainboardFirmware = "mainboard-firmware", 12 "main-board firmware";
    /// The firmware of the board's management controller.
    BmcFirmware = "bmc-firmware", 12 "bmc firmware";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = crate::Refused;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or(crate::Refused::Malformed)
    }
}
