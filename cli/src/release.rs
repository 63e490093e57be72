//! `azote release`: makes, shows and verifies releases. Needs nothing that runs.

use crate::{
    failure::{Doing, Failure},
    out::Out,
    rack,
};
use clap::{Args, Subcommand, ValueHint};
use ids::Environment;
use parts::Parts;
use release::{Folder, Kind, Make, Manifest, RootKey};
use serde_json::json;
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// The policy set of this release.
const POLICIES: &[u8] = include_bytes!("../../policies/quotas.toml");
/// What is built here, and what it is in a release.
const PROGRAMS: [(Kind, &str); 6] = [
    (Kind::Stage1, "azote-stage1"),
    (Kind::Controller, "azote-controller"),
    (Kind::VolumeCard, "azote-volume-card"),
    (Kind::Hypervisor, "azote-hypervisor"),
    (Kind::Launcher, "azote-launcher"),
    (Kind::AttestationCard, "azote-attestation-card"),
];

/// What there is to do with releases.
#[derive(Subcommand)]
pub(crate) enum Release {
    /// Make a release from programs, a guests' kernel and firmware, signed by the root key.
    #[command(after_help = "Example: azote release make --root-key key --out release --svn 2 --version 1.3")]
    Make(Box<MakeRelease>),
    /// What a release consists of.
    Show(Which),
    /// Check the root key's signature and every image.
    Verify(Which),
}

/// A release to be made.
#[derive(Args)]
pub(crate) struct MakeRelease {
    /// Folder of the root key; a new one is made in an empty folder. A host's fuse names its key for life.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root_key: PathBuf,
    /// Folder with the programs; the one of this command without it.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    programs: Option<PathBuf>,
    /// The release's folder, new or empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Which hosts take it: production or non-production.
    #[arg(long, default_value_t = Environment::NonProduction)]
    environment: Environment,
    /// Security version: raise it when older releases must never run again.
    #[arg(long, default_value_t = 1)]
    svn: u32,
    /// For people.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// The kernel of instances, instead of Debian's cloud kernel.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    guest_kernel: Option<PathBuf>,
    /// The main board's firmware, instead of OVMF.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    mainboard_firmware: Option<PathBuf>,
}

/// A release, and whose it should be.
#[derive(Args)]
pub(crate) struct Which {
    /// Its folder.
    #[arg(value_hint = ValueHint::DirPath)]
    folder: PathBuf,
    /// The root public key, or the folder that it lies in.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    root_key: PathBuf,
}

impl From<release::Error> for Failure {
    fn from(error: release::Error) -> Self {
        Self::Advice(error.code(), error.to_string())
    }
}

/// Carries out a verb.
pub(crate) fn run(out: Out, verb: &Release) -> Result<(), Failure> {
    match verb {
        Release::Make(ask) => {
            let made = make(out, ask)?;
            told(out, &format!("made {}", made.path.display()), &made.manifest);
        }
        Release::Show(which) => told(out, "signed by the root key", &open(which)?.manifest),
        Release::Verify(which) => {
            let folder = open(which)?;
            folder.verify(&RootKey::read_public(&which.root_key)?)?;
            told(out, "signed by the root key, every image as signed", &folder.manifest);
        }
    }
    Ok(())
}

fn open(which: &Which) -> Result<Folder, Failure> {
    Ok(Folder::open(&which.folder, &RootKey::read_public(&which.root_key)?)?)
}

fn make(out: Out, ask: &MakeRelease) -> Result<Folder, Failure> {
    let key = if RootKey::exists(&ask.root_key) {
        RootKey::open(&ask.root_key)?
    } else {
        fs::create_dir_all(&ask.root_key).doing(ask.root_key.display())?;
        out.remark("a new root key: keep it where no network reaches it; hosts are made for it");
        RootKey::create(&ask.root_key)?
    };
    let source = Source {
        programs: ask.programs.clone().map_or_else(rack::programs, Ok)?,
        guest_kernel: ask.guest_kernel.clone(),
        mainboard_firmware: ask.mainboard_firmware.clone(),
    };
    let images = source.images(&crate::up::parts(out)?)?;
    let (version, svn, environment) = (ask.version.as_str(), ask.svn, ask.environment);
    Ok(Make { version, svn, environment, images }.write(&ask.out, &key)?)
}

