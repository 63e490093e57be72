//! A measured start: everything that runs, and everything that says how, goes into the TPM's registers before it is
//! used; then it is compared with the set of known-good measurements, entry by entry; then the TPM decides for itself.

use super::{
    Boot, Halt,
    compartments::{self, Early},
    configuration::Configured,
    known_good::{Difference, KnownGood, MAX_FILE, Signed},
    sha256,
    state::{self, State},
};
use crate::chip::Firmware;
use boot_rom::{
    events::{Event, Events},
    record::{RECORD_INDEX, Record},
};
use firmware_store::{Folder, REMOVABLE, Store, StoreKey};
use ids::{Environment, HostId};
use release::{Configuration, Manifest};
use std::path::Path;
use tpm::{Digest, Tpm};
use zeroize::Zeroizing;

/// Longest configuration with its signature in bytes.
pub const MAX_CONFIGURATION: usize = 128 * 1024;
const CONFIGURATION: &str = "configuration";

/// A start whose settings are known to be good.
#[derive(Debug)]
pub struct Start {
    /// The sets of the host.
    pub known_good: KnownGood,
    /// The one of this start.
    pub signed: Signed,
    /// What the host is set up to do.
    pub configured: Configured,
    /// The same as it was signed.
    pub configuration: Vec<u8>,
    /// The release.
    pub manifest: Manifest,
    /// What the TPM remembers of the host.
    pub record: Record,
    /// The first image or firmware that differs.
    difference: Option<Difference>,
    /// What was found in the flash, for people.
    firmware: String,
}

impl Start {
    /// Measures the settings, the images and the main board's firmware, and compares. What differs in the settings,
    /// or in what ran before, is a halt; what differs in images and firmware keeps the store closed.
    pub fn measure(state: &State, boot: &mut Boot, firmware: Option<&Firmware>) -> Result<Self, Halt> {
        let unreadable = |error: &dyn std::fmt::Display| {
            let message =
                format!("the set of known-good measurements: {error}; enrol the host, or put it back");
            Halt::new("boot.set", "known-good set", &message)
        };
        let file = state::read(&state.known_good(), MAX_FILE).map_err(|error| unreadable(&error))?;
        let known_good = KnownGood::decode(&file).map_err(|error| unreadable(&error))?;
        let flash = firmware.map(events).unwrap_or_default();
        let signed =
            known_good.choose(boot.events(), &flash).ok_or_else(|| unreadable(&"it is empty"))?.clone();
        let configuration = measure_configuration(state, boot, &signed)?;
        measure_images(state, boot, &signed)?;
        flash.iter().try_for_each(|event| boot.measure(event.pcr(), event.name(), event.sha256()))?;
        let difference = signed.set.difference(boot.events());
        if let Some(Difference { entry, code, .. }) = difference.as_ref().filter(|found| found.pcr <= 10) {
            return Err(Halt::new(code, entry, &differs(entry)));
        }
        let (configured, manifest) = settings(&signed, &configuration)?;
        let record = record(boot.tpm(), &signed)?;
        let firmware = firmware.map(ToString::to_string).unwrap_or_default();
        Ok(Self { known_good, signed, configured, configuration, manifest, record, difference, firmware })
    }

    /// Has the TPM open the host's identity and log key.
    pub fn open_early(&self, state: &State, boot: &mut Boot) -> Result<Early, Halt> {
        Early::open(boot.tpm(), &state.early_sealed(), &self.known_good.key, &self.signed)
    }

    /// Has the TPM open the store, if nothing differs.
    pub fn open_store(
        &self,
        state: &State,
        boot: &mut Boot,
        security_key: Option<&Path>,
    ) -> Result<Store, Halt> {
        if let Some(Difference { entry, code, pcr }) = &self.difference {
            let found = if *pcr == 12 { format!(" (found {})", self.firmware) } else { String::new() };
            return Err(Halt::new(code, entry, &format!("{}{found}", differs(entry))));
        }
        let (sealed, approval) = (state.store_sealed(), &self.signed.store);
        let key = &self.known_good.key;
        let secret = compartments::open(boot.tpm(), &sealed, key, compartments::STORE, approval)?;
        let half = self.signed.set.security_key.then(|| removable(security_key)).transpose()?;
        let key = StoreKey::derive(&secret, half.as_deref());
        let opened = Folder::open_to_change(&state.store()).and_then(|folder| Store::open(folder, key));
        opened.map_err(|error| match error {
            firmware_store::Error::Closed if half.is_some() => closed(&firmware_store::Error::SecurityKey),
            error => closed(&error),
        })
    }

    /// The firmware that the main board may run.
    pub fn expected(&self) -> Firmware {
        let of = |kind| self.manifest.image(kind).map(|image| host_api::Sha256::from_digest(&image.sha256));
        let none = || host_api::Sha256::from_digest(&Digest::default());
        let code = of(release::Kind::MainboardFirmware).unwrap_or_else(none);
        Firmware { code, bmc: of(release::Kind::BmcFirmware) }
    }

