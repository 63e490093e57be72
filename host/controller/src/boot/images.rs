//! What the host starts, out of the open store.

use super::{Halt, start::closed};
use crate::{card::Image, hypervisors::setup, limits::MAX_POLICIES};
use firmware_store::Store;
use release::{Kind, Manifest};

/// The images of a release that the host has a use for.
#[derive(Debug)]
pub struct Images {
    policies: Vec<u8>,
    card: Image,
    attestation: Option<Image>,
    guests: Option<setup::Images>,
}

impl Images {
    /// Takes them: each is in memory that nobody can change any more, and has the hash that the manifest names.
    pub fn take(store: &Store, manifest: &Manifest) -> Result<Self, Halt> {
        let entry = |kind: Kind| {
            let missing =
                || Halt::new("store.image", kind.event().1, "the release has none: install one that has");
            manifest.image(kind).ok_or_else(missing)
        };
        let image = |kind: Kind, name: &str| -> Result<Image, Halt> {
            let sha256 = entry(kind)?.sha256;
            let memory = store.image(&sha256, name).map_err(|error| of(kind, &error))?;
            Ok(Image::new(memory, sha256))
        };
        let policies = store.bytes(&entry(Kind::Policies)?.sha256, MAX_POLICIES);
        let guests =
            match [Kind::Hypervisor, Kind::Launcher, Kind::GuestKernel].map(|kind| manifest.image(kind)) {
                [Some(_), Some(_), Some(_)] => Some(setup::Images {
                    launcher: image(Kind::Launcher, "azote-launcher")?,
                    hypervisor: image(Kind::Hypervisor, "azote-hypervisor")?,
                    kernel: image(Kind::GuestKernel, "guest kernel")?,
                    ramdisk: manifest
                        .image(Kind::GuestRamdisk)
                        .map(|_| image(Kind::GuestRamdisk, "guest RAM disk"))
                        .transpose()?,
                }),
                _ => None,
            };
        Ok(Self {
            policies: policies.map_err(|error| of(Kind::Policies, &error))?,
            card: image(Kind::VolumeCard, "azote-volume-card")?,
            attestation: manifest
                .image(Kind::AttestationCard)
                .map(|_| image(Kind::AttestationCard, "azote-attestation-card"))
                .transpose()?,
            guests,
        })
    }

    /// The policies.
    pub fn policies(&self) -> &[u8] {
        &self.policies
    }

    /// The volume card, the attestation card if there is one, and what hypervisors are started with.
    pub fn split(self) -> (Image, Option<Image>, Option<setup::Images>) {
        (self.card, self.attestation, self.guests)
    }
}

fn of(kind: Kind, error: &firmware_store::Error) -> Halt {
    Halt { entry: kind.event().1.to_owned(), ..closed(error) }
}
