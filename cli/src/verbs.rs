//! The operator's and tenant's verbs.

use crate::{
    args::{self, Key, Verb},
    authority,
    cloud::{Ask, Cloud, Who},
    console,
    failure::{Doing, Failure},
    interrupt,
    out::Out,
    place::Place,
    rack::Unit,
    up,
};
use host_api::{Accelerator, HostStatus, LogRecord, Weakness};
use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::json;
use service::CallError;
use std::fmt::Write;

/// Carries out a verb on a running installation.
pub(crate) fn run(out: Out, place: &Place, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Console => return Ok(console::join(out, &place.path("run/console"))?),
        Verb::Instance(verb) => return crate::instance::run(out, place, verb),
        _ => {}
    }
    Cloud::open(place).and_then(|cloud| act(out, place, &cloud, verb)).map_err(|error| told(place, error))
}

/// Why nobody answers, if that is what failed, in words that help.
pub(crate) fn told(place: &Place, error: Failure) -> Failure {
    if !matches!(error, Failure::Call(CallError::Unreachable { .. }) | Failure::Advice("host.not-up", _)) {
        return error;
    }
    let ended = up::ended(place);
    if ended.contains(&"controller")
        && let Some(report) = crate::boot::report(place)
    {
        return report;
    }
    match ended {
        ended if ended.is_empty() => error,
        ended if ended.len() == up::UNITS.len() => {
            let message = format!("nothing runs in {}: `azote up` first", place.root().display());
            Failure::Advice("host.not-up", message)
        }
        ended => Failure::Advice("host.partly-up", up::partly(&ended)),
    }
}

fn act(out: Out, place: &Place, cloud: &Cloud, verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Status | Verb::Host(crate::host::Host::Status) => {
            let status = Status::of(place, cloud)?;
            out.result(&status.text(), &status);
            Ok(())
        }
        Verb::Key(Key::Create) => {
            let key = cloud.create_key()?;
            out.result(key.as_str(), &json!({"key": key}));
            Ok(())
        }
        Verb::Volume(verb) => volume(out, place, cloud, verb),
        Verb::Token(ask) => token(out, cloud, ask),
        Verb::Tokens(verb) => crate::tokens::run(out, cloud, verb),
        Verb::Host(verb) => crate::host::run(out, cloud, verb),
        Verb::Firmware(verb) => crate::firmware::run(out, cloud, verb),
        // These need no running installation, or open it themselves.
        _ => Ok(()),
    }
}

/// What the host says of itself, and what the authority knows of it.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    host: HostStatus,
    /// What the authority's last round came to.
    authority: Option<authority::Report>,
    /// Whether the authority still looks.
    authority_runs: bool,
    /// What the token service holds of this installation's host.
    inventory: Option<tokens::client::Known>,
}

impl Status {
    fn of(place: &Place, cloud: &Cloud) -> Result<Self, Failure> {
        let mine = |known: &tokens::client::Known| known.host == cloud.installation.host;
        Ok(Self {
            host: cloud.status()?,
            authority: authority::Report::read(place),
            authority_runs: Unit::new(place, "authority").is_running(),
            inventory: cloud.hosts()?.into_iter().find(mine),
        })
    }

    fn text(&self) -> String {
        let mut text = status_text(&self.host);
        if let Some(report) = &self.authority {
            let _ = write!(text, "\n{}", report.text());
        }
        if !self.authority_runs {
            text.push_str("\nNOBODY LOOKS AFTER THE CERTIFICATES: `azote authority run`, or `azote down` and `azote up`");
        }
        text
    }
}

fn status_text(status: &HostStatus) -> String {
    let mut text = format!("host       {}\n", status.host);
    let service = match &status.out_of_service {
        None => "in service".to_owned(),
        Some(why) => format!("OUT OF SERVICE: {} ({})", why.message.as_str(), why.code.as_str()),
    };
    let _ = writeln!(text, "service    {service}");
    if status.drained {
        let _ = writeln!(text, "drained    takes no new volume and starts no instance: `azote host resume`");
    }
    if let Some(chip) = &status.chip {
        let reset = if chip.reset_held { "held" } else { "released" };
        let _ = writeln!(text, "reset      {reset}; refused firmware writes: {}", chip.refused_writes);
        let _ = writeln!(text, "firmware   sha256 {}", chip.firmware.as_str());
    } else {
        let _ = writeln!(text, "reset      the security chip does not answer: `azote down`, then `azote up`");
    }
    if let Some(board) = &status.board {
        let by = accelerator(board.accelerator);
        let _ = writeln!(text, "board      {}; guests run by {by}; starts: {}", board.power, board.boots);
    } else {
        let _ = writeln!(text, "board      does not answer: `azote down`, then `azote up`");
    }
    for entry in &status.measurements {
        let (sha256, what) = (entry.sha256.as_str(), entry.what.as_str());
        let _ = writeln!(text, "measured   PCR {:<2} {sha256}  {what}", entry.pcr);
    }
    guests_text(status, &mut text);
    let log = &status.log;
    let (used, most) = (log.bytes.div_ceil(1024), log.capacity >> 10);
    let _ = write!(text, "log        {} records, {used} of {most} KiB used", log.last);
    text
}

