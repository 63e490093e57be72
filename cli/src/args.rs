//! The command line.

use crate::guests::Guests;
use crate::place::Place;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueHint};
use host_api::{Api, DeviceName, Resource};
use ids::{Environment, HostId, InstanceId, KeyId, Slot, VolumeId};
use std::{path::PathBuf, time::Duration};

/// Runs a host on which nobody who operates it can look inside other people's machines.
///
/// `azote demo` does everything once and shows it.
#[derive(Parser)]
#[command(
    name = "azote",
    version,
    arg_required_else_help = true,
    after_help = "\
Step by step:
  azote up                                  start a host and its control plane
  azote volume create --image root.img      make an encrypted volume from a raw disk image
  azote volume attach vol-…                 attach it
  azote instance start vol-…                start an instance from it, on the main board
  azote console                             its serial console; Ctrl-] leaves
  azote instance start --type t3.micro --root vol-…   or: beside others; `azote instance types`
  azote status; azote log                   what the host is, and what it was asked
  azote down                                stop everything; volumes, keys and log stay

Exit codes: 0 done, 1 refused or failed (what to do and a stable code are printed), 2 wrong usage."
)]
pub(crate) struct Args {
    /// Folder of this installation.
    #[arg(long, env = "AZOTE_STATE", default_value_os_t = Place::default_folder(), global = true, value_hint = ValueHint::DirPath)]
    pub(crate) state: PathBuf,
    /// Print one JSON document for programs; progress is left out.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run the main job end to end in a folder of its own, and check every promise.
    Demo(Demo),
    /// Start a host and its control plane on this machine.
    Up(Up),
    /// Stop everything that `up` started.
    Down,
    /// What the host says of itself: measurements, reset, volumes, instance.
    Status,
    /// The audit log: what hosts, token service and callers wrote down, what was found, and alarms.
    Log(Log),
    /// The alarms.
    Alarms {
        /// Only those at this place of the audit log or later.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Customer keys, as the tenant.
    #[command(subcommand)]
    Key(Key),
    /// Encrypted volumes.
    #[command(subcommand)]
    Volume(Volume),
    /// Instances.
    #[command(subcommand)]
    Instance(crate::instance::Instance),
    /// The main board's serial console; Ctrl-] leaves it. Of other instances: `azote instance console`.
    Console,
    /// Ask the token service for a bearer token, bound to the control plane's identity key, and print it.
    #[command(after_help = "Example: azote token --api DetachVolume --resource volume/vol-… --lifetime 60")]
    Token(Token),
    /// Drain, resume and power-cycle the host, as one of its keepers.
    #[command(subcommand)]
    Host(crate::host::Host),
    /// The images in the host's firmware store and in its flash.
    #[command(subcommand)]
    Firmware(crate::firmware::Firmware),
    /// The token service's signing keys.
    #[command(subcommand)]
    Tokens(Tokens),
    /// Rights configurations: who may do what, and the review of a change.
    #[command(subcommand)]
    Rights(crate::rights::Rights),
    /// Releases: what a host may run, signed by its root key.
    #[command(subcommand)]
    Release(crate::release::Release),
    /// Ask a host what it is and runs, and judge the answer by a policy; or judge kept evidence, offline.
    #[command(after_help = crate::attest::HELP)]
    Attest(crate::attest::Attest),
    /// The environment's authority: it keeps certificates and revocation lists alive, and appraises hosts.
    #[command(subcommand)]
    Authority(crate::authority::Verb),
    /// What the processes of this installation expose: sockets, mappings, capabilities, files, terminals, and what
    /// each could start. Fails on anything that no sandbox file names.
    Exposure(crate::exposure::Exposure),
    /// Fresh evidence for the seven claims: each with what was looked at, what was found, and what it rests on.
    #[command(
        after_help = crate::claims::HELP
    )]
    Claims(crate::claims::Claims),
    /// Completions for a shell, on standard output.
    #[command(
        after_help = "Example: azote completions bash > ~/.local/share/bash-completion/completions/azote"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Up {
    /// The emulated main board.
    #[command(flatten)]
    pub(crate) board: Board,
    /// Instances that share the host.
    #[command(flatten)]
    pub(crate) guests: Guests,
    /// What the host is for, said when it is first started: production or non-production (without it). It never
    /// changes.
    #[arg(long)]
    pub(crate) environment: Option<Environment>,
    /// The removable half of the firmware store's key: made at the host's first start, wanted at each later one.
    /// Taken away, the store is gone.
    #[arg(long, value_name = "FILE")]
    pub(crate) security_key: Option<PathBuf>,
    /// How long certificates of hosts and services live, said when it is first started; a revocation list lives twice as
    /// long. For tests: they live 24 hours.
    #[arg(long, value_name = "SECONDS", hide = true, value_parser = clap::value_parser!(u64).range(8..=86_400))]
    pub(crate) certificate_life: Option<u64>,
}

#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Log {
    #[command(subcommand)]
    pub(crate) verb: Option<LogVerb>,
    /// Only entries from this place on.
    #[arg(long, default_value_t = 0)]
    pub(crate) after: u64,
    /// Go on as entries come, until Ctrl-C. Reads of the log are left out.
    #[arg(long)]
    pub(crate) follow: bool,
}

#[derive(Subcommand)]
pub(crate) enum LogVerb {
    /// Check signature, tree, proofs, and the hosts' chains and signatures, against the log's public key.
    #[command(
        after_help = "Examples:\n  azote log verify\n  azote log verify --offline copy-of-log --key 'azote/audit/…+…+…' --since checkpoint-of-yesterday"
    )]
    Verify(Verify),
}

