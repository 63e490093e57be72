//! How a host comes up: what runs is measured, compared with the complete set of known-good measurements that the
//! host's TPM has signed, and only then does the TPM give out what the host is and what its store opens with.

pub mod compartments;
pub mod configuration;
pub mod custody;
pub mod images;
pub mod known_good;
pub mod plan;
pub mod start;
pub mod state;

use crate::log::LogError;
use ::release::Manifest;
use aws_lc_rs::digest::{SHA256, digest};
use boot_rom::events::{Event, Events};
use host_api::{Code, Measured, OutOfService, Register, ReleaseStatus, Sentence, Sha256};
use serde::Serialize;
use service::process::{Failure, Home};
use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::fd::OwnedFd,
    path::Path,
};
use tpm::{Digest, PcrValues, Tpm};

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Why a host does not come up, or not into service. Whatever comes after it, nothing that is sealed opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {entry}: {message}")]
pub struct Halt {
    /// Stable.
    pub code: &'static str,
    /// The entry of the event log that differs, or what else it is about.
    pub entry: String,
    /// What to do.
    pub message: String,
}

impl Halt {
    /// A halt.
    pub fn new(code: &'static str, entry: &str, message: &str) -> Self {
        Self { code, entry: entry.to_owned(), message: message.to_owned() }
    }

    /// As the API tells it.
    pub fn out_of_service(&self) -> Option<OutOfService> {
        out_of_service(self.code, &format!("{}: {}", self.entry, self.message))
    }
}

/// Why a host goes out of service.
pub fn out_of_service(code: &str, message: &str) -> Option<OutOfService> {
    let code: Code = code.parse().ok()?;
    Some(OutOfService { code, message: Sentence::from_lossy(message) })
}

/// The report that whoever powered the host finds where no controller answers.
#[derive(Serialize)]
struct Report<'a> {
    stage: &'static str,
    #[serde(flatten)]
    halt: &'a Halt,
}

/// Writes the report of a halt.
pub fn report(path: &Path, halt: &Halt) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Report { stage: "controller", halt })?;
    line.push(b'\n');
    service::write_atomic(path, &line)
}

/// The event log that the stages before handed on: a file in memory that nobody can change any more.
pub fn handed(log: Option<OwnedFd>) -> Result<Events, Halt> {
    let Some(mut log) = log.map(File::from) else { return Ok(Events::new()) };
    let mut bytes = Vec::new();
    let read =
        log.rewind().and_then(|()| log.take(boot_rom::events::MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    let halt = |error: &dyn std::fmt::Display| Halt::new("boot.log", "event log", &error.to_string());
    read.map_err(|error| halt(&error))?;
    Events::parse(&bytes).map_err(|error| halt(&error))
}

/// What a failure is as a report tells it.
pub fn halt(failure: &Failure) -> Halt {
    if let Some(halt) = failure.downcast_ref::<Halt>() {
        return halt.clone();
    }
    let code = failure.downcast_ref::<LogError>().map(LogError::code).or_else(|| {
        let tpm = failure.downcast_ref::<tpm::Error>();
        tpm.map(tpm::Error::code)
    });
    Halt::new(code.unwrap_or("boot.failed"), "controller", &failure.to_string())
}

/// Takes an old report away.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The measuring: every entry goes into its register of the TPM, and into the log.
#[derive(Debug)]
pub struct Boot {
    tpm: Tpm,
    events: Events,
}

impl Boot {
    /// Goes on with what the stages before have measured.
    pub fn new(tpm: Tpm, events: Events) -> Self {
        Self { tpm, events }
    }

    /// Secures the connection with the TPM that was enrolled: neither who listens on its bus nor who alters what goes
    /// over it gets at what it gives out.
    pub fn secure(&mut self, home: &Home) -> Result<(), Halt> {
        let halt =
            |error: &dyn std::fmt::Display| Halt::new("boot.identity", "endorsement key", &error.to_string());
        let known = home.known_tpm().map_err(|error| halt(&error))?;
        let known = known.ok_or_else(|| halt(&"which TPM was enrolled is not known: put tpm.name back"))?;
        match self.tpm.secure(Some(&known)) {
            Err(error @ tpm::Error::Foreign) => Err(halt(&error)),
            Err(error) => Err(Halt::new("boot.tpm", "endorsement key", &error.to_string())),
            Ok(_) => Ok(()),
        }
    }

    /// Measures something by its SHA-256, before it is used.
    pub fn measure(&mut self, pcr: u8, name: &str, digest: [u8; 32]) -> Result<(), Halt> {
        let halt = |error: &dyn std::fmt::Display| Halt::new("boot.tpm", name, &error.to_string());
        let event =
            Event::new(pcr, name, &digest).ok_or_else(|| halt(&"its name or register is out of bounds"))?;
        self.tpm.pcr_extend(pcr, &digest).map_err(|error| halt(&error))?;
        self.events.push(event).map_err(|error| halt(&error))
    }

    /// What was measured so far.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The TPM.
    pub fn tpm(&mut self) -> &mut Tpm {
        &mut self.tpm
    }

    /// Makes the registers such that the TPM gives nothing out any more: for a start that comes to nothing.
    pub fn close(&mut self) {
        if let Err(error) = self.tpm.pcr_extend(10, &sha256(b"closed")) {
            tracing::error!(%error, "the TPM cannot be closed");
        }
    }

    /// Ends the measuring.
    pub fn finish(self) -> (Tpm, Events) {
        (self.tpm, self.events)
    }
}

/// A log as the API tells it.
pub fn measurements(events: &Events) -> Vec<Measured> {
    let told = events.iter().map(|event| {
        let (pcr, what) = (event.pcr().into(), event.name().parse().ok()?);
        Some(Measured { pcr, what, sha256: Sha256::from_digest(&event.sha256()) })
    });
    told.flatten().collect()
}

/// Registers as the API tells them.
pub fn registers(values: &PcrValues) -> Vec<Register> {
    let told =
        |(pcr, value): (&u8, &Digest)| Register { pcr: (*pcr).into(), value: Sha256::from_digest(value) };
    values.iter().map(told).collect()
}

/// A release as the API tells it.
pub fn release(manifest: &Manifest) -> Option<ReleaseStatus> {
    let Manifest { version, svn, environment, .. } = manifest;
    let (version, environment) = (version.parse().ok()?, environment.name().parse().ok()?);
    Some(ReleaseStatus { version, security_version: (*svn).into(), environment })
}

#[cfg(test)]
mod tests;
