//! What the host's keepers do: `azote host …`.

use crate::{
    cloud::{Cloud, Who},
    failure::Failure,
    out::Out,
};
use host_api::{DrainHost, PowerCycleHost, ResumeHost};
use serde_json::json;

/// The keepers' verbs.
#[derive(clap::Subcommand)]
pub(crate) enum Host {
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
