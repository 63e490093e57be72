//! What is changed, and what must come of it.

use super::{
    Case, Seen,
    host::{Host, NOBODY, copy, remove, write},
};
use crate::Outcome;
use boot_rom::{
    events::{Event, Events, STAGE_1_PCR},
    header::HEADER,
};
use ids::Environment;
use release::{Folder, Kind, Manifest, RootKey};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{
    fs::{self, File},
    io::Write,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// Somewhere in the middle of an image.
const WITHIN: usize = 5000;

/// Nothing at all: the host starts.
pub(crate) fn nothing() -> Case {
    case("nothing", NOBODY, "in service", "", |host| host.start())
}

fn case(
    name: &'static str,
    stage: &'static str,
    code: &'static str,
    entry: &'static str,
    act: impl Fn(&mut Host) -> Outcome<Seen> + 'static,
) -> Case {
    Case { name, act: Box::new(act), stage, code, entry }
}

/// One bit of one byte of a file.
fn byte(
    name: &'static str,
    file: &'static str,
    at: usize,
    stage: &'static str,
    code: &'static str,
    entry: &'static str,
) -> Case {
    case(name, stage, code, entry, move |host| {
        host.flip(file, at)?;
        host.start()
    })
}

/// One bit of an image in the firmware store.
fn image(name: &'static str, kind: Kind) -> Case {
    let code = if kind == Kind::Policies { "boot.policies" } else { "boot.image" };
    case(name, "controller", code, kind.event().1, move |host| {
        let images = host.images("host/boot")?;
        let (_, sha256) = images.iter().find(|(it, _)| it == kind.name()).ok_or("no such image")?;
        host.flip(&format!("host/store/{sha256}.blob"), WITHIN)?;
        host.start()
    })
}

/// Every change.
pub(crate) fn all() -> Vec<Case> {
    let (rom, stage1, controller) = ("rom", "stage-1", "controller");
    let mut cases = vec![
        byte("the fuse", "fuse", 20, rom, "rom.root-key", "root key"),
        byte("stage 1, its header's magic", "host/boot/stage-1", 0, rom, "rom.header", "stage 1"),
        byte("stage 1, its version", "host/boot/stage-1", 31, rom, "rom.signature", "stage 1"),
        byte("stage 1, its signature", "host/boot/stage-1", HEADER - 1, rom, "rom.signature", "stage 1"),
        byte("stage 1, its image", "host/boot/stage-1", HEADER + WITHIN, rom, "rom.hash", "stage 1"),
        byte("the release's manifest", "host/boot/manifest", 60, stage1, "stage-1.signature", "release"),
        byte("the controller", "host/boot/controller", WITHIN, stage1, "stage-1.controller", "controller"),
        image("the policy set", Kind::Policies),
        image("the volume card", Kind::VolumeCard),
        image("the hypervisor", Kind::Hypervisor),
        image("the launcher", Kind::Launcher),
        image("the guests' kernel", Kind::GuestKernel),
        image("the attestation card", Kind::AttestationCard),
        byte(
            "the main board's firmware",
            "flash/code.bin",
            WITHIN,
            controller,
            "boot.firmware",
            "main-board firmware",
        ),
        byte("the BMC's firmware", "flash/bmc.bin", 100, controller, "boot.firmware", "bmc firmware"),
        byte(
            "the set of known-good measurements",
            "host/known-good.set",
            200,
            controller,
            "boot.set",
            "known-good set",
        ),
        byte("the sealed identity", "host/early.sealed", 200, controller, "boot.sealed", "sealed keys"),
        byte(
            "the sealed half of the store's key",
            "host/store.sealed",
            200,
            controller,
            "boot.sealed",
            "sealed keys",
        ),
        byte("the store's index", "host/store/index", 200, controller, "store.index", "firmware store"),
        byte("the host's certificate", "host/certificate.pem", 300, controller, "boot.identity", ""),
    ];
    cases.extend(acts());
    cases.extend(strangers());
    cases
}

fn acts() -> Vec<Case> {
    let (rom, stage1, controller) = ("rom", "stage-1", "controller");
    vec![
        case("the configuration", controller, "boot.configuration", "configuration", configuration),
        case("the event log, between the stages", controller, "boot.log", "event log", forged_log),
        case("the event log, in evidence", "attestation", "attest.log", "", evidence),
        case("the TPM's record of the environment", rom, "rom.environment", "stage 1", record),
        case("rollback of stage 1", rom, "rom.rollback", "stage 1", |host| rolled_back(host, &BOOT)),
        case("rollback of the manifest alone", stage1, "stage-1.rollback", "release", |host| {
            rolled_back(host, &BOOT[..1])
        }),
        case("rollback of the whole disk", rom, "rom.rollback", "stage 1", |host| {
            let before = later(host, &[])?;
            host.put(&before, "host")?;
            host.start()
        }),
        case(
            "rollback of an image, the guests' kernel",
            controller,
            "boot.image",
            "guest kernel",
            older_kernel,
        ),
        case("an update to the release before", controller, "update.rollback", "release", |host| {
            later(host, &[])?;
            offered(host, &["--svn", "1"])
        }),
        case("an update to a release for production", controller, "update.environment", "release", |host| {
            offered(host, &["--environment", "production"])
        }),
        case("the TPM's state, from an older copy", "attestation", "attest.clock", "", cloned),
    ]
}

/// What was made for another environment, or for another host.
fn strangers() -> Vec<Case> {
    let (rom, stage1, controller) = ("rom", "stage-1", "controller");
    vec![
        case("a release for production, whole", rom, "rom.environment", "stage 1", |host| {
            foreign(host, true)
        }),
        case("a manifest for production", stage1, "stage-1.environment", "release", |host| {
            foreign(host, false)
        }),
        case("a release for tests, on a production host", rom, "rom.environment", "stage 1", |host| {
            host.another(&["--environment", "production"], |other| foreign(other, true))
        }),
        case(
            "a manifest for tests, on a production host",
            stage1,
            "stage-1.environment",
            "release",
            |host| host.another(&["--environment", "production"], |other| foreign(other, false)),
        ),
        case(
            "the disk, in a board that was never enrolled",
            controller,
            "boot.identity",
            "endorsement key",
            |host| {
                remove(&host.path("tpm-host"))?;
                fs::create_dir(host.path("tpm-host")).map_err(|e| e.to_string())?;
                host.start()
            },
        ),
        case("the disk, in another host's board", controller, "boot.identity", "endorsement key", |host| {
            let board = host.scratch("board")?;
            host.another(&[], |other| other.keep(&board))?;
            host.put(&board, "tpm-host")?;
            host.start()
        }),
    ]
}

fn configuration(host: &mut Host) -> Outcome<Seen> {
    let folder = fs::read_dir(host.path("host/configurations")).map_err(|e| e.to_string())?;
    for entry in folder {
        let name = entry.map_err(|e| e.to_string())?.file_name();
        host.flip(&format!("host/configurations/{}", name.display()), 60)?;
    }
    host.start()
}

/// The log of a good start, handed to a controller that nothing of the sort came before.
fn forged_log(host: &mut Host) -> Outcome<Seen> {
    let unit = host.controller().clone();
    host.power()?;
    host.spawn(&unit)?;
    let status = host.azote(&["status"])?;
    host.stop()?;
    let memory = sealed(&stages(&status)?).map_err(|e| e.to_string())?;
    let program = host.scratch("controller")?;
    copy(&host.path("host/boot/controller"), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).map_err(|e| e.to_string())?;
    let log = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let script = ["sh".to_owned(), "-c".to_owned(), format!("exec \"$0\" \"$@\" 3<{log}")];
    let words = script.into_iter().chain([program.display().to_string()]);
    let forged = unit.by(words.chain(unit.behind_the_chain().iter().cloned()).collect());
    host.power()?;
    host.start_powered(&forged)
}

/// What boot ROM and stage 1 measured, as they hand it on.
fn stages(status: &serde_json::Value) -> Outcome<Vec<u8>> {
    let mut log = Events::new();
    for measured in status["measurements"].as_array().into_iter().flatten() {
        let sha256 = measured["sha256"].as_str().unwrap_or_default();
        let digits: Vec<u8> = (0..sha256.len() / 2)
            .filter_map(|at| u8::from_str_radix(&sha256[2 * at..][..2], 16).ok())
            .collect();
        let digest = digits.as_slice().try_into().map_err(|_| "not a SHA-256 value")?;
        let pcr = measured["pcr"].as_u64().and_then(|pcr| u8::try_from(pcr).ok()).unwrap_or(u8::MAX);
        if pcr <= STAGE_1_PCR {
            let event = Event::new(pcr, measured["what"].as_str().unwrap_or_default(), digest);
            log.push(event.ok_or("not a measurement")?).map_err(|e| e.to_string())?;
        }
    }
    Ok(log.bytes().to_vec())
}

/// Bytes in sealed memory, as a stage hands them on.
fn sealed(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("azote-events", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Evidence with another byte in its log, judged offline.
fn evidence(host: &mut Host) -> Outcome<Seen> {
    host.power()?;
    let unit = host.controller().clone();
    host.spawn(&unit)?;
    let [policy, evidence] = ["policy", "evidence"].map(|name| host.scratch(name));
    let (policy, evidence) = (policy?.display().to_string(), evidence?.display().to_string());
    host.azote(&["attest", "policy", "--out", &policy])?;
    host.azote(&["attest", "--policy", &policy, "--save", &evidence])?;
    let judge = ["attest", "--policy", &policy, "--evidence", &evidence];
    host.azote(&judge)?;
    let text = fs::read_to_string(&evidence).map_err(|e| e.to_string())?;
    let mut kept: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let sha256 = &mut kept["evidence"]["events"][0]["sha256"];
    let digits = sha256.as_str().ok_or("the evidence has no log")?;
    let other = if digits.starts_with('0') { "1" } else { "0" };
    *sha256 = format!("{other}{}", digits.get(1..).unwrap_or_default()).into();
    write(Path::new(&evidence), kept.to_string().as_bytes())?;
    judged(host, &judge)
}

/// What a verifier or the key service says; it starts nothing, but of the host itself nothing was changed.
fn judged(host: &mut Host, words: &[&str]) -> Outcome<Seen> {
    let (code, message) = host.refused(words)?;
    Ok(Seen { stage: "attestation".to_owned(), code, message, held: true })
}

/// One bit in the file in which the software TPM keeps its NV memory.
fn record(host: &mut Host) -> Outcome<Seen> {
    let file = "tpm-host/tpm2-00.permall";
    let bytes = fs::read(host.path(file)).map_err(|e| e.to_string())?;
    let magic = b"AZHOST01\x02";
    let at = bytes.windows(magic.len()).position(|window| window == magic).ok_or("no record in the TPM")?;
    let mut bytes = bytes;
    *bytes.get_mut(at + magic.len() - 1).ok_or("no record")? = 1;
    write(&host.path(file), &bytes)?;
    host.start()
}

/// Runs a release with a higher security version once. Gives a copy of the host from before.
fn later(host: &mut Host, more: &[&str]) -> Outcome<PathBuf> {
    let before = host.scratch("before")?;
    host.keep(&before)?;
    let seen = host.update(&[&["--svn", "2"], more].concat())?;
    if seen.stage != NOBODY {
        return Err(format!("the later release does not run: {} {}", seen.code, seen.message));
    }
    host.stop()?;
    Ok(before)
}

/// Files of the release before in the place of the later ones.
fn rolled_back(host: &mut Host, files: &[&str]) -> Outcome<Seen> {
    let before = later(host, &[])?;
    boot_from(host, &before.join("host/boot"), files)?;
    host.start()
}

/// The kernel of the release before, in the place of the later one's.
fn older_kernel(host: &mut Host) -> Outcome<Seen> {
    let kernel = |images: Vec<(String, String)>| {
        let image = images.into_iter().find(|(kind, _)| kind == Kind::GuestKernel.name());
        image.map(|(_, sha256)| format!("host/store/{sha256}.blob")).ok_or("the release has no kernel")
    };
    let old = kernel(host.images("host/boot")?)?;
    // Any other file will do: it is never started here.
    let other = host.shown("installation.json");
    let before = later(host, &["--guest-kernel", &other])?;
    let new = host.path(&kernel(host.images("host/boot")?)?);
    remove(&new)?;
    copy(&before.join(old), &new)?;
    host.start()
}

/// A release that is offered to a host as an update. What runs goes on.
fn offered(host: &mut Host, more: &[&str]) -> Outcome<Seen> {
    let release = host.scratch("release")?;
    host.make(&release, more)?;
    host.power()?;
    host.offer(&release)
}

/// Files of a release for the other environment, signed by the same root key.
fn foreign(host: &mut Host, whole: bool) -> Outcome<Seen> {
    let key = RootKey::open(&host.path("pki/release")).map_err(|e| e.to_string())?;
    let folder = Folder::open(&host.path("host/boot"), &key.public()).map_err(|e| e.to_string())?;
    let environment = match folder.manifest.environment {
        Environment::Production => Environment::NonProduction,
        Environment::NonProduction => Environment::Production,
    };
    if whole {
        let out = host.scratch("foreign")?;
        host.make(&out, &["--environment", environment.name()])?;
        boot_from(host, &out, &BOOT)?;
    } else {
        let manifest = Manifest { environment, ..folder.manifest };
        let signed = manifest.sign(key.pair()).map_err(|e| e.to_string())?;
        write(&host.path("host/boot/manifest"), &signed)?;
    }
    host.start()
}

/// What a host's boot folder holds.
const BOOT: [&str; 3] = ["manifest", "stage-1", "controller"];

/// Puts files of another boot folder in the place of the host's.
fn boot_from(host: &Host, from: &Path, files: &[&str]) -> Outcome<()> {
    files.iter().try_for_each(|file| {
        let to = host.path("host/boot").join(file);
        remove(&to)?;
        copy(&from.join(file), &to)
    })
}

/// Two copies of a host can only be told apart by somebody who sees both: the key service.
fn cloned(host: &mut Host) -> Outcome<Seen> {
    let unit = host.controller().clone();
    host.power()?;
    host.spawn(&unit)?;
    let volume = host.azote(&["volume", "create", "--size", "1"])?;
    let attach = ["volume", "attach", volume["id"].as_str().unwrap_or_default()];
    host.stop()?;
    // A second start, which the copy has not seen.
    host.power()?;
    host.spawn(&unit)?;
    host.azote(&attach)?;
    host.stop()?;
    host.restore()?;
    host.power()?;
    host.spawn(&unit)?;
    judged(host, &attach)
}
