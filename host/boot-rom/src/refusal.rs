//! Why the boot ROM starts nothing.

/// A refusal. The texts hold no character that JSON escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The command line is not as it should be.
    Arguments,
    /// The fuse is missing, unburnt or not a fuse.
    Fuse,
    /// Stage 1 carries another root key than the fuse knows.
    RootKey,
    /// Stage 1 is missing, cannot be read or has no header of a known format.
    Header,
    /// The root key did not sign the header.
    Signature,
    /// The image is not the one that the header names.
    Hash,
    /// Stage 1 names another program, which nobody has measured.
    Program,
    /// The security version is older than what this host ran already.
    Rollback,
    /// Stage 1 is for another environment than this host.
    Environment,
    /// The TPM does not answer, or not as a TPM of this host.
    Tpm,
    /// The system does not start stage 1.
    Start,
}

impl Refusal {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Arguments => "rom.arguments",
            Self::Fuse => "rom.fuse",
            Self::RootKey => "rom.root-key",
            Self::Header => "rom.header",
            Self::Signature => "rom.signature",
            Self::Hash => "rom.hash",
            Self::Program => "rom.program",
            Self::Rollback => "rom.rollback",
            Self::Environment => "rom.environment",
            Self::Tpm => "rom.tpm",
            Self::Start => "rom.start",
        }
    }

    /// What it is about: the entry of the event log, where there is one.
    pub fn entry(self) -> &'static str {
        match self {
            Self::RootKey => crate::events::ROOT_KEY,
            Self::Header
            | Self::Signature
            | Self::Hash
            | Self::Program
            | Self::Rollback
            | Self::Environment
            | Self::Start => crate::events::STAGE_1,
            Self::Arguments => "arguments",
            Self::Fuse => "fuse",
            Self::Tpm => "tpm",
        }
    }

    /// What to do about it.
    pub fn message(self) -> &'static str {
        match self {
            Self::Arguments => {
                "usage: azote-boot-rom --fuse FILE --tpm PATH --stage1 FILE --report FILE [--clear] -- ARGUMENT..."
            }
            Self::Fuse => {
                "the fuse is missing, unburnt, writable or damaged: this board was never made ready"
            }
            Self::RootKey => "stage 1 is not signed by this host's root key: put back a release of its maker",
            Self::Header => "stage 1 is missing or has no header of a known format: put back the release",
            Self::Signature => "the header of stage 1 is altered or not signed: put back the release",
            Self::Hash => "the image of stage 1 is altered or cut: put back the release",
            Self::Program => {
                "stage 1 is not linked statically: its loader would be unmeasured; take another release"
            }
            Self::Rollback => "stage 1 is older than what this host ran already: take a later release",
            Self::Environment => {
                "stage 1 is for another environment than this host: take a release for its own"
            }
            Self::Tpm => "the TPM does not answer or holds what this host never wrote there",
            Self::Start => "the system does not start stage 1",
        }
    }
}
