//! The start, step by step.
#![forbid(unsafe_code)]

use crate::system::{self, Port, Sealed};
use boot_rom::{
    Digest, Refusal,
    arguments::Arguments,
    decision::{Memory, fit},
    events::{self, Events},
    fuse::{self, FUSE},
    header::{self, HEADER, Header},
    program,
    tpm::Tpm,
};
use core::ffi::CStr;
use rustix::fd::OwnedFd;
use sha2::{Digest as _, Sha256};

/// How much of an image is copied at once.
const PIECE: usize = 64 * 1024;

/// What was verified and measured.
pub(crate) struct Ready {
    image: OwnedFd,
    header: [u8; HEADER],
    events: Events,
}

/// Verifies and measures; starts nothing yet.
pub(crate) fn run(arguments: &Arguments<'_>) -> Result<Ready, Refusal> {
    system::renounce()?;
    let root_key = read_fuse(arguments.fuse)?;
    let mut tpm = Tpm(Port::open(arguments.tpm).ok_or(Refusal::Tpm)?);
    let ready = verify(&mut tpm, arguments, &root_key);
    if let Err(refusal) = &ready {
        // Whoever comes next on this power cycle cannot measure as if this start had gone on. If the TPM does not
        // answer, nothing opens anyway.
        let _ = tpm.extend(events::ROM_PCR, &header::sha256(&[refusal.code().as_bytes()]));
    }
    ready
}

fn read_fuse(path: &CStr) -> Result<Digest, Refusal> {
    let file = system::open(path).filter(|file| system::is_read_only(file)).ok_or(Refusal::Fuse)?;
    let mut bytes = [0; FUSE + 1];
    let length = system::fill(&file, &mut bytes).ok_or(Refusal::Fuse)?;
    fuse::parse(bytes.get(..length).unwrap_or_default())
}

fn verify(tpm: &mut Tpm<Port>, arguments: &Arguments<'_>, root_key: &Digest) -> Result<Ready, Refusal> {
    if arguments.clear {
        system::say(format_args!("azote-boot-rom: the jumper is set, the TPM is cleared\n"));
        tpm.clear()?;
    }
    tpm.close_platform()?;
    let memory = tpm.memory()?;
    let stage1 = load(arguments.stage1, root_key, &memory)?;
    let mut log = Events::new();
    tpm.measure(&mut log, events::ROM_PCR, events::ROOT_KEY, root_key)?;
    tpm.measure(&mut log, events::ROM_PCR, events::STAGE_1, &stage1.measurement)?;
    Ok(Ready { image: stage1.image, header: stage1.header, events: log })
}

struct Stage1 {
    image: OwnedFd,
    header: [u8; HEADER],
    measurement: Digest,
}

/// Copies stage 1 into sealed memory and verifies that copy.
fn load(path: &CStr, root_key: &Digest, memory: &Memory) -> Result<Stage1, Refusal> {
    let file = system::open(path).ok_or(Refusal::Header)?;
    let mut bytes = [0; HEADER];
    if system::fill(&file, &mut bytes) != Some(HEADER) {
        return Err(Refusal::Header);
    }
    let header = Header::verify(&bytes, root_key)?;
    fit(header.environment, header.svn, memory)?;
    let sealed = Sealed::new(c"azote-stage1").ok_or(Refusal::Start)?;
    let mut piece = [0; PIECE];
    let mut copied = 0;
    // One byte more than there should be shows a file that is longer.
    while copied <= header.length {
        let length = system::fill(&file, &mut piece).ok_or(Refusal::Hash)?;
        copied = copied.saturating_add(length as u64);
        sealed.write(piece.get(..length).unwrap_or_default()).ok_or(Refusal::Start)?;
        if length < PIECE {
            break;
        }
    }
    let image = sealed.seal().ok_or(Refusal::Start)?;
    // What is measured and verified is what can no longer change.
    let (mut alone, mut whole, mut names_another) = (Sha256::new(), Sha256::new_with_prefix(bytes), None);
    loop {
        let length = system::fill(&image, &mut piece).ok_or(Refusal::Hash)?;
        let part = piece.get(..length).unwrap_or_default();
        names_another.get_or_insert_with(|| program::names_another(part));
        alone.update(part);
        whole.update(part);
        if length < PIECE {
            break;
        }
    }
    if copied != header.length || Digest::from(alone.finalize()) != header.sha256 {
        return Err(Refusal::Hash);
    }
    if names_another != Some(false) {
        return Err(Refusal::Program);
    }
    Ok(Stage1 { image, header: bytes, measurement: whole.finalize().into() })
}

impl Ready {
    /// Puts log and header where stage 1 finds them; gives its image.
    pub(crate) fn hand_on(self) -> Result<OwnedFd, Refusal> {
        let documents = [
            (c"azote-events", self.events.bytes(), events::DESCRIPTOR),
            (c"azote-header", &self.header, header::DESCRIPTOR),
        ];
        for (name, bytes, at) in documents {
            let sealed = Sealed::new(name).ok_or(Refusal::Start)?;
            sealed.write(bytes).ok_or(Refusal::Start)?;
            system::hand_on(&sealed.seal().ok_or(Refusal::Start)?, at)?;
        }
        Ok(self.image)
    }
}
