//! Fixed newstyle negotiation: client flags, then options until an export is open.

use crate::{Export, Fields, MAX_REQUEST, Violation};

const GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Longest option: the protocol bounds a name to 4096 bytes, and 2048 information requests are plenty.
const MAX_OPTION: u32 = 8192;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
/// `NBD_FLAG_HAS_FLAGS` and `NBD_FLAG_SEND_FLUSH`: nothing else is offered.
const TRANSMISSION_FLAGS: u16 = 1 | 4;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
const REP_ERR_INVALID: u32 = (1 << 31) + 3;
const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

#[derive(Debug)]
pub(crate) enum Negotiation {
    ClientFlags,
    Options { no_zeroes: bool },
}

pub(crate) enum Step {
    Wait,
    Again,
    Abort,
    Open(usize),
}

impl Negotiation {
    pub(crate) fn start() -> (Self, Vec<u8>) {
        (Self::ClientFlags, [&GREETING[..], &(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes()].concat())
    }

    pub(crate) fn step(
        &mut self,
        input: &mut Vec<u8>,
        output: &mut Vec<u8>,
        exports: &[Export],
    ) -> Result<Step, Violation> {
        let mut fields = Fields(input);
        match *self {
            Self::ClientFlags => {
                let Some(flags) = fields.u32() else { return Ok(Step::Wait) };
                let known = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
                if flags & !known != 0 || flags & u32::from(FIXED_NEWSTYLE) == 0 {
                    return Err(Violation::ClientFlags);
                }
                input.drain(..4);
                *self = Self::Options { no_zeroes: flags & u32::from(NO_ZEROES) != 0 };
                Ok(Step::Again)
            }
            Self::Options { no_zeroes } => {
                let (Some(magic), Some(option), Some(length)) = (fields.array(), fields.u32(), fields.u32())
                else {
                    return Ok(Step::Wait);
                };
                if magic != OPTION_MAGIC {
                    return Err(Violation::Magic);
                }
                if length > MAX_OPTION {
                    return Err(Violation::TooLong);
                }
                let Some(data) = fields.bytes(length) else { return Ok(Step::Wait) };
                let used = input.len() - fields.0.len();
                let step = Options { output, exports, no_zeroes, option }.answer(data);
                input.drain(..used);
                step
            }
        }
    }
}

/// One option being answered.
struct Options<'a> {
    output: &'a mut Vec<u8>,
    exports: &'a [Export],
    no_zeroes: bool,
    option: u32,
}

impl Options<'_> {
    fn answer(&mut self, data: &[u8]) -> Result<Step, Violation> {
        match self.option {
            OPT_EXPORT_NAME => {
                let (index, export) = self.find(data).ok_or(Violation::UnknownExport)?;
                let size = export.size;
                self.output.extend(size.to_be_bytes());
                self.output.extend(TRANSMISSION_FLAGS.to_be_bytes());
                self.output.extend(&[0; 124][if self.no_zeroes { 124 } else { 0 }..]);
                return Ok(Step::Open(index));
            }
            OPT_ABORT => {
                self.reply(REP_ACK, &[]);
                return Ok(Step::Abort);
            }
            OPT_LIST if data.is_empty() => {
                for export in self.exports {
                    let name = export.name.as_bytes();
                    let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
                    self.reply(REP_SERVER, &[&length, name].concat());
                }
                self.reply(REP_ACK, &[]);
            }
            OPT_INFO | OPT_GO => {
                let Some((name, wanted)) = information(data) else {
                    self.reply(REP_ERR_INVALID, &[]);
                    return Ok(Step::Again);
                };
                let Some((index, export)) = self.find(name) else {
                    self.reply(REP_ERR_UNKNOWN, &[]);
                    return Ok(Step::Again);
                };
                let export = [&export.size.to_be_bytes()[..], &TRANSMISSION_FLAGS.to_be_bytes()].concat();
                self.reply(REP_INFO, &[&INFO_EXPORT.to_be_bytes(), &export[..]].concat());
                if wanted.chunks(2).any(|kind| kind == INFO_BLOCK_SIZE.to_be_bytes()) {
                    let sizes = [1, 4096, MAX_REQUEST].map(u32::to_be_bytes).concat();
                    self.reply(REP_INFO, &[&INFO_BLOCK_SIZE.to_be_bytes(), &sizes[..]].concat());
                }
                self.reply(REP_ACK, &[]);
                if self.option == OPT_GO {
                    return Ok(Step::Open(index));
                }
            }
            OPT_LIST => self.reply(REP_ERR_INVALID, &[]),
            _ => self.reply(REP_ERR_UNSUP, &[]),
        }
        Ok(Step::Again)
    }

    fn find(&self, name: &[u8]) -> Option<(usize, &Export)> {
        self.exports.iter().enumerate().find(|(_, export)| export.name.as_bytes() == name)
    }

    fn reply(&mut self, kind: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.output.extend(REPLY_MAGIC.to_be_bytes());
        self.output.extend([self.option, kind, length].map(u32::to_be_bytes).concat());
        self.output.extend(data);
    }
}

/// The name and the list of wanted information of `NBD_OPT_INFO` and `NBD_OPT_GO`.
fn information(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(data);
    let length = fields.u32()?;
    let name = fields.bytes(length)?;
    let count = fields.u16()?;
    let wanted = fields.bytes(u32::from(count) * 2)?;
    fields.0.is_empty().then_some((name, wanted))
}
