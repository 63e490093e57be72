//! Starts a host and its control plane on this machine, room by room, and stops them. It stands in for the
//! people and services that build, enrol and cable a server.

mod installation;

pub(crate) use installation::Installation;

use crate::{
    args::{Board, Up},
    authority,
    failure::{Doing, Failure},
    guests::Guests,
    interrupt,
    out::Out,
    place::Place,
    rack::{Unit, program},
};
use ids::{Environment, Identity};
use parts::{Parts, Tool};
use pki::Authority;
use service::{Client, Credentials};
use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long the identities of people live, and of machines that only call others.
pub(crate) const PERSON_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// In the order in which they start; they stop in the opposite one.
pub(crate) const UNITS: [&str; 9] =
    ["tpm-host", "chip", "board", "tpm-cloud", "tokens", "kms", "audit", "controller", "authority"];
/// The services of the control plane.
pub(crate) const SERVICES: [&str; 3] = ["tokens", "kms", "audit"];
/// People, services and the host that fills volumes, each with an identity in a file of its own.
pub(crate) const ACTORS: [(&str, &str); 6] = [
    ("operator", "azote:operator/alice"),
    ("tenant", "azote:tenant/acme"),
    ("control-plane", "azote:service/control-plane"),
    ("auditor", "azote:operator/ada"),
    ("pipeline", "azote:service/pipeline"),
    ("log-reader", "azote:operator/olga"),
];
/// Who the tenant's importer is: the machine that encrypts images before they leave it.
const IMPORTER_IDENTITY: &str = "azote:importer/acme";
/// The file of that identity.
pub(crate) const IMPORTER: &str = "tenant-importer";

/// 128 random bits for an identifier.
pub(crate) fn random() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::state("the system gives no random bytes"))?;
    Ok(u128::from_ne_bytes(bytes))
}

/// A host being started.
pub(crate) struct Rack<'a> {
    /// Where its state is.
    pub(crate) place: &'a Place,
    pub(crate) out: Out,
    pub(crate) parts: &'a Parts,
    pub(crate) authority: Authority,
    pub(crate) installation: Installation,
    /// The jumper on the board is set: its boot ROM clears the TPM.
    pub(crate) jumper: bool,
    /// The removable half of the store's key is in this file.
    pub(crate) security_key: Option<PathBuf>,
}

impl<'a> Rack<'a> {
    /// Makes what is missing in the state folder: folders, authority, identities, flash.
    pub(crate) fn prepare(
        out: Out,
        place: &'a Place,
        parts: &'a Parts,
        environment: Option<Environment>,
        certificate_life: Option<u64>,
    ) -> Result<Self, Failure> {
        place.claim()?;
        let installation = Installation::read_or_make(place, environment, certificate_life)?;
        for name in [
            "pki",
            "identities",
            "run",
            "flash",
            "volumes",
            "functions",
            "tokens",
            "kms",
            "audit",
            "host",
            "tpm-cloud",
            "tpm-host",
        ] {
            place.folder(name).doing(place.path(name).display())?;
        }
        let authority = installation.authority(place)?;
        // The one that is there may have ended while nothing ran.
        authority.refresh_list()?;
        let rack = Self { place, out, parts, authority, installation, jumper: false, security_key: None };
        for (name, identity) in ACTORS.into_iter().chain(crate::tokens::REVIEWERS) {
            rack.person(name, &identity.parse().map_err(Failure::state)?)?;
        }
        rack.person(IMPORTER, &IMPORTER_IDENTITY.parse().map_err(Failure::state)?)?;
        crate::tokens::write_files(out, place, &rack.installation)?;
        rack.fill_flash()?;
        Ok(rack)
    }

    fn person(&self, name: &str, identity: &Identity) -> Result<(), Failure> {
        let path = self.place.path(&format!("identities/{name}.pem"));
        if path.exists() {
            Ok(())
        } else {
            self.authority.ca().client_identity(identity, PERSON_LIFE, &path).map_err(Failure::state)
        }
    }

    /// What the factory does: firmware in the flash.
    fn fill_flash(&self) -> Result<(), Failure> {
        let read = |from: PathBuf| fs::read(&from).doing(from.display());
        let (code, variables) = (read(self.parts.firmware_code())?, read(self.parts.firmware_variables())?);
        for (name, bytes) in
            [("code.bin", code), ("variables.bin", variables), ("bmc.bin", parts::bmc_flash())]
        {
            let to = self.place.path("flash").join(name);
            if !to.exists() {
                service::write_atomic(&to, &bytes).doing(to.display())?;
            }
        }
        Ok(())
    }

    pub(crate) fn unit(&self, name: &'static str) -> Unit<'a> {
        Unit::new(self.place, name)
    }

    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.place.path("run").join(name)
    }