/// What the host does for tenants.
fn guests_text(status: &HostStatus, text: &mut String) {
    if let Some(hypervisor) = &status.hypervisor {
        let (by, image) = (hypervisor.virtualisation, hypervisor.image.as_str());
        let cores = counted(hypervisor.free_cores, "core");
        let threads = counted(hypervisor.threads_per_core, "thread");
        let memory = hypervisor.free_memory_mib;
        let _ = writeln!(text, "sharing    virtualisation {by}; free: {cores} of {threads}, {memory} MiB");
        let _ = writeln!(text, "hypervisor sha256 {image}");
        for kind in &hypervisor.accelerators {
            let _ =
                writeln!(text, "accelerators {}: {} of {} free", kind.family.as_str(), kind.free, kind.all);
        }
        weaknesses_text(hypervisor.weaknesses.iter(), text);
    }
    for volume in &status.volumes {
        let (slot, device) = (volume.slot, volume.device_name.as_str());
        let of = volume.instance.as_ref().map(|instance| format!(" of {instance}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "volume     {} slot {slot}{of} {device} {}: {} reads, {} writes, {} errors",
            volume.volume, volume.state, volume.reads, volume.writes, volume.errors
        );
    }
    for instance in &status.instances {
        let (id, root, kind) = (&instance.instance, &instance.root, instance.instance_type.as_str());
        let credits = instance.credits.map(|n| format!("; {}.{:03} CPU credits", n / 1000, n % 1000));
        let credits = credits.unwrap_or_default();
        let _ = writeln!(text, "instance   {id} {kind} from {root}: {}{credits}", instance.state);
        if let Some(started) = &instance.measurement {
            let _ = writeln!(text, "           kernel sha256 {}", started.kernel.as_str());
        }
        // Those of the host are every instance's.
        let of_host = status.hypervisor.iter().flat_map(|hypervisor| &hypervisor.weaknesses);
        let own = instance.weaknesses.iter().filter(|own| !of_host.clone().any(|host| host == *own));
        weaknesses_text(own, text);
    }
}

/// `1 core`, `2 cores`.
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn weaknesses_text<'a>(weaknesses: impl Iterator<Item = &'a Weakness>, text: &mut String) {
    for weakness in weaknesses {
        let _ = writeln!(text, "WEAKNESS   {} ({})", weakness.message.as_str(), weakness.code.as_str());
    }
}

/// What runs the guest, in words.
fn accelerator(by: Accelerator) -> &'static str {
    match by {
        Accelerator::Kvm => "hardware virtualisation (KVM)",
        Accelerator::Tcg => "software emulation (TCG)",
        Accelerator::Other => "something unknown",
    }
}

/// A host's log as a table.
pub(crate) fn log_table(records: &[LogRecord]) -> String {
    records.iter().map(log_line).collect::<Vec<_>>().join("\n")
}

/// A record of a host's log in a line.
pub(crate) fn log_line(record: &LogRecord) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let what = text(record.api.map(|api| api.to_string()));
    let who = text(record.subject.as_ref().map(|s| s.to_string().replacen("azote:", "", 1)));
    let on: Vec<String> = record.resources.iter().map(ToString::to_string).collect();
    let code = text(record.code.as_ref().map(|code| code.as_str().to_owned()));
    let detail = text(record.detail.as_ref().map(|detail| detail.as_str().to_owned()));
    let of = text(record.intent.map(|intent| format!("of {intent}")));
    let kind = record.kind.as_str();
    let time = record.time.as_str().get(11..23).unwrap_or_default();
    let rest = [of, code, on.join(" "), detail]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("  ");
    format!("{:>5}  {time}  {kind:<8} {what:<14} {who:<22} {rest}", record.seq).trim_end().to_owned()
}

fn volume(out: Out, place: &Place, cloud: &Cloud, verb: &args::Volume) -> Result<(), Failure> {
    match verb {
        args::Volume::Create(create) => {
            let volume = create_volume(out, cloud, create)?;
            out.result(volume.id.as_str(), &volume);
        }
        args::Volume::List => {
            let volumes = cloud.store.list()?;
            let line =
                |v: &volumes::Volume| format!("{}  {:>9}  {}", v.id, HumanBytes(v.size).to_string(), v.key);
            if volumes.is_empty() {
                out.remark("no volumes yet: `azote volume create` makes one");
            }
            out.result(&volumes.iter().map(line).collect::<Vec<_>>().join("\n"), &volumes);
        }
        args::Volume::Attach { volume, device, slot, instance, host_policy } => {
            let (volume, instance) = (cloud.store.get(volume)?, instance.as_ref());
            let launch =
                host_policy.as_ref().map(|path| crate::attest::demand(place, cloud, path)).transpose()?;
            let attached = match slot {
                Some(slot) => cloud.attach_to(instance, &volume, device, *slot, launch.as_ref())?,
                None => cloud.attach_anywhere(instance, &volume, device, launch.as_ref())?,
            };
            out.result(&format!("{} in slot {}", volume.id, attached.slot), &attached);
        }
        args::Volume::Detach { volume, force } => {
            cloud.detach(volume, *force)?;
            out.result(&format!("{volume} detached, its key wiped"), &json!({"detached": volume}));
        }
    }
    Ok(())
}

