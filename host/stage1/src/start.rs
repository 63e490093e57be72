//! The start, step by step.

use crate::Arguments;
use boot_rom::{
    decision::{Memory, Unfit, fit},
    events::{self, Event, Events},
    header::{HEADER, Header, SIGNED},
    record::{FLOOR_INDEX, RECORD_INDEX, Record},
};
use release::{Error, Folder, Kind, Report};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    path::Path,
};
use token::PublicKey;
use tpm::Tpm;

/// Why the controller is not started.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The release's manifest.
    #[error("the release's manifest is missing, damaged or not of this stage 1: put back the release ({0})")]
    Manifest(String),
    /// Its signature.
    #[error("the release's manifest is not signed by this host's root key: put back the release")]
    Signature,
    /// Its security version.
    #[error("the release is older than what this host ran already: take a later one")]
    Rollback,
    /// Its environment.
    #[error("the release is for another environment than this host: take one for its own")]
    Environment,
    /// The controller's image.
    #[error("the controller is missing, or not the one that the manifest names: put back the release")]
    Controller,
    /// What the controller's image is.
    #[error("the controller is not linked statically: its loader would be unmeasured; take another release")]
    Program,
    /// The TPM.
    #[error("the TPM does not answer, or holds what this host never wrote there ({0})")]
    Tpm(String),
    /// The start itself.
    #[error("{0}")]
    Start(String),
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest(_) => "stage-1.manifest",
            Self::Signature => "stage-1.signature",
            Self::Rollback => "stage-1.rollback",
            Self::Environment => "stage-1.environment",
            Self::Controller => "stage-1.controller",
            Self::Program => "stage-1.program",
            Self::Tpm(_) => "stage-1.tpm",
            Self::Start(_) => "stage-1.start",
        }
    }

    /// The report for whoever finds that nothing answers.
    pub fn report(&self) -> Report {
        let entry = match self {
            Self::Manifest(_) | Self::Signature | Self::Rollback | Self::Environment => events::RELEASE,
            Self::Controller | Self::Program => events::CONTROLLER,
            Self::Tpm(_) => "tpm",
            Self::Start(_) => events::STAGE_1,
        };
        let [stage, code, entry] = ["stage-1", self.code(), entry].map(str::to_owned);
        Report { stage, code, entry, message: self.to_string() }
    }

    /// Nothing was handed on, or nothing that the boot ROM hands on.
    pub fn alone() -> Self {
        Self::Start("stage 1 is started by the boot ROM and by nothing else".to_owned())
    }

    fn manifest(error: &Error) -> Self {
        match error {
            Error::Signature(_) => Self::Signature,
            other => Self::Manifest(other.to_string()),
        }
    }
}

impl From<tpm::Error> for Refusal {
    fn from(error: tpm::Error) -> Self {
        Self::Tpm(error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Start(format!("the system does not start the controller: {error}"))
    }
}

impl From<Unfit> for Refusal {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Environment => Self::Environment,
            Unfit::Rollback => Self::Rollback,
        }
    }
}

/// What the boot ROM hands on.
#[derive(Debug)]
pub struct Handed {
    events: Events,
    header: Header,
}

impl Handed {
    /// Reads the event log and the header. Both must be in sealed memory, and speak of a start by the boot ROM.
    pub fn read(log: OwnedFd, header: OwnedFd) -> Result<Self, Refusal> {
        let alone = Refusal::alone;
        let log = read_sealed(log, events::MAX_BYTES).ok_or_else(alone)?;
        let header = read_sealed(header, HEADER).ok_or_else(alone)?;
        // The boot ROM verified it.
        let header = header.get(..SIGNED).and_then(Header::parse).ok_or_else(alone)?;
        let events = Events::parse(&log).map_err(|_| alone())?;
        let names = [events::ROOT_KEY, events::STAGE_1];
        let by_rom =
            events.iter().map(|event| event.pcr() == events::ROM_PCR).collect::<Vec<_>>() == [true; 2];
        let named = events.iter().zip(names).all(|(event, name)| event.name() == name);
        if by_rom && named { Ok(Self { events, header }) } else { Err(alone()) }
    }

    fn stage1(&self) -> Option<release::Digest> {
        self.events.iter().nth(1).map(|event| event.sha256())
    }
}

