//! Why a command failed.

use service::CallError;
use std::io::ErrorKind;

/// One failure, with the stable code of whoever refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A service or the host refused, or could not be reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A volume could not be made or found.
    #[error(transparent)]
    Volume(#[from] volumes::StoreError),
    /// An image could not be written into a volume.
    #[error(transparent)]
    Import(#[from] volumes::ImportError),
    /// A process did not start or stop.
    #[error(transparent)]
    Rack(#[from] crate::rack::RackError),
    /// The lab lacks something.
    #[error(transparent)]
    Parts(#[from] parts::Error),
    /// The root image could not be built.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The console of an instance did not open.
    #[error(transparent)]
    Sealed(#[from] seal::console::ConsoleError),
    /// The guest did not do as asked.
    #[error(transparent)]
    Console(#[from] crate::console::ConsoleError),
    /// What was asked does not fit what is there; the first is the stable code.
    #[error("{1}")]
    Advice(&'static str, String),
    /// A stage of the host's start refused.
    #[error("the host does not start, {} refused `{}`: {}", .0.stage, .0.entry, .0.message)]
    Start(release::Report),
    /// The state folder does not hold what it should.
    #[error("{0}")]
    State(String),
    /// The system refused.
    #[error("{0}: {1}{hint}", hint = hint(.1.kind()))]
    Io(String, #[source] std::io::Error),
    /// At least one promise of the demo did not hold.
    #[error(
        "not every promise held: see ✘ above; `azote demo --keep` leaves the host and its logs to look at"
    )]
    Promise,
    /// What was printed says what is wrong; the first is the stable code.
    #[error("{1}")]
    Reported(&'static str, &'static str),
    /// The environment's authority does not take the host in, or knows none such.
    #[error(transparent)]
    Enroll(#[from] pki::Error),
    /// A host's evidence, or a policy, is not accepted.
    #[error(transparent)]
    Attest(#[from] attest::Refusal),
    /// An instance's document is not accepted.
    #[error(transparent)]
    Document(#[from] nsm::Refusal),
    /// Ctrl-C.
    #[error("interrupted: what this command started is stopped again")]
    Interrupted,
}

impl Failure {
    /// Stable, for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Call(error) => error.code(),
            Self::Volume(error) => error.code(),
            Self::Import(error) => error.code(),
            Self::Rack(error) => error.code(),
            Self::Parts(_) => "lab.parts",
            Self::Image(_) => "lab.image",
            Self::Sealed(error) => error.code(),
            Self::Console(error) => error.code(),
            Self::Advice(code, _) | Self::Reported(code, _) => code,
            Self::Start(report) => &report.code,
            Self::Enroll(error) => error.code(),
            Self::Attest(refusal) => refusal.code.as_str(),
            Self::Document(refusal) => refusal.code.as_str(),
            Self::State(_) => "state.invalid",
            Self::Io(..) => "io.failed",
            Self::Promise => "demo.promise-broken",
            Self::Interrupted => "interrupted",
        }
    }

    /// What happened and what to do, without the code.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Call(CallError::Refused { message, .. }) => message.clone(),
            other => other.to_string(),
        }
    }

    /// Something in the state folder is not as it should be.
    #[expect(clippy::needless_pass_by_value, reason = "handed to `map_err` by name")]
    pub(crate) fn state(why: impl ToString) -> Self {
        Self::State(why.to_string())
    }
}

/// What to do about a refusal of the system.
fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => ": give a path that exists",
        ErrorKind::PermissionDenied => {
            ": this user may not; become its owner, or give a --state folder of your own"
        }
        ErrorKind::ReadOnlyFilesystem => ": give a --state folder on a file system that can be written",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free some space, then try again",
        ErrorKind::NotADirectory => ": a file is where a folder should be; give another --state",
        _ => "",
    }
}

/// Says what was being done when the system refused.
pub(crate) trait Doing<T> {
    /// Names the act or the file.
    fn doing(self, what: impl ToString) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl ToString) -> Result<T, Failure> {
        self.map_err(|error| Failure::Io(what.to_string(), error.into()))
    }
}
