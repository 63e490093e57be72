//! The NBD protocol, server side, as a state machine without I/O: bytes in, typed requests and bytes out. It
//! does the fixed newstyle negotiation and simple replies. It has no TLS, no structured replies, no metadata
//! contexts and none of the optional commands: clients learn so in the way the protocol provides. It stores
//! nothing and decides nothing about a request beyond its form: the caller answers each with [`Session::reply`].
//!
//! The boundary is a socket whose other end is hostile: no input panics, and one session never holds more than
//! one request, which is never longer than the export or [`MAX_REQUEST`].
//!
//! Sections named in this crate are those of the NBD protocol document (`proto.md`).
#![forbid(unsafe_code)]

mod negotiation;
#[cfg(test)]
mod tests;

use negotiation::Negotiation;

/// Longest read or write in bytes ("Block size constraints": what clients assume if they are not told).
pub const MAX_REQUEST: u32 = 32 * 1024 * 1024;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST_HEADER: usize = 28;

/// Something that clients may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// What clients call it.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// What a client asks of the export it opened. Ranges lie within the export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Answer with `length` bytes.
    Read {
        /// For the reply.
        cookie: u64,
        /// First byte.
        offset: u64,
        /// Bytes, at most [`MAX_REQUEST`].
        length: u32,
    },
    /// Answer with no bytes.
    Write {
        /// For the reply.
        cookie: u64,
        /// First byte.
        offset: u64,
        /// What to write.
        data: Vec<u8>,
    },
    /// Answer with no bytes, once completed writes are durable.
    Flush {
        /// For the reply.
        cookie: u64,
    },
    /// Write what [`Session::take_output`] gives, then close.
    Disconnect,
}

/// An error that a client understands ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Not permitted.
    Perm = 1,
    /// The storage failed.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// Beyond the end.
    NoSpace = 28,
}

/// What no client of this protocol sends. Nothing more can be read from it: close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not the magic number that belongs here.
    #[error("the client does not speak NBD, or lost its place")]
    Magic,
    /// Flags that are not known, or no fixed newstyle.
    #[error("the client does not negotiate in fixed newstyle")]
    ClientFlags,
    /// An option or a write that is too long to hold.
    #[error("the client sent more in one piece than is allowed")]
    TooLong,
    /// `NBD_OPT_EXPORT_NAME` can only be refused by closing.
    #[error("the client asked for an export that is not here")]
    UnknownExport,
}

#[derive(Debug)]
enum State {
    Negotiation(Negotiation),
    Transmission { export: usize },
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    exports: Vec<Export>,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Session {
    /// Starts with the greeting in the output.
    pub fn new(exports: Vec<Export>) -> Self {
        let (negotiation, output) = Negotiation::start();
        Self { exports, state: State::Negotiation(negotiation), input: Vec::new(), output }
    }

    /// Takes bytes from the client. Call [`Session::request`] until it gives nothing before feeding more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The export that the client opened, as an index into what [`Session::new`] got.
    pub fn export(&self) -> Option<usize> {
        match self.state {
            State::Transmission { export } => Some(export),
            _ => None,
        }
    }

    /// The next whole request, if there is one. May have added to the output even if not.
    pub fn request(&mut self) -> Result<Option<Request>, Violation> {
        let outcome = self.advance();
        if !matches!(
            outcome,
            Ok(None | Some(Request::Read { .. } | Request::Write { .. } | Request::Flush { .. }))
        ) {
            self.state = State::Closed;
        }
        outcome
    }

    /// Answers a request: bytes for a read, none for others, or an error.
    pub fn reply(&mut self, cookie: u64, outcome: Result<&[u8], Errno>) {
        let error = outcome.err().map_or(0, |errno| errno as u32);
        self.output.extend(REPLY_MAGIC.to_be_bytes());
        self.output.extend(error.to_be_bytes());
        self.output.extend(cookie.to_be_bytes());
        self.output.extend(outcome.unwrap_or_default());
    }

    /// What is to be written to the client.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    fn advance(&mut self) -> Result<Option<Request>, Violation> {
        loop {
            match &mut self.state {
                State::Closed => return Ok(None),
                State::Negotiation(negotiation) => {
                    match negotiation.step(&mut self.input, &mut self.output, &self.exports)? {
                        negotiation::Step::Wait => return Ok(None),
                        negotiation::Step::Again => {}
                        negotiation::Step::Abort => return Ok(Some(Request::Disconnect)),
                        negotiation::Step::Open(export) => self.state = State::Transmission { export },
                    }
                }
                State::Transmission { export } => {
                    let size = self.exports.get(*export).map_or(0, |export| export.size);
                    match self.transmission(size)? {
                        Progress::Wait => return Ok(None),
                        Progress::Refused(cookie, errno) => self.reply(cookie, Err(errno)),
                        Progress::Request(request) => return Ok(Some(request)),
                    }
                }
            }
        }
    }

    /// Takes one request off the input ("Transmission phase").
    fn transmission(&mut self, size: u64) -> Result<Progress, Violation> {
        let mut fields = Fields(&self.input);
        let (Some(magic), Some(flags), Some(kind)) = (fields.u32(), fields.u16(), fields.u16()) else {
            return Ok(Progress::Wait);
        };
        let (Some(cookie), Some(offset), Some(length)) = (fields.u64(), fields.u64(), fields.u32()) else {
            return Ok(Progress::Wait);
        };
        if magic != REQUEST_MAGIC {
            return Err(Violation::Magic);
        }
        let fits = length <= MAX_REQUEST && u64::from(length) <= size;
        let within = fits && offset.checked_add(length.into()).is_some_and(|end| end <= size);
        let mut data = Vec::new();
        if kind == WRITE {
            let payload = usize::try_from(length).ok().filter(|_| fits).ok_or(Violation::TooLong)?;
            let Some(bytes) = fields.0.get(..payload) else { return Ok(Progress::Wait) };
            data = bytes.to_vec();
        }
        self.input.drain(..REQUEST_HEADER + data.len());
        Ok(match kind {
            DISCONNECT => Progress::Request(Request::Disconnect),
            _ if flags != 0 => Progress::Refused(cookie, Errno::Invalid),
            READ if within => Progress::Request(Request::Read { cookie, offset, length }),
            WRITE if within => Progress::Request(Request::Write { cookie, offset, data }),
            WRITE => Progress::Refused(cookie, Errno::NoSpace),
            FLUSH => Progress::Request(Request::Flush { cookie }),
            _ => Progress::Refused(cookie, Errno::Invalid),
        })
    }
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

enum Progress {
    Wait,
    Refused(u64, Errno),
    Request(Request),
}

/// Reads big-endian fields from the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}
