//! Releases as folders, and the fuse.

use crate::{
    Digest, Error, Image, Kind, MANIFEST, Manifest, RootKey, Stage1, root_key::write_new, sha256,
    signed::MAX_SIGNED,
};
use boot_rom::{header::HEADER, program::names_another};
use ids::Environment;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};
use token::PublicKey;

/// Most bytes of an image.
pub const MAX_IMAGE: u64 = boot_rom::header::MAX_IMAGE;

/// A verified manifest and where its images lie.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest's file.
    pub signed: Vec<u8>,
}

impl Folder {
    /// Reads a release's manifest and verifies its signature. The images are not looked at.
    pub fn open(path: &Path, root_key: &PublicKey) -> Result<Self, Error> {
        let signed = read_bounded(&path.join(MANIFEST), MAX_SIGNED as u64)?;
        let manifest = Manifest::open(&signed, root_key)?;
        Ok(Self { path: path.to_owned(), manifest, signed })
    }

    /// Reads an image and verifies it.
    pub fn image(&self, kind: Kind) -> Result<Vec<u8>, Error> {
        let image = self.manifest.image(kind).ok_or(Error::Image(kind))?;
        let bytes = read_image(&self.path.join(kind.name()), image)?;
        let header = if kind == Kind::Stage1 { HEADER } else { 0 };
        whole(kind, bytes.get(header..).unwrap_or_default())?;
        Ok(bytes)
    }

    /// Verifies every image, stage 1's header too, which says the same as the manifest.
    pub fn verify(&self, root_key: &PublicKey) -> Result<(), Error> {
        for image in &self.manifest.images {
            let bytes = self.image(image.kind)?;
            if image.kind == Kind::Stage1 {
                let header = Stage1::open(bytes, root_key)?.header;
                let same = header.svn == self.manifest.svn
                    && crate::environment(header.environment) == self.manifest.environment
                    && header.version() == self.manifest.version;
                if !same {
                    return Err(Error::Image(Kind::Stage1));
                }
            }
        }
        Ok(())
    }
}

/// Refuses a program that is not whole: what its loader or shell would be, no manifest says.
fn whole(kind: Kind, image: &[u8]) -> Result<(), Error> {
    if kind.is_program() && names_another(image) { Err(Error::Program(kind)) } else { Ok(()) }
}

/// Reads the file of an image and verifies it.
pub fn read_image(path: &Path, image: &Image) -> Result<Vec<u8>, Error> {
    let bytes = read_bounded(path, image.length)?;
    let same = bytes.len() as u64 == image.length && sha256(&[&bytes]) == image.sha256;
    if same { Ok(bytes) } else { Err(Error::Image(image.kind)) }
}

/// Reads a file, at most `most` bytes and one more, so that a longer one is seen to be longer.
fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes));
    read.map_err(Error::file(path))?;
    Ok(bytes)
}

/// A release to be made.
pub struct Make<'a> {
    /// For people.
    pub version: &'a str,
    /// Security version.
    pub svn: u32,
    /// Which hosts take it.
    pub environment: Environment,
    /// What is in it: kind, name for people, bytes. Stage 1 without its header.
    pub images: Vec<(Kind, String, Vec<u8>)>,
}

impl Make<'_> {
    /// Writes the release into `out`, which must not exist or be empty. The manifest comes last: without it there is
    /// no release.
    pub fn write(mut self, out: &Path, key: &RootKey) -> Result<Folder, Error> {
        self.images.iter().try_for_each(|(kind, _, bytes)| whole(*kind, bytes))?;
        fs::create_dir_all(out).map_err(Error::file(out))?;
        self.images.sort_by_key(|(kind, ..)| *kind);
        let mut images = Vec::new();
        for (kind, name, mut bytes) in self.images {
            if kind == Kind::Stage1 {
                bytes = Stage1::sign(&bytes, self.environment, self.svn, self.version, key)?.bytes;
            }
            write_new(&out.join(kind.name()), 0o644, &bytes)?;
            images.push(Image { kind, name, length: bytes.len() as u64, sha256: sha256(&[&bytes]) });
        }
        let (version, svn, environment) = (self.version.to_owned(), self.svn, self.environment);
        let manifest = Manifest { version, svn, environment, images };
        let signed = manifest.sign(key.pair())?;
        write_new(&out.join(MANIFEST), 0o644, &signed)?;
        Ok(Folder { path: out.to_owned(), manifest, signed })
    }
}

