//! What the controller asks, in the chip's terms, and what the chip answers, in the controller's.

use crate::flash::{FlashFiles, sha256};
use chip_core::{Chip, Digest, Entry, Event, Flash, Line, Master, Refusal, Region, Target};
use rustix::fs::{FileType, fstat};

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
};
use wire::{
    Fault,
    chip::{self, EventKind, Firmware, Lines, Reply, Reset},
};

/// How the lines are.
pub(crate) fn lines(chip: &Chip<FlashFiles>) -> Lines {
    let reset = |line| if chip.holds(line) { Reset::Held } else { Reset::Released };
    Lines { bmc: reset(Line::Bmc), board: reset(Line::Board), cpu: reset(Line::Cpu) }
}

/// The present state.
pub(crate) fn status(chip: &mut Chip<FlashFiles>) -> Reply {
    Reply::Status { lines: lines(chip), refused_writes: chip.record().refused_writes() }
}

/// A region's hash: of what the flash holds as firmware, of what the board reads as variables.
pub(crate) fn measure(chip: &mut Chip<FlashFiles>, region: chip::Region) -> Result<Reply, Fault> {
    let (digest, region) = match master(region) {
        Some(master) => (chip.measure(master).map_err(fault)?, Region::Code(master)),
        None => (sha256(chip.flash().served(Region::Variables)), Region::Variables),
    };
    Ok(Reply::Measured { sha256: hex(&digest), length: chip.flash().served(region).len() as u64 })
}

/// Whose firmware a region is.
fn master(region: chip::Region) -> Option<Master> {
    match region {
        chip::Region::Code => Some(Master::Cpu),
        chip::Region::Bmc => Some(Master::Bmc),
        chip::Region::Variables => None,
    }
}

/// A line as the chip's decisions call it.
pub(crate) fn line(line: chip::Line) -> Line {
    match line {
        chip::Line::Bmc => Line::Bmc,
        chip::Line::Board => Line::Board,
        chip::Line::Cpu => Line::Cpu,
    }
}

fn line_told(line: Line) -> chip::Line {
    match line {
        Line::Bmc => chip::Line::Bmc,
        Line::Board => chip::Line::Board,
        Line::Cpu => chip::Line::Cpu,
    }
}

/// What the controller verified, in the order of [`Master::ALL`]. A flash that is not there holds nothing.
pub(crate) fn verified(firmware: &Firmware) -> Result<[Digest; 2], Fault> {
    let bmc = firmware.bmc.as_deref().map(digest).transpose()?;
    Ok([digest(&firmware.code)?, bmc.unwrap_or_else(|| sha256(&[]))])
}

/// The recorded events.
pub(crate) fn events(chip: &mut Chip<FlashFiles>, after: u64) -> Reply {
    let dropped = chip.record().dropped();
    Reply::Events { events: chip.record().after(after).map(event).collect(), dropped }
}

/// Copies the image out of the descriptor and has it written.
pub(crate) fn update(
    chip: &mut Chip<FlashFiles>,
    region: chip::Region,
    sha256: &str,
    fds: Vec<OwnedFd>,
) -> Result<Reply, Fault> {
    let authorised = digest(sha256)?;
    let master = master(region)
        .ok_or_else(|| Fault::new("chip.request", "variables are not updated: they are dropped"))?;
    let Ok([image]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err(Fault::new("chip.request", "send the image as one descriptor beside the update"));
    };
    // A pipe could keep the chip waiting.
    let regular =
        fstat(&image).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if !regular {
        return Err(Fault::new("chip.request", "send the image as a regular file or a memfd"));
    }
    let image = copy(&File::from(image), chip.flash().served(Region::Code(master)).len() as u64)
        .map_err(|_| Fault::new("chip.request", "the image's descriptor cannot be read"))?;
    chip.update(master, &authorised, &image).map_err(fault)?;
    Ok(Reply::Done)
}

/// The bytes of `file`, but at most one more than `length`: enough to see that there are too many.
fn copy(file: &File, length: u64) -> std::io::Result<Vec<u8>> {
    let most = usize::try_from(length + 1).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; most];
    let mut have = 0;
    while let Some(space) = bytes.get_mut(have..).filter(|space| !space.is_empty()) {
        match file.read_at(space, have as u64)? {
            0 => break,
            count => have += count,
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// A refusal as the controller sees it.
pub(crate) fn fault(refusal: Refusal) -> Fault {
    let message = match refusal {
        Refusal::Write => "the main board may not write here now",
        Refusal::Unverified => {
            "some firmware has another hash: measure all of it and verify it before releasing reset"
        }
        Refusal::Order => "release the board before its processors",
        Refusal::NotHeld => "hold the processor that starts from this firmware before updating it",
        Refusal::Length => "the image must be exactly as long as the region",
        Refusal::Hash => "the image does not have the authorised hash",
        Refusal::ReadBack => "the flash does not hold what was written: reset stays held; replace the flash",
        Refusal::Flash => "the flash cannot be read or written: reset stays as it is; look at the chip's log",
    };
    Fault::new(refusal.code(), message)
}

/// Parses 64 hexadecimal digits.
pub(crate) fn digest(text: &str) -> Result<Digest, Fault> {
    let malformed = || Fault::new("chip.request", "a hash is 64 hexadecimal digits");
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(malformed());
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        let pair = text.get(2 * index..2 * index + 2).ok_or_else(malformed)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
    }
    Ok(digest)
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attempts(attempts: chip_core::Attempts) -> chip::Attempts {
    let chip_core::Attempts { master, target, offset, bytes, attempts, changing } = attempts;
    let master = match master {
        Master::Cpu => chip::Master::Cpu,
        Master::Bmc => chip::Master::Bmc,
    };
    let target = match target {
        Target::Flash(Region::Code(Master::Cpu)) => chip::Target::Code,
        Target::Flash(Region::Code(Master::Bmc)) => chip::Target::Bmc,
        Target::Flash(Region::Variables) => chip::Target::Variables,
        Target::Registers => chip::Target::Registers,
        Target::Identity => chip::Target::Identity,
        Target::ResetController => chip::Target::ResetController,
    };
    chip::Attempts { master, target, offset, bytes, attempts, changing }
}

fn event(entry: Entry) -> chip::Event {
    let what = match entry.event {
        Event::WriteRefused(refused) => EventKind::WriteRefused(attempts(refused)),
        Event::ReadRefused(refused) => EventKind::ReadRefused(attempts(refused)),
        Event::Released(line) => EventKind::ResetReleased { line: line_told(line) },
        Event::Held(line) => EventKind::ResetHeld { line: line_told(line) },
        Event::Updated { of, digest } => {
            let region = match of {
                Master::Cpu => chip::Region::Code,
                Master::Bmc => chip::Region::Bmc,
            };
            EventKind::Updated { region, sha256: hex(&digest) }
        }
        Event::UpdateRefused { code } => EventKind::UpdateRefused { code: code.to_owned() },
    };
    chip::Event { seq: entry.seq, what }
}
