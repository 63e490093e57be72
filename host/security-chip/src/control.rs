//! What the controller asks, in the chip's terms, and what the chip answers, in the controller's.

use crate::flash::{FlashFiles, sha256};
use rustix::fs::{FileType, fstat};
use security_chip::{Chip, Digest, Entry, Event, Flash, Refusal, Region, Reset};
use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
};
use wire::{
    Fault,
    chip::{self, EventKind, Reply},
};

/// The present state.
pub(crate) fn status(chip: &mut Chip<FlashFiles>) -> Reply {
    let reset_held = chip.reset() == Reset::Held;
    Reply::Status { reset_held, refused_writes: chip.record().refused_writes() }
}

/// A region's hash: of what the flash holds as code, of what the board reads as variables.
pub(crate) fn measure(chip: &mut Chip<FlashFiles>, region: chip::Region) -> Result<Reply, Fault> {
    let (digest, region) = match region {
        chip::Region::Code => (chip.measure().map_err(fault)?, Region::Code),
        chip::Region::Variables => (sha256(chip.flash().region(Region::Variables)), Region::Variables),
    };
    Ok(Reply::Measured { sha256: hex(&digest), length: chip.flash().region(region).len() as u64 })
}

/// The recorded events.
pub(crate) fn events(chip: &mut Chip<FlashFiles>, after: u64) -> Reply {
    let dropped = chip.record().dropped();
    Reply::Events { events: chip.record().after(after).map(event).collect(), dropped }
}

/// Copies the image out of the descriptor and has it written.
pub(crate) fn update(chip: &mut Chip<FlashFiles>, sha256: &str, fds: Vec<OwnedFd>) -> Result<Reply, Fault> {
    let authorised = digest(sha256)?;
    let Ok([image]) = <[OwnedFd; 1]>::try_from(fds) else {
        return Err(Fault::new("chip.request", "send the image as one descriptor beside the update"));
    };
    // A pipe could keep the chip waiting.
    let regular =
        fstat(&image).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if !regular {
        return Err(Fault::new("chip.request", "send the image as a regular file or a memfd"));
    }
    let image = copy(&File::from(image), chip.flash().code_length())
        .map_err(|_| Fault::new("chip.request", "the image's descriptor cannot be read"))?;
    chip.update(authorised, &image).map_err(fault)?;
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
            "the code region has another hash: measure it and verify it before releasing reset"
        }
        Refusal::NotHeld => "hold reset before updating",
        Refusal::Length => "the image must be exactly as long as the code region",
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

fn event(entry: Entry) -> chip::Event {
    let what = match entry.event {
        Event::WriteRefused { region, offset, bytes, attempts, changing } => {
            let region = match region {
                Region::Code => chip::Region::Code,
                Region::Variables => chip::Region::Variables,
            };
            EventKind::WriteRefused { region, offset, bytes, attempts, changing }
        }
        Event::ResetReleased => EventKind::ResetReleased,
        Event::ResetHeld => EventKind::ResetHeld,
        Event::Updated { digest } => EventKind::Updated { sha256: hex(&digest) },
        Event::UpdateRefused { code } => EventKind::UpdateRefused { code: code.to_owned() },
    };
    chip::Event { seq: entry.seq, what }
}
