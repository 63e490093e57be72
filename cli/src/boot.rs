//! Starts the host as its board does: through boot ROM and stage 1, from a release that the root key signed. It stands
//! in for those who make releases, for the factory that burns the fuse, and for the service that brings updates.

use crate::{
    failure::{Doing, Failure},
    guests::Guests,
    place::Place,
    rack::{RackError, program, programs},
    release::{Source, hex},
    up::Rack,
};
use ids::Environment;
use release::{
    Configuration, Folder, Kind, MANIFEST, Make, Manifest, Report, RootKey, Stage1, burn_fuse, sha256,
};
use std::{fs, path::Path, process::Command};
use token::PublicKey;

/// Folder of the root key.
pub(crate) const ROOT: &str = "pki/release";
/// The board's fuse.
const FUSE: &str = "fuse";
/// What the next start of an enrolled host begins with: the controller switches it.
const BOOT: &str = "host/boot";
/// Why the last start went no further.
const REPORT: &str = "run/boot-report";
/// The signed configuration that the host has, and one that it does not have yet.
const CONFIGURATION: &str = "host/configuration";
const NEXT: &str = "host/configuration.next";
/// Releases, by number; the last one is the one to run.
const RELEASES: &str = "releases";

/// Why nothing answers: the report of the last start, if it went no further.
pub(crate) fn report(place: &Place) -> Option<Failure> {
    Report::read(&place.path(REPORT)).map(Failure::Start)
}

/// Whether the host is one of the environment.
pub(crate) fn is_enrolled(place: &Place) -> bool {
    place.path(BOOT).exists()
}

/// The release that the host runs, as its root key signed it.
pub(crate) fn running(place: &Place) -> Result<Folder, Failure> {
    Ok(Folder::open(&place.path(BOOT), &RootKey::read_public(&place.path(ROOT))?)?)
}

/// Whether an image of that release has this hash.
pub(crate) fn is_released(place: &Place, kind: Kind, sha256: &str) -> Result<bool, Failure> {
    let image = running(place)?.manifest.image(kind).map(|image| hex(&image.sha256));
    Ok(image.is_some_and(|known| known == sha256))
}

