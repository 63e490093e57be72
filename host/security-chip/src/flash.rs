//! The flash image files: one of the processors' firmware, one of the BMC's, one of the processors' variables.
//!
//! An update goes through a journal beside the firmware's file, opened at start: first the whole image with its
//! checksum, made durable, then the firmware's file, made durable, then the journal is emptied. So a power cut at any
//! byte leaves the old image (the journal is torn and dropped) or the new one (the journal is whole and written
//! again at the next start). Journal, numbers big-endian: magic `AZFLASHJ`, format version (2 bytes), producer
//! (16, text, zero-padded), length (8), SHA-256 of the image (32), image.

use crate::identity;
use chip_core::{Digest, Flash, Master, Region};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    io::{self, Error, ErrorKind},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Longest region in bytes: the largest SPI flash parts on boards.
const MAX_REGION: u64 = 64 * 1024 * 1024;
/// Bytes in a sector. QEMU reads flash in whole sectors.
const SECTOR: u64 = 512;
const MAGIC: &[u8; 8] = b"AZFLASHJ";
const VERSION: u16 = 1;
const PRODUCER: &[u8] = concat!("security-chip ", env!("CARGO_PKG_VERSION")).as_bytes();
const HEADER: usize = 8 + 2 + 16 + 8 + 32;

/// One master's firmware: a file that only updates change.
#[derive(Debug)]
struct Part {
    code: File,
    journal: File,
    /// What the board reads.
    served: Vec<u8>,
}

/// The flashes, and variables that are never written back.
#[derive(Debug)]
pub(crate) struct FlashFiles {
    cpu: Part,
    /// None on a board whose BMC has no flash.
    bmc: Option<Part>,
    /// What the flash holds as variables.
    original: Vec<u8>,
    /// What the board reads and writes as variables.
    variables: Vec<u8>,
    identity: [u8; 256],
}

impl Part {
    /// Opens the file for this process alone and finishes or drops an interrupted update.
    fn open(path: &Path) -> io::Result<Self> {
        let code = File::options().read(true).write(true).open(path)?;
        flock(&code, FlockOperation::NonBlockingLockExclusive)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".journal");
        let journal =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        let mut part = Self { code, journal, served: Vec::new() };
        part.recover()?;
        part.served = read_all(&part.code)?;
        Ok(part)
    }

    fn recover(&self) -> io::Result<()> {
        let length = self.journal.metadata()?.len();
        if length == 0 {
            return Ok(());
        }
        let mut journal = vec![0; usize::try_from(length.min(MAX_REGION * 2)).map_err(Error::other)?];
        self.journal.read_exact_at(&mut journal, 0)?;
        match image_in(&journal) {
            Some(image) if image.len() as u64 == self.code.metadata()?.len() => {
                tracing::warn!("finishing an update that was interrupted");
                self.finish(image)
            }
            _ => {
                tracing::warn!("dropping an update that was interrupted before it was complete");
                self.journal.set_len(0)?;
                self.journal.sync_all()
            }
        }
    }

    /// From a durable journal to the code file.
    fn finish(&self, image: &[u8]) -> io::Result<()> {
        self.code.write_all_at(image, 0)?;
        self.code.sync_all()?;
        self.journal.set_len(0)?;
        self.journal.sync_all()
    }

    fn reload(&mut self) -> io::Result<Digest> {
        let code = read_all(&self.code)?;
        if code.len() != self.served.len() {
            return Err(Error::new(ErrorKind::InvalidData, "the code file has changed its length"));
        }
        self.served = code;
        Ok(sha256(&self.served))
    }

    fn program(&self, image: &[u8]) -> io::Result<()> {
        self.journal.set_len(0)?;
        self.journal.write_all_at(&journal_of(image), 0)?;
        self.journal.sync_all()?;
        self.finish(image)
    }
}

impl FlashFiles {
    /// Opens the files; the BMC's may be none.
    pub(crate) fn open(code: &Path, variables: &Path, bmc: Option<&Path>) -> io::Result<Self> {
        let (cpu, bmc) = (Part::open(code)?, bmc.map(Part::open).transpose()?);
        let original = read_all(&File::open(variables)?)?;
        let variables = original.clone();
        Ok(Self { cpu, bmc, original, variables, identity: identity::memory() })
    }

    /// What the board reads.
    pub(crate) fn read(&self, region: Region, offset: u64, length: u32) -> Option<&[u8]> {
        self.served(region).get(range(offset, length.try_into().ok()?)?)
    }

