//! Flashes of one page each. An image is a number, over and over; its digest is that number, over and over.

use chip_core::{Digest, Flash, Master, Region};

/// Bytes of a page.
pub(super) const PAGE: usize = 256;
/// An image that a torn update leaves.
pub(super) const TORN: u8 = 3;
/// The variables that the flash holds.
pub(super) const VARIABLES: u8 = 0xf0;

static PAGES: [[u8; PAGE]; 256] = pages();

const fn pages() -> [[u8; PAGE]; 256] {
    let mut pages = [[0; PAGE]; 256];
    let mut number = u8::MAX;
    while number > 0 {
        pages[number as usize] = [number; PAGE];
        number -= 1;
    }
    pages
}

/// A page of this number.
pub(super) fn page(number: u8) -> &'static [u8] {
    &PAGES[usize::from(number)]
}

/// Its digest.
pub(super) const fn digest_of(number: u8) -> Digest {
    [number; 32]
}

/// How the next update goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tear {
    /// It stops half-way and says so.
    Told,
    /// It stops half-way and does not.
    Silent,
}

/// What the flash does wrong on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Wrong {
    /// Gives the digest of what was to be written, not of what is there.
    pub(super) reads_back_what_was_sent: bool,
    /// The board reads the flash, not what was measured.
    pub(super) serves_the_flash: bool,
    /// Variables stay when they are to be dropped.
    pub(super) keeps_variables: bool,
}

/// Both flashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Flashes {
    /// What they hold as firmware.
    pub(super) code: [u8; 2],
    /// What the board reads as firmware.
    pub(super) served: [u8; 2],
    /// What the board reads as variables.
    pub(super) variables: u8,
    pub(super) tear: Option<Tear>,
    sent: [Option<u8>; 2],
    pub(super) wrong: Wrong,
}

impl Flashes {
    /// After power on.
    pub(super) fn new(code: [u8; 2], wrong: Wrong) -> Self {
        Self { code, served: code, variables: VARIABLES, tear: None, sent: [None; 2], wrong }
    }

    /// Somebody writes a flash past the chip.
    pub(super) fn write(&mut self, of: Master, number: u8) {
        self.code[of as usize] = number;
        if self.wrong.serves_the_flash {
            self.served[of as usize] = number;
        }
    }
}

impl Flash for Flashes {
    type Error = ();

    fn served(&self, region: Region) -> &[u8] {
        match region {
            Region::Code(of) => page(self.served[of as usize]),
            Region::Variables => page(self.variables),
        }
    }

    fn measure(&mut self, of: Master) -> Result<Digest, ()> {
        let sent = self.sent[of as usize].filter(|_| self.wrong.reads_back_what_was_sent);
        Ok(digest_of(sent.unwrap_or(self.code[of as usize])))
    }

    fn reload(&mut self, of: Master) -> Result<Digest, ()> {
        self.served[of as usize] = self.code[of as usize];
        self.measure(of)
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        digest_of(bytes.first().copied().unwrap_or_default())
    }

    fn program(&mut self, of: Master, image: &[u8]) -> Result<(), ()> {
        let number = image.first().copied().ok_or(())?;
        let tear = self.tear.take();
        self.write(of, if tear.is_some() { TORN } else { number });
        self.sent[of as usize] = Some(number).filter(|_| self.wrong.reads_back_what_was_sent);
        if tear == Some(Tear::Told) { Err(()) } else { Ok(()) }
    }

    fn overlay(&mut self, _: u64, data: &[u8]) {
        self.variables = data.first().copied().unwrap_or(self.variables);
    }

    fn drop_overlay(&mut self) {
        if !self.wrong.keeps_variables {
            self.variables = VARIABLES;
        }
    }

    fn identity(&self) -> &[u8] {
        &[]
    }
}