#[derive(ClapArgs)]
pub(crate) struct Verify {
    /// A folder with a copy of the log's files; without it, they are read from the audit service.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) offline: Option<PathBuf>,
    /// The log's public key; that of this installation without it.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<audit::note::VerifierKey>,
    /// A checkpoint that was kept, which the log must continue (`verified-checkpoint` in the state folder is the
    /// last one that was verified).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) since: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct Demo {
    /// Leave the host running and its state in place afterwards.
    #[arg(long)]
    pub(crate) keep: bool,
    #[command(flatten)]
    pub(crate) board: Board,
}

#[derive(ClapArgs, Clone)]
pub(crate) struct Board {
    /// Memory of the emulated main board in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..=65536))]
    pub(crate) memory: u32,
    /// Processors of the emulated main board.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: u32,
}

#[derive(Subcommand)]
pub(crate) enum Key {
    /// Make a customer key; prints its id.
    Create,
}

#[derive(Subcommand)]
pub(crate) enum Volume {
    /// Make an encrypted volume; prints its id.
    #[command(
        after_help = "Examples:\n  azote volume create --image root.img\n  azote volume create --size 2GiB --key key-…"
    )]
    Create(Create),
    /// The volumes of this installation.
    List,
    /// Attach a volume: before the instance starts, or hot-plugged while it runs.
    #[command(
        after_help = "Examples:\n  azote volume attach vol-… --device /dev/sdg\n  azote volume attach vol-… --instance i-…"
    )]
    Attach {
        /// The volume.
        volume: VolumeId,
        /// The device name that the guest is told.
        #[arg(long, default_value = "/dev/sdf")]
        device: DeviceName,
        /// The slot of the main board or the instance; the lowest free one without it.
        #[arg(long, value_parser = slot)]
        slot: Option<Slot>,
        /// The instance that shall have it; without it, the main board.
        #[arg(long)]
        instance: Option<InstanceId>,
        /// Only if the host is what this policy takes: it is asked first, and the key service is told to see to it.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        host_policy: Option<PathBuf>,
    },
    /// Detach a volume; the guest must have let go of it, or say --force.
    #[command(
        after_help = "In the guest, as root: echo 1 > /sys/block/nvme1n1/device/device/remove\nThen:               azote volume detach vol-…"
    )]
    Detach {
        /// The volume.
        volume: VolumeId,
        /// Pull it out under the guest: a surprise removal.
        #[arg(long)]
        force: bool,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Create {
    /// The customer key; a new one is made without it.
    #[arg(long)]
    pub(crate) key: Option<KeyId>,
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// Fill the volume from a raw disk image: a file or a block device.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub(crate) image: Option<PathBuf>,
    /// Size of an empty volume: a number with KiB, MiB, GiB or TiB; MiB without.
    #[arg(long, value_parser = size)]
    pub(crate) size: Option<u64>,
}

#[derive(Subcommand)]
pub(crate) enum Tokens {
    /// Which key signs, and whether a rotation is under way.
    Keys,
    /// Announce the next signing key, and tell the host of it. It signs after the service's overlap; tokens of the
    /// present key work until they expire.
    Rotate,
    /// Tell the host of the key sets that it may have missed: after a rotation by the clock, and when an old key is
    /// retired.
    Push,
}

#[derive(ClapArgs)]
pub(crate) struct Token {
    /// An API that the token shall name; repeat for more.
    #[arg(long = "api", value_name = "API", required = true, value_parser = api)]
    pub(crate) apis: Vec<Api>,
    /// A resource that it shall name (`volume/vol-…`); repeat for more.
    #[arg(long = "resource", value_name = "RESOURCE", required = true)]
    pub(crate) resources: Vec<Resource>,
    /// The host it is for; this installation's without it.
    #[arg(long)]
    pub(crate) audience: Option<HostId>,
    /// How long it shall live, in seconds.
    #[arg(long, default_value = "300", value_parser = seconds)]
    pub(crate) lifetime: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "want a whole number of seconds".to_owned())
}

fn api(text: &str) -> Result<Api, String> {
    let names: Vec<&str> = Api::ALL.iter().map(|api| api.as_str()).collect();
    text.parse().map_err(|_| format!("want one of {}", names.join(", ")))
}

fn slot(text: &str) -> Result<Slot, String> {
    let number: Option<u8> = text.parse().ok();
    number
        .and_then(|number| Slot::try_from(number).ok())
        .filter(|slot| *slot != Slot::HOST)
        .ok_or_else(|| format!("the board has slots 1 to {}", ids::SLOTS))
}

/// Bytes of a volume.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.get(digits.len()..).unwrap_or_default().trim() {
        "KiB" => 10,
        "" | "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err("want a number with KiB, MiB, GiB or TiB".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "want a number, such as 512 or 2GiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0 && *bytes <= volumes::MAX_SIZE && bytes.is_multiple_of(volumes::UNIT))
        .ok_or_else(|| {
            let (least, most) = (volumes::UNIT >> 10, volumes::MAX_SIZE >> 40);
            format!("a volume has a multiple of {least} KiB, at most {most} TiB")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_volume_needs_exactly_one_source() {
        let parse =
            |words: &[&str]| Args::try_parse_from(["azote", "volume", "create"].iter().chain(words)).is_ok();
        assert!(!parse(&[]));
        assert!(!parse(&["--image", "a", "--size", "1"]));
        assert!(parse(&["--image", "a"]));
        assert!(parse(&["--size", "64"]));
        assert!(parse(&["--size", "64", "--key", "key-0123456789abcdef0"]), "a key goes with either");
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        let good =
            [("1", 1 << 20), ("4KiB", 4096), ("3 MiB", 3 << 20), ("2GiB", 2 << 30), ("64TiB", 64 << 40)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "1.5",
            "x",
            "5KiB",
            "65TiB",
            "1GB",
            "99999999999999999999",
            "18014398509481985KiB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