    /// Hardware: the TPM, the security chip, and the main board, powered and held in reset.
    pub(crate) fn power(&self, board: &Board) -> Result<(), Failure> {
        self.tpm("tpm-host")?;
        let sockets = ["firmware", "chip", "line", "cpu-bus", "bmc-bus"].map(|name| self.fresh(name));
        let [nbd, control, line, cpu_bus, bmc_bus] = &sockets;
        let mut chip = Command::new(program("azote-security-chip")?);
        let flash = self.place.path("flash");
        chip.arg("--code").arg(flash.join("code.bin")).arg("--variables").arg(flash.join("variables.bin"));
        chip.arg("--bmc").arg(flash.join("bmc.bin"));
        chip.arg("--nbd").arg(nbd).arg("--control").arg(control).arg("--line").arg(line);
        chip.arg("--cpu-bus").arg(cpu_bus).arg("--bmc-bus").arg(bmc_bus);
        self.unit("chip").start(&mut chip, || sockets.iter().all(|socket| socket.exists()))?;
        let [bmc, console] = ["board", "console"].map(|name| self.fresh(name));
        let mut command = Command::new(program("azote-mainboard")?);
        command.arg("--line").arg(line).arg("--firmware").arg(nbd).arg("--control").arg(&bmc);
        command.arg("--cpu-bus").arg(cpu_bus).arg("--bmc-bus").arg(bmc_bus);
        command.arg("--console").arg(&console).arg("--parts").arg(self.parts.dir());
        command.args(["--memory", &board.memory.to_string(), "--cpus", &board.cpus.to_string()]);
        self.unit("board").start(&mut command, || bmc.exists() && console.exists())?;
        Ok(())
    }

    /// Pulls the host's power cord.
    pub(crate) fn unplug(&self) -> Result<(), Failure> {
        for name in ["controller", "board", "chip", "tpm-host"] {
            self.unit(name).stop()?;
        }
        Ok(())
    }

