//! Refusals that the controller is told.

use seal::KeyError;
use wire::Fault;

/// Why a request of the controller was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the volume is attached already")]
    Exists,
    #[error("no such volume is attached")]
    Unknown,
    #[error("somebody is connected to the volume's function already: let them go first")]
    Connected,
    #[error("a guest driver uses the volume: shut the guest down or remove the device there, or use force")]
    Busy,
    #[error("the backing store has {found} bytes and the volume {wanted}: give the right one")]
    Size { found: u64, wanted: u64 },
    #[error("the backing store cannot be used: {0}")]
    Io(&'static str),
    #[error("the card shows {} volumes already: detach one", crate::MAX_VOLUMES)]
    Full,
    #[error("not a proper request: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists => "volume.exists",
            Refusal::Unknown => "volume.unknown",
            Refusal::Connected => "volume.connected",
            Refusal::Busy => "volume.busy",
            Refusal::Size { .. } => "volume.size",
            Refusal::Io(_) => "volume.io",
            Refusal::Full => "card.full",
            Refusal::Malformed(_) => "request.malformed",
            Refusal::Key(error) => error.code(),
        };
        Self::new(code, refusal.to_string())
    }
}