impl Rack<'_> {
    /// The host: made ready, then run.
    pub(crate) fn host(&self, guests: &Guests) -> Result<(), Failure> {
        self.host_ready(guests)?;
        self.start_host()
    }

    /// The host, off: enrolled on its first start, updated when programs or configuration have changed.
    pub(crate) fn host_ready(&self, guests: &Guests) -> Result<(), Failure> {
        let key = self.root_key()?;
        let release = self.release(&key, guests)?;
        let configured = self.configure(&key, guests)?;
        let other = fs::read(self.place.path(BOOT).join(MANIFEST)).ok().as_ref() != Some(&release.signed);
        if !self.place.path(BOOT).exists() {
            self.enrol_host(&key, &release)?;
        } else if other || configured {
            self.update_host(other.then_some(&release), configured)?;
        }
        if configured {
            fs::rename(self.place.path(NEXT), self.place.path(CONFIGURATION)).doing(CONFIGURATION)?;
        }
        if other {
            // The images are in the host's store now.
            self.forget_releases(&release)?;
        }
        if other || configured {
            self.power_cycle()?;
        }
        Ok(())
    }

    fn enrol_host(&self, key: &RootKey, release: &Folder) -> Result<(), Failure> {
        let configuration = if self.place.path(NEXT).exists() { NEXT } else { CONFIGURATION };
        let mut command = self.chain(&release.path, "enrol")?;
        command.args(["--host", self.installation.host.as_str()]).arg("--release").arg(&release.path);
        command.arg("--configuration").arg(self.place.path(configuration));
        // What the authority wants a host to have started before it takes it in.
        let configuration = fs::read(self.place.path(configuration)).doing(configuration)?;
        let asked = pki::Release { root_key: key.public(), manifest: release.signed.clone(), configuration };
        crate::enrol::enrol(self, command, &asked).map_err(|error| report(self.place).unwrap_or(error))
    }

    fn update_host(&self, release: Option<&Folder>, configured: bool) -> Result<(), Failure> {
        let mut command = self.chain(&self.place.path(BOOT), "update")?;
        if let Some(release) = release {
            command.arg("--release").arg(&release.path);
        }
        if configured {
            command.arg("--configuration").arg(self.place.path(NEXT));
        }
        let output = command.output().doing("update the host")?;
        if output.status.success() {
            return Ok(());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(report(self.place).unwrap_or_else(|| Failure::State(format!("update the host: {}", told.trim()))))
    }

    /// What the machine that makes releases has: a key, made here where there is none, and the fuse burnt for it.
    pub(crate) fn root_key(&self) -> Result<RootKey, Failure> {
        let folder = self.place.folder(ROOT).doing(ROOT)?;
        let key = if RootKey::exists(&folder) {
            RootKey::open(&folder)?
        } else {
            self.out.remark(
                "nobody signed a release: this lab signs its own, with a root key that it made itself (pki/release); \
                 a root key lies offline",
            );
            RootKey::create(&folder)?
        };
        let fuse = self.place.path(FUSE);
        if !fuse.exists() {
            burn_fuse(&fuse, &key.fingerprint())?;
        }
        Ok(key)
    }

    /// The release of the programs that are here: the last one if it is that, else a new one.
    pub(crate) fn release(&self, key: &RootKey, guests: &Guests) -> Result<Folder, Failure> {
        let source = Source {
            programs: programs()?,
            guest_kernel: guests.kernel().cloned(),
            mainboard_firmware: None,
        };
        let images = source.images(self.parts)?;
        let numbers = self.releases()?;
        let last = numbers.last().map(|number| self.place.path(RELEASES).join(number.to_string()));
        let last = last.and_then(|path| Folder::open(&path, &key.public()).ok());
        let environment = self.installation.environment;
        let svn = last.as_ref().map_or(1, |folder| folder.manifest.svn);
        if let Some(last) = last
            && is_of(&last.manifest, environment, &images, key)
        {
            let installed = fs::read(self.place.path(BOOT).join(MANIFEST)).is_ok_and(|it| it == last.signed);
            if installed || last.verify(&key.public()).is_ok() {
                return Ok(last);
            }
        }
        let path = self.place.path(RELEASES).join((numbers.last().unwrap_or(&0) + 1).to_string());
        Ok(Make { version: env!("CARGO_PKG_VERSION"), svn, environment, images }.write(&path, key)?)
    }

    /// The numbers of the releases here, ascending.
    fn releases(&self) -> Result<Vec<u64>, Failure> {
        let folder = self.place.folder(RELEASES).doing(RELEASES)?;
        let mut numbers: Vec<u64> = Vec::new();
        for entry in fs::read_dir(folder).doing(RELEASES)? {
            numbers.extend(
                entry.doing(RELEASES)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()),
            );
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Keeps of all releases here the last one's manifest.
    fn forget_releases(&self, last: &Folder) -> Result<(), Failure> {
        for number in self.releases()? {
            let path = self.place.path(RELEASES).join(number.to_string());
            if path != last.path {
                fs::remove_dir_all(&path).doing(path.display())?;
            }
        }
        for image in &last.manifest.images {
            let path = last.path.join(image.kind.name());
            fs::remove_file(&path).doing(path.display())?;
        }
        Ok(())
    }

    /// Signs a configuration if it is to be another than the host's; gives whether there is a next one.
    fn configure(&self, key: &RootKey, guests: &Guests) -> Result<bool, Failure> {
        let read = |name: &str| {
            let bytes = fs::read(self.place.path(name)).ok()?;
            Configuration::open(&bytes, &key.public()).ok()
        };
        let (present, next) = (read(CONFIGURATION), read(NEXT));
        let environment = self.installation.environment;
        let text = format!("{}token-keys={}\n", guests.configuration(), self.token_keys()?);
        if present.as_ref().is_some_and(|it| it.text == text && it.environment == environment) {
            return Ok(false);
        }
        let sequence = present.iter().chain(&next).map(|it| it.sequence).max().map_or(1, |last| last + 1);
        let signed = Configuration { environment, sequence, text }.sign(key.pair())?;
        service::write_atomic(&self.place.path(NEXT), &signed).doing(NEXT)?;
        Ok(true)
    }

    /// The public keys of the token service, for the host that never fetches anything itself.
    fn token_keys(&self) -> Result<String, Failure> {
        let keys = self.fetch_token_keys()?;
        Ok(keys.list().iter().map(|key: &PublicKey| String::from(*key)).collect::<Vec<_>>().join(" "))
    }

    /// A start of the controller as `verb`, from a boot folder.
    pub(crate) fn chain(&self, boot: &Path, verb: &str) -> Result<Command, Failure> {
        let (tpm, report) = (self.run("tpm-host"), self.place.path(REPORT));
        let mut command = Command::new(program("azote-boot-rom")?);
        if self.jumper && verb == "enrol" {
            command.arg("--clear");
        }
        command.arg("--fuse").arg(self.place.path(FUSE)).arg("--tpm").arg(&tpm).arg("--report").arg(&report);
        command.arg("--stage1").arg(boot.join(Kind::Stage1.name())).arg("--");
        command.arg("--tpm").arg(&tpm).arg("--report").arg(&report).arg("--release").arg(boot).arg("--");
        command.arg(verb).arg("--state").arg(self.place.path("host")).arg("--tpm").arg(&tpm);
        command.arg("--report").arg(&report).arg("--chip").arg(self.run("chip"));
        if let Some(key) = &self.security_key {
            command.arg("--security-key").arg(key);
        }
        Ok(command)
    }

    fn start_host(&self) -> Result<(), Failure> {
        let mut command = self.chain(&self.place.path(BOOT), "run")?;
        command.arg("--board").arg(self.run("board")).args(["--host", self.installation.host.as_str()]);
        command.arg("--functions").arg(self.place.path("functions"));
        command.arg("--volumes").arg(self.place.path("volumes"));
        crate::enrol::renew(self)?;
        let certificate = self.place.path("host/certificate.pem");
        self.serve("controller", &mut command, &certificate).map_err(|error| match error {
            Failure::Rack(RackError::NotReady { .. }) => report(self.place).unwrap_or(error),
            other => other,
        })?;
        let chain = fs::read_to_string(&certificate).doing(certificate.display())?;
        let certified = service::certified_by(self.authority.ca().certificate(), &chain, crate::cloud::now());
        crate::audit::write_sources(self.place, Some(&certified.map_err(Failure::state)?))
    }

    /// A power cycle of the controller and its TPM: what was measured is gone.
    fn power_cycle(&self) -> Result<(), Failure> {
        self.unit("tpm-host").stop()?;
        self.tpm("tpm-host")
    }
}

/// Whether a release consists of exactly these images.
fn is_of(
    manifest: &Manifest,
    environment: Environment,
    images: &[(Kind, String, Vec<u8>)],
    key: &RootKey,
) -> bool {
    let same = |(kind, _, bytes): &(Kind, String, Vec<u8>)| {
        let hash = match kind {
            Kind::Stage1 => {
                let made = Stage1::sign(bytes, environment, manifest.svn, &manifest.version, key);
                made.map(|stage1| stage1.measurement())
            }
            _ => Ok(sha256(&[bytes])),
        };
        manifest.image(*kind).is_some_and(|image| hash.is_ok_and(|hash| hash == image.sha256))
    };
    manifest.environment == environment && manifest.images.len() == images.len() && images.iter().all(same)
}