    pub(crate) fn tpm(&self, name: &'static str) -> Result<(), Failure> {
        let socket = self.fresh(name);
        let mut swtpm = self.parts.command(Tool::Swtpm);
        swtpm
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", self.place.path(name).display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={},mode=0600", socket.display()));
        swtpm.args(["--flags", "not-need-init,startup-clear"]);
        // A socket is there before anybody listens on it, and the boot ROM does not ask twice.
        Ok(self.unit(name).start(&mut swtpm, || UnixStream::connect(&socket).is_ok())?)
    }

    /// A socket's path, free of what an earlier run left there.
    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.run(name);
        let _ = fs::remove_file(&path);
        path
    }

    /// The control plane: token service, KMS, audit service.
    pub(crate) fn cloud(&self, guests: &Guests) -> Result<(), Failure> {
        self.tpm("tpm-cloud")?;
        for name in SERVICES {
            let identity = format!("azote:service/{name}").parse().map_err(Failure::state)?;
            let program = program(&format!("azote-{name}"))?;
            let state = self.place.path(name);
            let certificate = self.enrol(&program, &state, "tpm-cloud", &identity, &[])?;
            let mut command = Command::new(program);
            command.arg("run").arg("--state").arg(&state).arg("--tpm").arg(self.run("tpm-cloud"));
            command.arg("--ca").arg(self.authority.trusted());
            let given = match name {
                "tokens" => &crate::tokens::FLAGS[..],
                "audit" => &crate::tokens::REVIEWED_FLAGS,
                _ => &[],
            };
            for (flag, file) in given {
                command.arg(flag).arg(self.place.path("tokens").join(file));
            }
            match name {
                "tokens" => {
                    let good = self.installation.appraised_for().to_string();
                    command.args(["--overlap", crate::tokens::OVERLAP, "--appraised-for", &good])
                }
                "kms" => command.arg("--attestation-policy").arg(self.attestation_policy(guests)?),
                _ => &mut command,
            };
            self.serve(name, &mut command, &certificate)?;
        }
        crate::audit::write_sources(self.place, None)
    }

    /// What keeps certificates and revocation lists alive. Its first round tells the token service what the host is.
    pub(crate) fn look_after(&self) -> Result<(), Failure> {
        let report = self.place.path(authority::REPORT);
        let _ = fs::remove_file(&report);
        let mut command = Command::new(program("azote")?);
        command.arg("--state").arg(self.place.root()).args(["authority", "run"]);
        Ok(self.unit("authority").start(&mut command, || report.exists())?)
    }

    /// The public keys of the token service.
    pub(crate) fn fetch_token_keys(&self) -> Result<token::Keys, Failure> {
        let me = self.credentials("operator")?;
        let client =
            self.client("tokens", &"azote:service/tokens".parse().map_err(Failure::state)?, Some(&me))?;
        Ok(runtime()?.block_on(tokens::client::keys(&client))?)
    }

    fn credentials(&self, name: &str) -> Result<Credentials, Failure> {
        Credentials::read(&self.place.path(&format!("identities/{name}.pem"))).map_err(Failure::state)
    }

    fn client(&self, name: &str, server: &Identity, me: Option<&Credentials>) -> Result<Client, Failure> {
        Client::new(self.authority.ca().certificate(), server.clone(), address(self.place, name)?, me)
            .map_err(Failure::state)
    }

    /// Enrolment: the program makes its key inside, we certify it.
    fn enrol(
        &self,
        program: &Path,
        state: &Path,
        tpm: &str,
        identity: &Identity,
        more: &[&str],
    ) -> Result<PathBuf, Failure> {
        let what = format!("enrol {identity}");
        let mut command = Command::new(program);
        command.arg("enrol").arg("--state").arg(state).arg("--tpm").arg(self.run(tpm)).args(more);
        let output = command.output().doing(&what)?;
        if !output.status.success() {
            return Err(Failure::State(format!(
                "{what}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        let request = String::from_utf8_lossy(&output.stdout);
        let life = self.authority.lives().certificate;
        let chain = self.authority.ca().issue(&request, identity, true, life).map_err(Failure::state)?;
        let path = state.join("certificate.pem");
        service::write_atomic(&path, chain.as_bytes()).doing(path.display())?;
        Ok(path)
    }

    pub(crate) fn serve(
        &self,
        name: &'static str,
        command: &mut Command,
        certificate: &Path,
    ) -> Result<(), Failure> {
        let address = self.fresh(&format!("{name}.address"));
        command
            .arg("--certificate")
            .arg(certificate)
            .args(["--listen", "127.0.0.1:0", "--address-file"])
            .arg(&address);
        Ok(self.unit(name).start(command, || address.exists())?)
    }
}

/// Where a service listens.
pub(crate) fn address(place: &Place, name: &str) -> Result<SocketAddr, Failure> {
    let path = place.path("run").join(format!("{name}.address"));
    let text = fs::read_to_string(&path)
        .map_err(|_| Failure::Advice("host.not-up", format!("{name} does not run: `azote up` starts it")))?;
    text.trim().parse().map_err(Failure::state)
}

/// The runtime of the few network calls that this command makes, one at a time.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().doing("runtime")
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Gets the lab's parts, with progress.
pub(crate) fn parts(out: Out) -> Result<Parts, Failure> {
    let progress = out.progress("getting the lab's parts");
    Ok(Parts::locate_or_fetch(&parts::default_dir(), &mut |at| progress.at(&at.to_string()))?)
}

/// Which processes of an installation do not run; all, some or none of them.
pub(crate) fn ended(place: &Place) -> Vec<&'static str> {
    UNITS.into_iter().filter(|name| !Unit::new(place, name).is_running()).collect()
}

/// `azote up`. What a failed or interrupted one has started is stopped again.
pub(crate) fn up(out: Out, place: &Place, ask: &Up, jumper: bool) -> Result<(), Failure> {
    let here = place.root().display();
    let missing = ended(place);
    if missing.is_empty() {
        let message = format!("already up in {here}; `azote down` stops it");
        return Err(Failure::Advice("host.already-up", message));
    }
    if missing.len() < UNITS.len() {
        return Err(Failure::Advice("host.partly-up", partly(&missing)));
    }
    let parts = parts(out)?;
    place.claim()?;
    let _lock = place.lock()?;
    interrupt::watch().doing("signals")?;
    let result = start(out, place, &parts, ask, jumper);
    if result.is_err() {
        stop(place)?;
    }
    result
}

fn start(out: Out, place: &Place, parts: &Parts, ask: &Up, jumper: bool) -> Result<(), Failure> {
    let progress = out.progress("starting");
    let key = ask.security_key.as_ref().map(std::path::absolute).transpose().doing("--security-key")?;
    let rack = Rack {
        jumper,
        security_key: key,
        ..Rack::prepare(out, place, parts, ask.environment, ask.certificate_life)?
    };
    progress.at("hardware: TPM, security chip, main board in reset");
    rack.power(&ask.board)?;
    progress.at("control plane: tokens, KMS, audit");
    rack.cloud(&ask.guests)?;
    progress.at("host: boot ROM, stage 1, controller; measure, verify, release reset");
    rack.host(&ask.guests)?;
    progress.at("authority: the first round");
    rack.look_after()?;
    interrupt::check()
}

/// What to do when some processes have ended and others run.
pub(crate) fn partly(missing: &[&str]) -> String {
    format!("{} ended, the others run: `azote down`, then `azote up`", missing.join(", "))
}

/// `azote down`: says what it stopped.
pub(crate) fn down(place: &Place) -> Result<Vec<&'static str>, Failure> {
    if !place.root().exists() {
        return Ok(Vec::new());
    }
    let _lock = place.lock()?;
    stop(place)
}

fn stop(place: &Place) -> Result<Vec<&'static str>, Failure> {
    let mut stopped = Vec::new();
    for name in UNITS.into_iter().rev() {
        if Unit::new(place, name).stop()? {
            stopped.push(name);
        }
    }
    Ok(stopped)
}
