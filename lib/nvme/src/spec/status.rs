//! Completion status (§4.6.1, figures 124 to 129).

use std::fmt;

/// The status field of a completion: code, code type, More and Do Not Retry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:expr;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($code);)*
        }

        const NAMES: &[(Status, &str)] = &[$((Status::$name, stringify!($name)),)*];
    };
}

statuses! {
    /// 00h.
    SUCCESS = 0;
    /// 01h: the opcode is not implemented.
    INVALID_OPCODE = 0x01 | DO_NOT_RETRY;
    /// 02h: a field holds a value that is reserved or not supported.
    INVALID_FIELD = 0x02 | DO_NOT_RETRY;
    /// 04h: guest memory could not be read or written.
    DATA_TRANSFER_ERROR = 0x04;
    /// 06h: the controller failed.
    INTERNAL_ERROR = 0x06;
    /// 07h: aborted by an Abort command.
    ABORTED = 0x07;
    /// 08h: aborted because its submission queue was deleted.
    ABORTED_QUEUE_DELETED = 0x08;
    /// 0Bh: no such namespace.
    INVALID_NAMESPACE = 0x0b | DO_NOT_RETRY;
    /// 0Ch: not at this point of the protocol.
    COMMAND_SEQUENCE = 0x0c | DO_NOT_RETRY;
    /// 13h: a PRP entry has an offset that it may not have.
    PRP_OFFSET_INVALID = 0x13 | DO_NOT_RETRY;
    /// 80h: beyond the end of the namespace.
    LBA_OUT_OF_RANGE = 0x80 | DO_NOT_RETRY;
    /// 100h: no such completion queue.
    COMPLETION_QUEUE_INVALID = 0x100 | DO_NOT_RETRY;
    /// 101h: queue identifier out of range, in use, or not there.
    INVALID_QUEUE_IDENTIFIER = 0x101 | DO_NOT_RETRY;
    /// 102h: queue too small or too big.
    INVALID_QUEUE_SIZE = 0x102 | DO_NOT_RETRY;
    /// 105h: more asynchronous event requests than AERL allows.
    TOO_MANY_EVENT_REQUESTS = 0x105 | DO_NOT_RETRY;
    /// 108h: no such interrupt vector.
    INVALID_INTERRUPT_VECTOR = 0x108 | DO_NOT_RETRY;
    /// 109h: no such log page.
    INVALID_LOG_PAGE = 0x109 | DO_NOT_RETRY;
    /// 10Ch: the completion queue still has submission queues.
    INVALID_QUEUE_DELETION = 0x10c | DO_NOT_RETRY;
    /// 10Dh: no feature can be saved.
    FEATURE_NOT_SAVEABLE = 0x10d | DO_NOT_RETRY;
    /// 10Fh: the feature belongs to the controller, not to a namespace.
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10f | DO_NOT_RETRY;
    /// 280h: the medium did not take the data.
    WRITE_FAULT = 0x280;
    /// 281h: the medium did not give the data.
    UNRECOVERED_READ = 0x281;
}

impl Status {
    /// The status field as it stands in a completion, without the phase bit (15 bits).
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Takes the status field of a completion, without the phase bit (15 bits).
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// Status code type and status code alone: `0x080` is LBA Out of Range.
    pub const fn code(self) -> u16 {
        self.0 & 0x7ff
    }

    /// The status code type: 0 generic, 1 command specific, 2 media and data integrity.
    pub const fn kind(self) -> u16 {
        (self.0 >> 8) & 7
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// The same with the More bit: the error log has an entry.
    pub(crate) const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(status, _)| status.code() == self.code());
        write!(out, "{}({:#05x})", name.map_or("Status", |(_, name)| name), self.code())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}