fn create_volume(out: Out, cloud: &Cloud, create: &args::Create) -> Result<volumes::Volume, Failure> {
    // A half-written volume is taken away before the command ends.
    interrupt::watch().doing("signals")?;
    let key = match &create.key {
        Some(key) => key.clone(),
        None => cloud.create_key()?,
    };
    match &create.source.image {
        Some(image) => {
            let progress = out.progress("writing the image through a volume card");
            cloud.import(&key, image, &mut |done, all| progress.bytes(done, all))
        }
        None => cloud.create_volume(&key, create.source.size.unwrap_or_default()),
    }
}

fn token(out: Out, cloud: &Cloud, ask: &args::Token) -> Result<(), Failure> {
    let ask = Ask {
        apis: ask.apis.clone(),
        resources: ask.resources.clone(),
        audience: ask.audience.clone(),
        lifetime: ask.lifetime,
    };
    let token = cloud.token(Who::ControlPlane, &ask)?;
    out.result(&token, &json!({"token": token}));
    Ok(())
}

/// `azote down`.
pub(crate) fn down(out: Out, place: &Place) -> Result<(), Failure> {
    let stopped = up::down(place)?;
    let text = if stopped.is_empty() {
        "nothing was running".to_owned()
    } else {
        format!("stopped {}", stopped.join(", "))
    };
    out.result(&text, &json!({"stopped": stopped}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_tells_of_every_instance_and_every_weakness() {
        let (sha, weakness) =
            ("0".repeat(64), json!([{"code": "isolation.smt", "message": "two threads share"}]));
        let instance = |id: u8, kind: &str, credits: Option<u64>| {
            json!({"instance": format!("i-{id:017x}"), "root": "vol-0123456789abcdef0", "instance_type": kind,
                "state": "running", "credits": credits, "weaknesses": weakness,
                "measurement": {"kernel": sha, "initrd": null, "command_line": sha}})
        };
        let volume = json!({"volume": "vol-0123456789abcdef0", "instance": "i-00000000000000002", "slot": 1,
            "device_name": "xvda", "size": 4096, "state": "enabled", "reads": 1, "writes": 2, "errors": 0});
        let status = json!({
            "host": "h-0123456789abcdef0", "in_service": true, "drained": false, "token_keys": 0, "measurements": [],
            "registers": [],
            "certificate": "-", "volumes": [volume],
            "instances": [instance(1, "c7i.large", None), instance(2, "t3.nano", Some(12_045))],
            "hypervisor": {"image": sha, "virtualisation": "vmx", "threads_per_core": 2, "free_cores": 3,
                "free_memory_mib": 1000, "weaknesses": weakness, "accelerators": [{"family": "g5", "all": 2, "free": 1}]},
            "log": {"last": 0, "bytes": 0, "capacity": 1024},
        });
        let text = status_text(&serde_json::from_value(status).unwrap());
        for part in [
            "virtualisation vmx; free: 3 cores of 2 threads, 1000 MiB",
            "accelerators g5: 1 of 2 free",
            "WEAKNESS   two threads share (isolation.smt)",
            "vol-0123456789abcdef0 slot 1 of i-00000000000000002 xvda",
            "i-00000000000000001 c7i.large from vol-0123456789abcdef0: running\n",
            "i-00000000000000002 t3.nano from vol-0123456789abcdef0: running; 12.045 CPU credits\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.matches("WEAKNESS").count(), 1, "{text}");
    }

    #[test]
    fn a_record_is_one_line_without_control_characters() {
        let record = json!({
            "seq": 7, "time": "2026-01-02T03:04:05.678901Z", "kind": "refusal", "api": "DetachVolume", "code": "token.expired",
            "subject": "azote:service/control-plane", "resources": ["volume/vol-0123456789abcdef0"], "prev": "00".repeat(32),
        });
        let record: LogRecord = serde_json::from_value(record).unwrap();
        let line = log_table(&[record]);
        for part in [
            "    7  03:04:05.678",
            "refusal",
            "DetachVolume",
            "service/control-plane",
            "token.expired",
            "volume/vol-",
        ] {
            assert!(line.contains(part), "{part} in {line:?}");
        }
        assert!(!line.contains('\n'));
    }
}
