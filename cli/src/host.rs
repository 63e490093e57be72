//! What the host's keepers do: `azote host …`.

use crate::{
    cloud::{Cloud, Who},
    failure::Failure,
    out::Out,
};
use clap::ValueHint;
use host_api::{DrainHost, PowerCycleHost, ResumeHost};
use ids::HostId;
use serde_json::json;
use std::path::PathBuf;

/// The keepers' verbs.
#[derive(clap::Subcommand)]
pub(crate) enum Host {
    /// What the host says of itself, as `azote status`; of one that did not start, which stage refused what.
    Status,
    /// Take in a host that is in its first state: its TPM proves which one it is and what it has started, and the
    /// environment's authority gives it an identity. Then it runs, as after `azote up`.
    Enroll {
        /// How it is started.
        #[command(flatten)]
        up: crate::args::Up,
        /// Clear its TPM first, as whoever stands at the machine can: for a host that cannot be reset any more. What it
        /// was is retired; nothing proves that it was erased.
        #[arg(long)]
        jumper: bool,
    },
    /// Offer the host certificates for another day; it takes them without a restart. The authority that `azote up`
    /// leaves running does so by itself, in time and only if the host is what it should be.
    Renew,
    /// Take a host out: its certificates are revoked, and nobody talks to it any more.
    Retire {
        /// The host; this installation's without it.
        host: Option<HostId>,
    },
    /// Factory reset: the host destroys its identity, its store and all its keys, proves it with a certificate of
    /// erasure, and is in its first state. It must be drained, without volumes and instances. Nothing brings it back.
    #[command(after_help = "Example: azote host drain && azote host reset --ticket OPS-1043")]
    Reset {
        /// Number of the work order, so that others can read why.
        #[arg(long)]
        ticket: String,
    },
    /// Judge a certificate of erasure that was kept, offline, and print what it says.
    Erasure {
        /// The certificate.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// What the host must have run; this installation's attestation policy without it.
        #[arg(long, value_hint = ValueHint::FilePath)]
        policy: Option<PathBuf>,
    },
    /// Take no new volume and start no instance from now on; a running instance goes on.
    Drain,
    /// Take new volumes and start instances again.
    Resume,
    /// Hold the main board in reset, verify its firmware again, and let it start afresh. Not while an instance is
    /// started.
    #[command(after_help = "Example: azote host power-cycle --ticket OPS-1042")]
    PowerCycle {
        /// Number of the work order, so that others can read why.
        #[arg(long)]
        ticket: String,
    },
}

/// Carries out a keeper's verb.
pub(crate) fn run(out: Out, cloud: &Cloud, verb: &Host) -> Result<(), Failure> {
    let (text, done) = match verb {
        // These open the installation themselves.
        Host::Status
        | Host::Enroll { .. }
        | Host::Renew
        | Host::Retire { .. }
        | Host::Reset { .. }
        | Host::Erasure { .. } => return Ok(()),
        Host::Drain => {
            cloud.call(Who::Operator, &DrainHost {})?;
            ("drained: the host takes no new volume and starts no instance", "drained")
        }
        Host::Resume => {
            cloud.call(Who::Operator, &ResumeHost {})?;
            ("resumed: the host takes new volumes and starts instances", "resumed")
        }
        Host::PowerCycle { ticket } => {
            cloud.call_for(Who::Operator, Some(ticket), &PowerCycleHost {})?;
            ("power-cycled: the main board started afresh from verified firmware", "power-cycled")
        }
    };
    out.result(text, &json!({"host": cloud.installation.host, "done": done}));
    Ok(())
}