/// Burns the fuse of a board: once, and never to be written again.
pub fn burn_fuse(path: &Path, root_key_sha256: &Digest) -> Result<(), Error> {
    write_new(path, 0o444, &boot_rom::fuse::write(root_key_sha256)).map_err(|error| match error {
        Error::File { path, source } if source.kind() == io::ErrorKind::AlreadyExists => {
            Error::Make(format!("{} is burnt already: a board has one root key for life", path.display()))
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(svn: u32) -> Make<'static> {
        let images = [Kind::MainboardFirmware, Kind::Stage1, Kind::Controller];
        let images =
            images.map(|kind| (kind, format!("azote-{kind}"), kind.name().as_bytes().to_vec())).to_vec();
        Make { version: "1.2", svn, environment: Environment::Production, images }
    }

    #[test]
    fn a_release_is_verified_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let made = make(3).write(scratch.path(), &key).unwrap();
        let folder = Folder::open(scratch.path(), &key.public()).unwrap();
        assert_eq!(folder.manifest, made.manifest);
        folder.verify(&key.public()).unwrap();
        assert_eq!(folder.image(Kind::Controller).unwrap(), b"controller");
        assert!(matches!(folder.image(Kind::Launcher), Err(Error::Image(Kind::Launcher))));
        assert!(make(4).write(scratch.path(), &key).is_err(), "a release is never written over");
        for image in &folder.manifest.images {
            let path = scratch.path().join(image.kind.name());
            let good = fs::read(&path).unwrap();
            for bad in [&good[1..], &[&good[..], b"x"].concat(), &[&[good[0] ^ 1], &good[1..]].concat()] {
                fs::write(&path, bad).unwrap();
                let error = folder.verify(&key.public()).unwrap_err();
                assert!(matches!(error, Error::Image(kind) if kind == image.kind), "{error}");
            }
            fs::write(&path, good).unwrap();
        }
    }

    #[test]
    fn a_program_that_is_not_whole_is_neither_released_nor_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let (key, path) = (RootKey::generate().unwrap(), scratch.path().join("release"));
        let linked = fs::read("/bin/sh").unwrap();
        for kind in [Kind::Stage1, Kind::Controller] {
            for bad in [&linked[..], b"#!/bin/sh"] {
                let mut make = make(3);
                make.images.iter_mut().filter(|(it, ..)| *it == kind).for_each(|it| it.2 = bad.to_vec());
                assert_eq!(make.write(&path, &key).unwrap_err().code(), "release.program", "{kind}");
                assert!(!path.exists());
            }
        }
        let made = make(3).write(&path, &key).unwrap();
        // By somebody who has the root key and makes releases otherwise.
        let mut manifest = made.manifest;
        let stage1 = Stage1::sign(&linked, Environment::Production, 3, "1.2", &key).unwrap();
        for (kind, bytes) in [(Kind::Stage1, &stage1.bytes), (Kind::Controller, &linked)] {
            let image = manifest.images.iter_mut().find(|image| image.kind == kind).unwrap();
            (image.length, image.sha256) = (bytes.len() as u64, sha256(&[bytes]));
            fs::write(path.join(kind.name()), bytes).unwrap();
        }
        fs::write(path.join(MANIFEST), manifest.sign(key.pair()).unwrap()).unwrap();
        let folder = Folder::open(&path, &key.public()).unwrap();
        for kind in [Kind::Stage1, Kind::Controller] {
            assert!(matches!(folder.image(kind), Err(Error::Program(it)) if it == kind));
        }
    }

    #[test]
    fn a_stage_1_of_another_release_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let key = RootKey::generate().unwrap();
        let other = Stage1::sign(b"stage-1", Environment::Production, 2, "1.2", &key).unwrap();
        let mut made = make(3).write(&scratch.path().join("a"), &key).unwrap();
        let image = made.manifest.images.first_mut().unwrap();
        (image.length, image.sha256) = (other.bytes.len() as u64, other.measurement());
        fs::write(made.path.join(Kind::Stage1.name()), other.bytes).unwrap();
        assert!(matches!(made.verify(&key.public()), Err(Error::Image(Kind::Stage1))));
    }

    #[test]
    fn a_fuse_burns_once() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, key) = (scratch.path().join("fuse"), RootKey::create(scratch.path()).unwrap());
        burn_fuse(&path, &key.fingerprint()).unwrap();
        assert_eq!(boot_rom::fuse::parse(&fs::read(&path).unwrap()), Ok(key.fingerprint()));
        assert!(fs::metadata(&path).unwrap().permissions().readonly());
        assert_eq!(burn_fuse(&path, &[1; 32]).unwrap_err().code(), "release.make");
        let read = RootKey::open(scratch.path()).unwrap();
        assert_eq!(
            (read.fingerprint(), RootKey::read_public(scratch.path()).unwrap()),
            (key.fingerprint(), key.public())
        );
        assert!(RootKey::create(scratch.path()).is_err());
    }
}
