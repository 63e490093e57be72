//! Updates: a host whose store is open takes the next release, the next configuration, or both, and has its TPM sign
//! the next set of known-good measurements. It starts nothing and releases nothing; the next start is the new one.
//!
//! Until the boot folder is switched, at the very end and in one step, every power cut leaves a host that starts as
//! before: the file of sets has the present one first. What was left over goes when a start has reached service.

use crate::{
    boot::{
        Boot, Halt,
        known_good::{KnownGood, Signed},
        plan::{Plan, Signer, configuration, put},
        start::{Start, is_chained},
        state::State,
    },
    chip::Chip,
};
use boot_rom::events::{Event, Events};
use firmware_store::{Change, Store};
use release::{Configuration, Kind};
use service::process::{Failure, Home};
use std::{collections::BTreeMap, os::fd::AsFd, path::PathBuf};
use tpm::{Digest, Tpm};
use wire::chip::Region;

/// What a host is to become.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// State and TPM
    #[command(flatten)]
    pub home: Home,
    /// The security chip's control socket
    #[arg(long, value_name = "SOCKET")]
    pub chip: PathBuf,
    /// The folder of the next release
    #[arg(long, value_name = "DIR", required_unless_present = "configuration")]
    pub release: Option<PathBuf>,
    /// The next signed configuration
    #[arg(long, value_name = "FILE")]
    pub configuration: Option<PathBuf>,
    /// The removable half of the store's key, for hosts that have one
    #[arg(long, value_name = "FILE")]
    pub security_key: Option<PathBuf>,
}

/// Updates the host.
pub fn update(options: &Options, handed: &Events) -> Result<(), Failure> {
    let state = State::new(&options.home.state);
    let mut chip = Chip::new(crate::run::connect(&options.chip));
    chip.hold_all()?;
    let flash = chip.measure()?;
    let mut boot = Boot::new(options.home.connect()?, handed.clone());
    let secured = boot.secure(&options.home);
    let opened = secured.and_then(|()| Start::measure(&state, &mut boot, Some(&flash))).and_then(|start| {
        let store = start.open_store(&state, &mut boot, options.security_key.as_deref())?;
        Ok((start, store))
    });
    boot.close();
    let ((start, mut store), (mut tpm, _)) = (opened?, boot.finish());

    let set = &start.signed.set;
    let folder = options.release.as_deref().map(|path| release::Folder::open(path, &set.root)).transpose()?;
    if let Some(folder) = &folder {
        folder.verify(&set.root)?;
    }
    let plan = plan(options, &start, folder.as_ref())?;
    let signer = Signer::of(&store, &start.known_good.key)?;
    let sums = fill(&mut store, &start, folder.as_ref())?;
    let release = plan.install(&state, folder.as_ref())?;
    let sets = Sets { start: &start, plan: &plan, sums, chained: is_chained(handed) };
    let (next, firmware) = sets.sign(&mut tpm, &signer)?;
    let present = folder.is_some().then(|| start.signed.clone());
    let sets = present.into_iter().chain(next).collect();
    let file = KnownGood { key: start.known_good.key.clone(), sets };
    service::write_atomic(&state.known_good(), &file.encode().ok_or("the sets are out of bounds")?)?;
    write_firmware(&mut chip, &store, &firmware)?;
    if folder.is_some() {
        state.switch_boot(&release)?;
    }
    tracing::info!(version = plan.manifest.version, svn = plan.manifest.svn, "the next start is the new one");
    Ok(())
}

/// What the host is to become, if it may.
fn plan(options: &Options, start: &Start, folder: Option<&release::Folder>) -> Result<Plan, Failure> {
    let set = &start.signed.set;
    let present = || Configuration::open(&start.configuration, &set.root);
    let (configuration, signed_configuration) = match &options.configuration {
        Some(path) => configuration(path, &set.root)?,
        None => (present()?, start.configuration.clone()),
    };
    let (manifest, signed_manifest) = match folder {
        Some(folder) => (folder.manifest.clone(), folder.signed.clone()),
        None => (start.manifest.clone(), set.manifest.clone()),
    };
    let older = configuration.sequence < set.configuration
        || (configuration.sequence == set.configuration && signed_configuration != start.configuration);
    let plan = Plan { root: set.root, manifest, signed_manifest, configuration, signed_configuration };
    if [plan.manifest.environment, plan.configuration.environment] != [set.environment; 2] {
        return Err(Halt::new(
            "update.environment",
            "release",
            "it is for another environment than this host",
        )
        .into());
    }
    if plan.manifest.svn < set.svn {
        return Err(Halt::new(
            "update.rollback",
            "release",
            "its security version is older than the present one",
        )
        .into());
    }
    if older {
        return Err(
            Halt::new("update.rollback", "configuration", "it is not newer than the present one").into()
        );
    }
    Ok(plan)
}

/// Puts the release's images beside the present ones.
fn fill(
    store: &mut Store,
    start: &Start,
    folder: Option<&release::Folder>,
) -> Result<BTreeMap<Digest, Digest>, Failure> {
    let present = &start.signed.set.sums;
    let Some(folder) = folder else { return Ok(present.clone()) };
    let mut change: Change<'_> = store.change();
    change.retain(|sha256| present.contains_key(sha256));
    let sums = put(&mut change, folder)?;
    change.commit()?;
    Ok(sums)
}

/// The sets to come, and the firmware to write.
type Next = (Vec<Signed>, Vec<(Kind, Digest)>);

struct Sets<'a> {
    start: &'a Start,
    plan: &'a Plan,
    sums: BTreeMap<Digest, Digest>,
    chained: bool,
}

impl Sets<'_> {
    /// Signs the sets of the starts to come, and tells the firmware that is to be written before. With it in the flash
    /// and the boot folder not yet switched, a start is one of the present release under the next firmware.
    fn sign(self, tpm: &mut Tpm, signer: &Signer) -> Result<Next, Failure> {
        let Self { start, plan, sums, chained } = self;
        let (base, mut between) = (start.record.floor_base, start.signed.set.clone());
        let (mut next, mut written) = (Vec::new(), Vec::new());
        for kind in [Kind::MainboardFirmware, Kind::BmcFirmware] {
            let (had, image) = (start.manifest.image(kind), plan.manifest.image(kind));
            let Some(image) = image.filter(|image| had.is_some_and(|had| had.sha256 != image.sha256)) else {
                continue;
            };
            between.sequence += 1;
            between.events = replaced(&between.events, kind, &image.sha256)?;
            next.push(signer.sign(tpm, between.clone(), base)?);
            written.push((kind, image.sha256));
        }
        let last = plan.set(between.sequence + 1, between.security_key, chained, sums)?;
        next.push(signer.sign(tpm, last, base)?);
        Ok((next, written))
    }
}

/// The same start with other firmware in the flash.
fn replaced(events: &Events, kind: Kind, firmware: &Digest) -> Result<Events, Failure> {
    let mut replaced = Events::new();
    for event in events.iter() {
        let other =
            Event::new(event.pcr(), event.name(), firmware).filter(|_| event.name() == kind.event().1);
        replaced.push(other.unwrap_or(event))?;
    }
    Ok(replaced)
}

/// Has the security chip write exactly these images.
fn write_firmware(chip: &mut Chip, store: &Store, images: &[(Kind, Digest)]) -> Result<(), Failure> {
    for (kind, sha256) in images {
        let memory = store.image(sha256, kind.event().1)?;
        let region = if *kind == Kind::BmcFirmware { Region::Bmc } else { Region::Code };
        chip.update(region, &host_api::Sha256::from_digest(sha256), memory.as_fd())?;
    }
    Ok(())
}
