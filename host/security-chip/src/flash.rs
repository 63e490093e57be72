//! The flash image files.
//!
//! An update goes through a journal beside the code file, opened at start: first the whole image with its
//! checksum, made durable, then the code file, made durable, then the journal is emptied. So a power cut at any
//! byte leaves the old image (the journal is torn and dropped) or the new one (the journal is whole and written
//! again at the next start). Journal, numbers big-endian: magic `AZFLASHJ`, format version (2 bytes), producer
//! (16, text, zero-padded), length (8), SHA-256 of the image (32), image.

use rustix::fs::{FlockOperation, flock};
use security_chip::{Digest, Flash, Region};
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

/// The flash: a code file that only updates change, and variables that are never written back.
#[derive(Debug)]
pub(crate) struct FlashFiles {
    code: File,
    journal: File,
    /// What the board reads as code.
    served: Vec<u8>,
    /// What the flash holds as variables.
    original: Vec<u8>,
    /// What the board reads and writes as variables.
    variables: Vec<u8>,
}

impl FlashFiles {
    /// Opens the files for this process alone and finishes or drops an interrupted update.
    pub(crate) fn open(code_path: &Path, variables_path: &Path) -> io::Result<Self> {
        let code = File::options().read(true).write(true).open(code_path)?;
        flock(&code, FlockOperation::NonBlockingLockExclusive)?;
        let mut name = code_path.as_os_str().to_owned();
        name.push(".journal");
        let journal =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&name)?;
        let folder = code_path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        let original = read_all(&File::open(variables_path)?)?;
        let variables = original.clone();
        let mut flash = Self { code, journal, served: Vec::new(), original, variables };
        flash.recover()?;
        flash.served = read_all(&flash.code)?;
        Ok(flash)
    }

    /// What the board reads.
    pub(crate) fn read(&self, region: Region, offset: u64, length: u32) -> Option<&[u8]> {
        self.region(region).get(range(offset, length.try_into().ok()?)?)
    }

    /// A region as the board reads it.
    pub(crate) fn region(&self, region: Region) -> &[u8] {
        match region {
            Region::Code => &self.served,
            Region::Variables => &self.variables,
        }
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
}

impl Flash for FlashFiles {
    type Error = Error;

    fn code_length(&self) -> u64 {
        self.served.len() as u64
    }

    fn measure(&mut self) -> io::Result<Digest> {
        Ok(sha256(&read_all(&self.code)?))
    }

    fn reload(&mut self) -> io::Result<Digest> {
        let code = read_all(&self.code)?;
        if code.len() != self.served.len() {
            return Err(Error::new(ErrorKind::InvalidData, "the code file has changed its length"));
        }
        self.served = code;
        Ok(sha256(&self.served))
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        sha256(bytes)
    }

    fn program(&mut self, image: &[u8]) -> io::Result<()> {
        self.journal.set_len(0)?;
        self.journal.write_all_at(&journal_of(image), 0)?;
        self.journal.sync_all()?;
        self.finish(image)
    }

    fn holds(&self, region: Region, offset: u64, data: &[u8]) -> bool {
        range(offset, data.len()).and_then(|at| self.region(region).get(at)) == Some(data)
    }

    fn overlay(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let target = range(offset, data.len()).and_then(|range| self.variables.get_mut(range));
        target.ok_or(ErrorKind::InvalidInput)?.copy_from_slice(data);
        Ok(())
    }

    fn drop_overlay(&mut self) {
        self.variables.clone_from(&self.original);
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
            let flash = FlashFiles::open(&code, &variables).unwrap();
            assert_eq!(fs::metadata(&journal).unwrap().len(), 0);
            assert_eq!(flash.served, fs::read(&code).unwrap());
            flash.served
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
        let _owner = FlashFiles::open(&code, &variables).unwrap();
        assert_eq!(FlashFiles::open(&code, &variables).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}