    /// The host that this is, as the TPM remembers it.
    pub fn host(&self) -> Result<HostId, Halt> {
        let wrong =
            |_| Halt::new("boot.identity", "identity record", "it names no host: the TPM is to be cleared");
        self.record.host().parse().map_err(wrong)
    }
}

/// What the store said.
pub fn closed(error: &firmware_store::Error) -> Halt {
    Halt::new(error.code(), "firmware store", &error.to_string())
}

fn differs(entry: &str) -> String {
    format!("{entry} is not the known-good one: put it back or update the host, then boot anew")
}

/// The removable half of the store's key.
pub fn removable(file: Option<&Path>) -> Result<Zeroizing<[u8; REMOVABLE]>, Halt> {
    let missing = || closed(&firmware_store::Error::SecurityKey);
    let bytes = state::read(file.ok_or_else(missing)?, REMOVABLE).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| missing())?;
    let half: &[u8; REMOVABLE] = bytes.as_slice().try_into().map_err(|_| missing())?;
    Ok(Zeroizing::new(*half))
}

/// The main board's firmware as entries of the log.
pub fn events(firmware: &Firmware) -> Vec<Event> {
    let code = Event::new(12, release::Kind::MainboardFirmware.event().1, &firmware.code.to_digest());
    let bmc = firmware.bmc.as_ref();
    let bmc = bmc.and_then(|bmc| Event::new(12, release::Kind::BmcFirmware.event().1, &bmc.to_digest()));
    code.into_iter().chain(bmc).collect()
}

fn measure_configuration(state: &State, boot: &mut Boot, signed: &Signed) -> Result<Vec<u8>, Halt> {
    let expected = signed.set.event(CONFIGURATION).map(|event| event.sha256()).unwrap_or_default();
    let bytes = state::read(&state.configuration(&expected), MAX_CONFIGURATION);
    // One that is not there is measured, too: as what it is.
    let bytes = bytes.inspect_err(|error| tracing::error!(%error, "no configuration")).unwrap_or_default();
    boot.measure(10, CONFIGURATION, sha256(&bytes))?;
    Ok(bytes)
}

/// Measures each image of the release. The content is encrypted as long as the store is closed; its file has a hash
/// that the set knows. One that is changed or missing is measured as what it is.
fn measure_images(state: &State, boot: &mut Boot, signed: &Signed) -> Result<(), Halt> {
    let folder = Folder::open(&state.store());
    let images: Vec<Event> = signed.set.events.iter().filter(is_image).collect();
    for event in images {
        let image = event.sha256();
        let found = match &folder {
            Ok(folder) => folder.sum(&image).unwrap_or_default(),
            Err(_) => Digest::default(),
        };
        let good = signed.set.sums.get(&image) == Some(&found);
        boot.measure(event.pcr(), event.name(), if good { image } else { found })?;
    }
    Ok(())
}

fn is_image(event: &Event) -> bool {
    matches!(event.pcr(), 10 | 11) && event.name() != CONFIGURATION
}

fn settings(signed: &Signed, configuration: &[u8]) -> Result<(Configured, Manifest), Halt> {
    let set = &signed.set;
    let halt =
        |error: &dyn std::fmt::Display| Halt::new("boot.configuration", CONFIGURATION, &error.to_string());
    let opened = Configuration::open(configuration, &set.root).map_err(|error| halt(&error))?;
    if opened.environment != set.environment || opened.sequence != set.configuration {
        return Err(halt(&"it is for another environment, or not the one of the set"));
    }
    let mut configured = Configured::parse(&opened.text).map_err(|error| halt(&error))?;
    configured.refuse_weaknesses |= set.environment == Environment::Production;
    let manifest = Manifest::open(&set.manifest, &set.root);
    Ok((configured, manifest.map_err(|error| Halt::new("boot.release", "release", &error.to_string()))?))
}

/// What the TPM remembers, which must be of the set's environment.
fn record(tpm: &mut Tpm, signed: &Signed) -> Result<Record, Halt> {
    let halt = |message: &str| Halt::new("boot.identity", "identity record", message);
    let read = tpm.nv_read(RECORD_INDEX);
    let bytes = read.map_err(|error| Halt::new("boot.tpm", "identity record", &error.to_string()))?;
    let record = bytes.as_deref().and_then(Record::parse);
    let record = record.ok_or_else(|| halt("the TPM has none: enrol the host"))?;
    if record.environment.byte() != signed.set.environment.number() {
        return Err(halt("the release is for another environment than this host"));
    }
    Ok(record)
}

/// What the stages of a release measure before the controller runs.
pub fn is_stage(event: &Event) -> bool {
    event.pcr() <= 9
}

/// Whether a log comes from a chain of stages at all.
pub fn is_chained(events: &Events) -> bool {
    events.iter().any(|event| is_stage(&event))
}
