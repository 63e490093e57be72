//! Instances: `azote instance …`.

mod console;
mod document;
mod room;
mod statistics;
mod tenant;

use crate::{
    attest,
    cloud::{Cloud, Who},
    failure::Failure,
    out::Out,
    place::Place,
    up,
    verbs::told,
};
use clap::{
    Args, Subcommand, ValueHint,
    builder::{PossibleValuesParser, TypedValueParser},
};
use host_api::{ConsoleKey, CreditMode, DeviceName, InstanceStatus, InstanceType, StartInstance};
use ids::{InstanceId, VolumeId};
use serde_json::json;
use std::path::PathBuf;
use tenant::Keys;

/// What can be done with instances.
#[derive(Subcommand)]
pub(crate) enum Instance {
    /// Start an instance from a root volume; prints its id.
    #[command(after_help = "\
Examples:
  azote instance start vol-…                          on the main board, alone
  azote instance start --type t3.micro --root vol-…   beside others

The root volume of `metal` must be attached before. That of another type is attached here, to the
new instance, which runs in a hypervisor of its own.")]
    Start(Start),
    /// Stop an instance: power button first, then its processors are taken away after a grace period.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Take them away at once.
        #[arg(long)]
        force: bool,
    },
    /// The instance types, and which of them this host can take now.
    Types,
    /// What the processors of an instance do, in numbers. There are none of `metal`.
    Statistics {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance's console, sealed between the instance and its tenant. For `metal` it is `azote console`.
    #[command(after_help = "\
Examples:
  azote instance console i-…                    what is kept of its output
  azote instance console i-… --follow           at a terminal: type into it; Ctrl-] leaves
  azote instance console i-… --send 'uname -a' --follow

The tenant's key is in the state folder: whoever carries the console reads nothing of it.")]
    Console(Console),
    /// Judge a document by which an instance proves what it is, offline.
    #[command(after_help = document::HELP)]
    Verify(document::Verify),
}

/// How an instance starts.
#[derive(Args)]
pub(crate) struct Start {
    /// The root volume.
    #[arg(required_unless_present = "root", value_name = "ROOT")]
    volume: Option<VolumeId>,
    /// The root volume.
    #[arg(long, conflicts_with = "volume", value_name = "ROOT")]
    root: Option<VolumeId>,
    /// The instance type; `azote instance types` lists them.
    #[arg(long = "type", value_name = "TYPE", default_value = "metal", hide_possible_values = true,
        value_parser = words(instance_types::all().map(|kind| kind.name)))]
    kind: String,
    /// What a burstable instance does when no CPU credits are left: run at its baseline, or go on and pay. T2 types
    /// are standard and T3 types unlimited without it.
    #[arg(long, value_name = "MODE", value_parser = modes())]
    credits: Option<CreditMode>,
    /// The device name that the guest is told of its root volume; not for `metal`.
    #[arg(long, default_value = "/dev/xvda")]
    device: DeviceName,
    /// Only if the host is what this policy takes (`azote attest policy`): it is asked first, and the key service is
    /// told to see to it before it seals the root volume's key. The root volume of `metal` is attached before: see
    /// `azote volume attach --host-policy`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    host_policy: Option<PathBuf>,
}

/// What is to be done with a console.
#[derive(Args)]
pub(crate) struct Console {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// Go on as output comes, until Ctrl-C. At a terminal, what is typed goes to the instance, and Ctrl-] leaves.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Type this text and a line feed. Only what is printed after it is shown.
    #[arg(long, value_name = "TEXT")]
    pub(crate) send: Option<String>,
    /// Only output after so many bytes since the instance's start.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) after: u64,
    /// Believe the machine that answers now, though its key is not the one of before.
    #[arg(long)]
    pub(crate) trust: bool,
}

