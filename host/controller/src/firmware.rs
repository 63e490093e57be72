//! What the host holds and runs, told from the signed manifest, and read again on demand: a blob in the store by its
//! hash, without any key; the main board's firmware by the security chip.

use crate::{
    boot::{self, start::Start, state::State},
    chip::Firmware,
};
use firmware_store::Folder;
use host_api::{FirmwareImage, FirmwareStatus, Sha256};
use release::{Kind, Manifest};
use std::collections::BTreeMap;
use tpm::Digest;

/// The store's folder, open to be read, and what must be in it.
#[derive(Debug)]
pub struct Shelf {
    folder: Option<Folder>,
    manifest: Manifest,
    sums: BTreeMap<Digest, Digest>,
}

impl Shelf {
    /// Opens the folder of a store that nobody changes any more until the next start.
    pub fn open(state: &State, start: &Start) -> Self {
        let folder = Folder::open(&state.store());
        let folder = folder.inspect_err(|error| tracing::error!(%error, "no firmware store")).ok();
        Self { folder, manifest: start.manifest.clone(), sums: start.signed.set.sums.clone() }
    }

    /// The images. `flash`: what the main board's firmware is now, if everything is to be read again.
    pub fn list(&self, flash: Option<&Firmware>) -> FirmwareStatus {
        let images = self.manifest.images.iter().filter_map(|image| {
            let sha256 = Sha256::from_digest(&image.sha256);
            let stored = || {
                let folder = self.folder.as_ref()?;
                Some(folder.sum(&image.sha256).ok()? == *self.sums.get(&image.sha256)?)
            };
            let intact = flash.and_then(|flash| match image.kind {
                // Whoever started this process has verified them; they are not in the store.
                Kind::Stage1 | Kind::Controller => None,
                Kind::MainboardFirmware => Some(stored() == Some(true) && flash.code == sha256),
                Kind::BmcFirmware => Some(stored() == Some(true) && flash.bmc.as_ref() == Some(&sha256)),
                _ => Some(stored() == Some(true)),
            });
            Some(FirmwareImage {
                kind: image.kind.name().parse().ok()?,
                length: image.length,
                sha256,
                intact,
            })
        });
        FirmwareStatus { release: boot::release(&self.manifest), images: images.collect() }
    }
}