/// What a release is made from.
pub(crate) struct Source {
    /// Folder of the programs.
    pub(crate) programs: PathBuf,
    /// The kernel of instances, if not the lab's.
    pub(crate) guest_kernel: Option<PathBuf>,
    /// The main board's firmware, if not the lab's.
    pub(crate) mainboard_firmware: Option<PathBuf>,
}

impl Source {
    /// Reads everything: kind, name, bytes.
    pub(crate) fn images(&self, parts: &Parts) -> Result<Vec<(Kind, String, Vec<u8>)>, Failure> {
        let mut images = vec![(Kind::Policies, "quotas.toml".to_owned(), POLICIES.to_vec())];
        for (kind, name) in PROGRAMS {
            let path = self.programs.join(name);
            if !path.exists() {
                return Err(rack::RackError::NoProgram(path).into());
            }
            images.push((kind, name.to_owned(), without_symbols(read(&path)?)));
        }
        let kernel = self.guest_kernel.clone().unwrap_or_else(|| parts.kernel().to_owned());
        let firmware = self.mainboard_firmware.clone().unwrap_or_else(|| parts.firmware_code());
        for (kind, path) in [(Kind::GuestKernel, kernel), (Kind::MainboardFirmware, firmware)] {
            let name = path.file_name().map(|name| name.to_string_lossy().chars().take(64).collect());
            images.push((kind, name.unwrap_or_default(), read(&path)?));
        }
        images.push((Kind::BmcFirmware, "bmc-firmware".to_owned(), parts::bmc_flash()));
        Ok(images)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).doing(path.display())
}

/// An ELF program without what lies behind its last segment: names and debug information, which nothing that runs
/// reads. Anything else stays as it is.
fn without_symbols(mut elf: Vec<u8>) -> Vec<u8> {
    if let Some(end) = last_segment(&elf) {
        elf.truncate(end);
        // The table of sections lay there: e_shoff, then e_shentsize, e_shnum and e_shstrndx are none.
        for range in [40..48, 58..64] {
            elf.get_mut(range).unwrap_or_default().fill(0);
        }
    }
    elf
}

/// Where the last segment of a 64-bit little-endian ELF file ends; `None` if that is not sure, or within its header.
fn last_segment(elf: &[u8]) -> Option<usize> {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..)?.get(..size)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut end = table.checked_add(size * count)?;
    for entry in 0..count {
        let at = usize::try_from(table.checked_add(entry * size)?).ok()?;
        end = end.max(number(at + 8, 8)?.checked_add(number(at + 32, 8)?)?);
    }
    usize::try_from(end).ok().filter(|end| (64..=elf.len()).contains(end))
}

fn told(out: Out, what: &str, manifest: &Manifest) {
    let Manifest { version, svn, environment, images } = manifest;
    let mut text = format!("{what}\nversion     {version}, security version {svn}, for {environment}");
    for image in images {
        let _ = write!(
            text,
            "\n{:<20} {} {:>10}  {}",
            image.kind.name(),
            hex(&image.sha256),
            image.length,
            image.name
        );
    }
    let images: Vec<_> = images
        .iter()
        .map(|i| json!({"kind": i.kind, "name": i.name, "length": i.length, "sha256": hex(&i.sha256)}))
        .collect();
    let value = json!({"version": version, "svn": svn, "environment": environment, "images": images});
    out.result(&text, &value);
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, process::Command};

    #[test]
    fn a_program_without_symbols_runs_as_before() {
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        let small = without_symbols(whole.clone());
        assert!(small.len() < whole.len() / 2, "{} of {}", small.len(), whole.len());
        assert_eq!(without_symbols(small.clone()), small);
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("small");
        fs::write(&path, small).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // A copy that another process makes, so that no file that another test's child still has open to write is executed.
        let program = scratch.path().join("program");
        assert!(Command::new("cp").arg(&path).arg(&program).status().unwrap().success());
        let run = Command::new(&program).arg("--list").output().unwrap();
        assert!(String::from_utf8_lossy(&run.stdout).contains("a_program_without_symbols"), "{run:?}");
    }

    #[test]
    fn what_is_no_program_stays_as_it_is() {
        let mut header = b"\x7fELF\x02\x01".to_vec();
        header.resize(70, 0xff);
        for bytes in [vec![], b"text".to_vec(), b"\x7fELF\x02\x01".to_vec(), header] {
            assert_eq!(without_symbols(bytes.clone()), bytes);
        }
    }
}
