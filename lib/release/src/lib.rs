//! Releases: what a host may run, signed by the root key whose hash is in the host's fuse. A release is a folder with
//! stage 1, a signed manifest and one file for each image; beside it goes a signed configuration. This crate makes and
//! reads them. It starts nothing, asks no TPM, and does not decide whether a host takes a release: stage 1 and the
//! controller do.
//!
//! The boundary is the one between who makes releases and a host: whatever comes in a release is hostile until the
//! root key's signature and the hash in the manifest say otherwise. All parsing is bounded.
#![forbid(unsafe_code)]

mod configuration;
mod folder;
mod kind;
mod manifest;
mod report;
mod root_key;
mod signed;
mod stage1;

pub use configuration::{CONFIGURATION, Configuration, MAX_TEXT};
pub use folder::{Folder, MAX_IMAGE, Make, burn_fuse, read_image};
pub use kind::Kind;
pub use manifest::{Image, MANIFEST, MAX_IMAGES, Manifest};
pub use report::Report;
pub use root_key::RootKey;
pub use stage1::{Stage1, environment};

use std::{io, path::PathBuf};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Why a release or a configuration cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not of a known form.
    #[error("{0} is damaged or of an unknown form: take it from its maker again")]
    Form(&'static str),
    /// Nobody signed it, or somebody else.
    #[error("{0} is not signed by this host's root key: take it from its maker again")]
    Signature(&'static str),
    /// The file is not the one that the manifest names.
    #[error("the image `{0}` is not the one that the manifest names: take the release from its maker again")]
    Image(Kind),
    /// The system would start another program for it.
    #[error(
        "the program `{0}` names a loader or a shell, which nobody measures: link it statically \
         (-Ctarget-feature=+crt-static)"
    )]
    Program(Kind),
    /// Something that cannot be written into a release.
    #[error("{0}")]
    Make(String),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Form(_) => "release.form",
            Self::Signature(_) => "release.signature",
            Self::Image(_) => "release.image",
            Self::Program(_) => "release.program",
            Self::Make(_) => "release.make",
            Self::File { .. } => "release.file",
        }
    }

    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}

/// SHA-256 over `parts`, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Text for people in a signed document: 1 to `longest` bytes, no control characters.
fn is_text(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && !text.chars().any(char::is_control)
}