/// Reads memory that nobody can change any more, at most `most` bytes of it.
fn read_sealed(memory: OwnedFd, most: usize) -> Option<Vec<u8>> {
    let wanted = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    fcntl_get_seals(&memory).ok().filter(|seals| seals.contains(wanted))?;
    let mut file = File::from(memory);
    file.rewind().ok()?;
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= most).then_some(bytes)
}

/// Bytes in memory that nobody can change any more.
fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag that says that it will be executed, and need it not.
    let memory = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// A controller that was verified and measured, and the event log for it.
#[derive(Debug)]
pub struct Ready {
    /// The controller's image, sealed.
    pub image: OwnedFd,
    /// The event log, sealed.
    pub log: OwnedFd,
}

/// Verifies the release against what was handed on and what the TPM remembers. Gives the release and the controller.
pub fn hold_against(handed: &Handed, memory: &Memory, path: &Path) -> Result<(Folder, Vec<u8>), Refusal> {
    let root_key = PublicKey(handed.header.root_key);
    let folder = Folder::open(path, &root_key).map_err(|error| Refusal::manifest(&error))?;
    let environment = match folder.manifest.environment {
        ids::Environment::Production => boot_rom::Environment::Production,
        ids::Environment::NonProduction => boot_rom::Environment::NonProduction,
    };
    fit(environment, folder.manifest.svn, memory)?;
    // Stages of two releases do not make one.
    let stage1 = folder.manifest.image(Kind::Stage1).map(|image| image.sha256);
    if stage1.is_none() || stage1 != handed.stage1() {
        return Err(Refusal::Manifest("it names another stage 1 than the one that runs".to_owned()));
    }
    let controller = folder.image(Kind::Controller).map_err(|error| match error {
        Error::Program(_) => Refusal::Program,
        _ => Refusal::Controller,
    })?;
    Ok((folder, controller))
}

/// Verifies and measures; starts nothing yet.
pub fn prepare(handed: Handed, arguments: &Arguments) -> Result<Ready, Refusal> {
    let mut tpm = Tpm::connect(&arguments.tpm)?;
    let ready = memory(&mut tpm).and_then(|memory| measure(&mut tpm, handed, &memory, &arguments.release));
    if let Err(refusal) = &ready {
        // Whoever comes next on this power cycle cannot measure as if this start had gone on. If the TPM does not
        // answer, nothing opens anyway.
        let _ = tpm.pcr_extend(events::STAGE_1_PCR, &release::sha256(&[refusal.code().as_bytes()]));
    }
    ready
}

fn measure(tpm: &mut Tpm, handed: Handed, memory: &Memory, path: &Path) -> Result<Ready, Refusal> {
    let (folder, controller) = hold_against(&handed, memory, path)?;
    let mut log = handed.events;
    let digests = [
        (events::RELEASE, release::sha256(&[&folder.signed])),
        (events::CONTROLLER, release::sha256(&[&controller])),
    ];
    for (name, digest) in digests {
        tpm.pcr_extend(events::STAGE_1_PCR, &digest)?;
        let full = || Refusal::Start("the event log is full".to_owned());
        let event = Event::new(events::STAGE_1_PCR, name, &digest).ok_or_else(full)?;
        log.push(event).map_err(|_| full())?;
    }
    Ok(Ready { image: sealed("azote-controller", &controller)?, log: sealed("azote-events", log.bytes())? })
}

/// What the TPM remembers of this host. A record that is not yet locked is none: enrolment never ended.
fn memory(tpm: &mut Tpm) -> Result<Memory, Refusal> {
    let wrong = || Refusal::Tpm("the record of this host".to_owned());
    if tpm.nv_public(RECORD_INDEX)?.is_none_or(|public| !public.written || !public.locked) {
        return Ok(Memory::default());
    }
    let bytes = tpm.nv_read(RECORD_INDEX)?.ok_or_else(wrong)?;
    let record = Record::parse(&bytes).ok_or_else(wrong)?;
    let counter = tpm.nv_counter(FLOOR_INDEX)?.ok_or_else(wrong)?;
    let floor = record.floor(counter).ok_or_else(wrong)?;
    Ok(Memory { record: Some(record), floor })
}

#[cfg(test)]
mod tests;
