//! Why a command failed.

/// One failure, with the stable code of whoever refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A service or the host refused, or could not be reached.
    #[error(transparent)]
    Call(#[from] service::CallError),
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
    /// The guest did not do as asked.
    #[error(transparent)]
    Console(#[from] crate::console::ConsoleError),
    /// The state folder does not hold what it should.
    #[error("{0}")]
    State(String),
    /// The system refused.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// At least one promise of the demo did not hold.
    #[error("not every promise held; see above")]
    Promise,
}

impl Failure {
    /// Stable, for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Call(error) => error.code(),
            Self::Volume(error) => error.code(),
            Self::Import(error) => error.code(),
            Self::Rack(_) => "rack.failed",
            Self::Parts(_) => "lab.parts",
            Self::Image(_) => "lab.image",
            Self::Console(_) => "guest.silent",
            Self::State(_) => "state.invalid",
            Self::Io(..) => "io.failed",
            Self::Promise => "demo.promise-broken",
        }
    }

    /// Something in the state folder is not as it should be.
    #[expect(clippy::needless_pass_by_value, reason = "handed to `map_err` by name")]
    pub(crate) fn state(why: impl ToString) -> Self {
        Self::State(why.to_string())
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