    fn part(&mut self, of: Master) -> Option<&mut Part> {
        match of {
            Master::Cpu => Some(&mut self.cpu),
            Master::Bmc => self.bmc.as_mut(),
        }
    }
}

impl Flash for FlashFiles {
    type Error = Error;

    fn served(&self, region: Region) -> &[u8] {
        match region {
            Region::Code(Master::Cpu) => &self.cpu.served,
            Region::Code(Master::Bmc) => self.bmc.as_ref().map_or(&[], |part| &part.served),
            Region::Variables => &self.variables,
        }
    }

    fn measure(&mut self, of: Master) -> io::Result<Digest> {
        let code = self.part(of).map(|part| read_all(&part.code)).transpose()?;
        Ok(sha256(&code.unwrap_or_default()))
    }

    fn reload(&mut self, of: Master) -> io::Result<Digest> {
        self.part(of).map_or_else(|| Ok(sha256(&[])), Part::reload)
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        sha256(bytes)
    }

    fn program(&mut self, of: Master, image: &[u8]) -> io::Result<()> {
        self.part(of).ok_or(ErrorKind::NotFound)?.program(image)
    }

    fn overlay(&mut self, offset: u64, data: &[u8]) {
        let target = range(offset, data.len()).and_then(|range| self.variables.get_mut(range));
        target.unwrap_or_default().iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    }

    fn drop_overlay(&mut self) {
        self.variables.clone_from(&self.original);
    }

    fn identity(&self) -> &[u8] {
        &self.identity
    }
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

fn range(offset: u64, length: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(length)?)
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if !(SECTOR..=MAX_REGION).contains(&length) || !length.is_multiple_of(SECTOR) {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "a flash region has whole sectors of 512 bytes, 64 MiB at most",
        ));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn journal_of(image: &[u8]) -> Vec<u8> {
    let mut producer = [0; 16];
    producer.iter_mut().zip(PRODUCER).for_each(|(to, from)| *to = *from);
    let length = (image.len() as u64).to_be_bytes();
    [MAGIC, &VERSION.to_be_bytes()[..], &producer, &length, &sha256(image), image].concat()
}

fn image_in(journal: &[u8]) -> Option<&[u8]> {
    let (header, image) = journal.split_at_checked(HEADER)?;
    let rest = header.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_be_bytes())?.get(16..)?;
    let (length, checksum) = rest.split_first_chunk()?;
    (u64::from_be_bytes(*length) == image.len() as u64 && sha256(image)[..] == *checksum).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_power_cut_at_any_byte_leaves_the_old_or_the_new_image() {
        let folder = tempfile::tempdir().unwrap();
        let [code, variables, journal] =
            ["code", "variables", "code.journal"].map(|name| folder.path().join(name));
        let (old, new): (Vec<u8>, Vec<u8>) = (vec![1; 512], vec![2; 512]);
        fs::write(&variables, [0; 512]).unwrap();
        let whole = journal_of(&new);
        let start = |code_now: &[u8], journal_now: &[u8]| {
            fs::write(&code, code_now).unwrap();
            fs::write(&journal, journal_now).unwrap();
            let flash = FlashFiles::open(&code, &variables, None).unwrap();
            assert_eq!(fs::metadata(&journal).unwrap().len(), 0);
            assert_eq!(flash.cpu.served, fs::read(&code).unwrap());
            flash.cpu.served
        };
        // Every byte of the header, and a few of the image: each start waits for the disk.
        for cut in (0..=HEADER).chain((HEADER..whole.len()).step_by(61)) {
            assert_eq!(start(&old, &whole[..cut]), old, "journal cut at {cut}");
            let mut torn = whole.clone();
            torn[cut] ^= 1;
            // The producer's name is for people.
            assert_eq!(start(&old, &torn) == old, !(10..26).contains(&cut), "journal torn at {cut}");
        }
        for cut in (0..=new.len()).step_by(64) {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert_eq!(start(&torn, &whole), new, "code cut at {cut}");
        }
        assert_eq!(start(&old, &journal_of(b"of another length")), old);
    }

    #[test]
    fn one_process_owns_the_flash() {
        let folder = tempfile::tempdir().unwrap();
        let [code, variables] = ["code", "variables"].map(|name| folder.path().join(name));
        fs::write(&code, [0; 512]).unwrap();
        fs::write(&variables, [0; 512]).unwrap();
        let _owner = FlashFiles::open(&code, &variables, None).unwrap();
        assert_eq!(FlashFiles::open(&code, &variables, None).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