/// One of a few words, which shells complete.
fn words(words: impl Iterator<Item = &'static str>) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}

fn modes() -> impl TypedValueParser<Value = CreditMode> {
    let known = |text: String| CreditMode::ALL.iter().copied().find(|mode| mode.as_str() == text);
    words(CreditMode::ALL.iter().map(|mode| mode.as_str()))
        .try_map(move |text| known(text).ok_or("want standard or unlimited"))
}

/// Carries out a verb on a running installation; types and documents need none.
pub(crate) fn run(out: Out, place: &Place, verb: &Instance) -> Result<(), Failure> {
    if matches!(verb, Instance::Types) {
        return room::types(out, Cloud::open(place).and_then(|cloud| cloud.status()).ok().as_ref());
    }
    if let Instance::Verify(ask) = verb {
        return document::run(out, place, ask);
    }
    Cloud::open(place).and_then(|cloud| act(out, place, &cloud, verb)).map_err(|error| told(place, error))
}

fn act(out: Out, place: &Place, cloud: &Cloud, verb: &Instance) -> Result<(), Failure> {
    match verb {
        Instance::Start(ask) => {
            let started = start(place, cloud, ask)?;
            out.result(started.instance.as_str(), &started);
            Ok(())
        }
        Instance::Stop { instance, force } => {
            let progress = out.progress("stopping");
            cloud.stop(instance, *force)?;
            drop(progress);
            Keys::of(place).forget(instance)?;
            out.result(&format!("{instance} stopped"), &json!({"stopped": instance}));
            Ok(())
        }
        Instance::Types | Instance::Verify(_) => Ok(()),
        Instance::Statistics { instance } => {
            statistics::show(out, cloud, instance).map_err(|error| on_the_board(cloud, instance, error))
        }
        Instance::Console(ask) => {
            console::run(out, place, cloud, ask).map_err(|error| on_the_board(cloud, &ask.instance, error))
        }
    }
}

fn start(place: &Place, cloud: &Cloud, ask: &Start) -> Result<InstanceStatus, Failure> {
    let root = ask.root.as_ref().or(ask.volume.as_ref());
    let root = root.ok_or_else(|| Failure::state("no root volume"))?.clone();
    let instance_type: InstanceType = ask.kind.parse().map_err(Failure::state)?;
    let burstable = instance_types::find(&ask.kind)
        .is_some_and(|kind| matches!(kind.class, instance_types::Class::Burstable { .. }));
    if ask.credits.is_some() && !burstable {
        let message = format!("{} has no CPU credits: leave --credits out, or choose a T type", ask.kind);
        return Err(Failure::Advice("instance.type", message));
    }
    let launch = ask.host_policy.as_ref().map(|path| attest::demand(place, cloud, path)).transpose()?;
    if instance_type == InstanceType::metal() {
        return cloud.start(&root);
    }
    let instance = InstanceId::from_random(up::random()?);
    let key = Keys::of(place).read_or_make()?;
    let volume = cloud.store.get(&root)?;
    cloud.attach_anywhere(Some(&instance), &volume, &ask.device, launch.as_ref())?;
    let start = StartInstance {
        instance,
        root: root.clone(),
        instance_type,
        console_key: Some(ConsoleKey::from_bytes(key.public())),
        credits: ask.credits,
    };
    cloud.call(Who::ControlPlane, &start).inspect_err(|_| {
        // The volume was attached for this start alone. If it cannot be taken off now, the status shows it.
        let _ = cloud.detach(&root, true);
    })
}

/// What to do if an instance has no hypervisor because it has the main board.
fn on_the_board(cloud: &Cloud, instance: &InstanceId, error: Failure) -> Failure {
    let metal = InstanceType::metal();
    let on_board = |known: &InstanceStatus| known.instance == *instance && known.instance_type == metal;
    if error.code() != "hypervisor.absent" || !cloud.status().is_ok_and(|s| s.instances.iter().any(on_board))
    {
        return error;
    }
    let message = format!("{instance} has the main board for itself: `azote console` is its serial console");
    Failure::Advice("hypervisor.absent", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<Instance, clap::Error> {
        let args = Args::try_parse_from(["azote", "instance"].iter().chain(words))?;
        let Verb::Instance(verb) = args.verb else { panic!("another verb") };
        Ok(verb)
    }

    const VOLUME: &str = "vol-0123456789abcdef0";

    #[test]
    fn an_instance_starts_from_one_volume_on_metal_unless_it_has_a_type() {
        let Ok(Instance::Start(start)) = parse(&["start", VOLUME]) else { panic!() };
        assert_eq!((start.kind.as_str(), start.credits), ("metal", None));
        assert_eq!(start.volume.unwrap().as_str(), VOLUME);
        let words = ["start", "--type", "t3.micro", "--credits", "standard", "--root", VOLUME];
        let Ok(Instance::Start(start)) = parse(&words) else { panic!() };
        assert_eq!((start.kind.as_str(), start.credits), ("t3.micro", Some(CreditMode::Standard)));
        assert_eq!(start.root.unwrap().as_str(), VOLUME);
        for wrong in [
            &["start"][..],
            &["start", VOLUME, "--root", VOLUME],
            &["start", VOLUME, "--type", "t3.huge"],
            &["start", VOLUME, "--credits", "many"],
        ] {
            let Err(error) = parse(wrong) else { panic!("{wrong:?}") };
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }
}
