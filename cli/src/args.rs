//! The command line.

use crate::place::Place;
use clap::{Args as ClapArgs, Parser, Subcommand};
use ids::{HostId, InstanceId, KeyId, VolumeId};
use std::{path::PathBuf, time::Duration};

/// Runs a host on which nobody who operates it can look inside other people's machines.
///
/// Start with `azote demo`, which does everything once and shows it. Or go step by step: `azote up`, `azote
/// key create`, `azote volume create --image FILE`, `azote volume attach VOLUME`, `azote instance start VOLUME`,
/// `azote console`, `azote log`, `azote down`.
#[derive(Parser)]
#[command(
    name = "azote",
    version,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 done, 1 refused or failed (the code and what to do are printed), 2 wrong usage."
)]
pub(crate) struct Args {
    /// Folder of this installation.
    #[arg(long, env = "AZOTE_STATE", default_value_os_t = Place::default_folder(), global = true)]
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
    Up(Board),
    /// Stop everything that `up` started.
    Down,
    /// What the host says of itself: measurements, reset, volumes, instance.
    Status,
    /// The host's log: every attempt, refusals included, each written before it was acted on.
    Log {
        /// Only records after this number.
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
    Instance(Instance),
    /// The instance's serial console; Ctrl-] leaves it.
    Console,
    /// Ask the token service for a bearer token and print it with its proof-of-possession key left out.
    Token(Token),
    /// Completions for a shell, on standard output.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
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
    Create(Create),
    /// The volumes of this installation.
    List,
    /// Attach a volume to the host: as a boot volume before the instance starts, hot-plugged while it runs.
    Attach {
        /// The volume.
        volume: VolumeId,
        /// The device name that the guest is told.
        #[arg(long, default_value = "/dev/sdf")]
        device: String,
        /// The slot of the main board; the lowest free one without it.
        #[arg(long)]
        slot: Option<u8>,
    },
    /// Detach a volume; the guest must have let go of it, or say --force.
    Detach {
        /// The volume.
        volume: VolumeId,
        /// Pull it out under the guest: a surprise removal.
        #[arg(long)]
        force: bool,
    },
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false, id = "source", args = ["image", "size"])]
pub(crate) struct Create {
    /// The customer key; a new one is made without it.
    #[arg(long)]
    pub(crate) key: Option<KeyId>,
    /// Fill the volume from a raw disk image.
    #[arg(long)]
    pub(crate) image: Option<PathBuf>,
    /// Size of an empty volume in MiB.
    #[arg(long)]
    pub(crate) size: Option<u64>,
}

#[derive(Subcommand)]
pub(crate) enum Instance {
    /// Start the instance from an attached root volume; prints its id.
    Start {
        /// The root volume.
        root: VolumeId,
    },
    /// Stop the instance: power button first, reset after a grace period.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Take reset at once.
        #[arg(long)]
        force: bool,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Token {
    /// An API that the token shall name; repeat for more.
    #[arg(long = "api", required = true)]
    pub(crate) apis: Vec<String>,
    /// A resource that it shall name (`volume/vol-…`); repeat for more.
    #[arg(long = "resource", required = true)]
    pub(crate) resources: Vec<String>,
    /// The host it is for; this installation's without it.
    #[arg(long)]
    pub(crate) audience: Option<HostId>,
    /// How long it shall live, in seconds.
    #[arg(long, default_value = "300", value_parser = seconds)]
    pub(crate) lifetime: Duration,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
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
    }
}
