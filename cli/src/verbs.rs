//! The operator's and tenant's verbs.

use crate::{
    args::{self, Instance, Key, Verb},
    cloud::{Ask, Cloud, Who},
    console,
    failure::{Doing, Failure},
    out::Out,
    place::Place,
    up,
};
use host_api::{Api, LogRecord, Resource};
use ids::Slot;
use serde_json::json;
use std::fmt::Write;

/// Carries out a verb on a running installation.
pub(crate) fn run(out: Out, place: &Place, verb: &Verb) -> Result<(), Failure> {
    if matches!(verb, Verb::Console) {
        return console::join(&place.path("run/console")).doing("console");
    }
    let cloud = Cloud::open(place)?;
    match verb {
        Verb::Status => status(out, &cloud),
        Verb::Log { after } => {
            let records = cloud.log(*after)?;
            out.result(&log_table(&records), &records);
            Ok(())
        }
        Verb::Key(Key::Create) => {
            let key = cloud.create_key()?;
            out.result(key.as_str(), &json!({"key": key}));
            Ok(())
        }
        Verb::Volume(verb) => volume(out, &cloud, verb),
        Verb::Instance(verb) => instance(out, &cloud, verb),
        Verb::Token(ask) => token(out, &cloud, ask),
        Verb::Demo(_) | Verb::Up(_) | Verb::Down | Verb::Console | Verb::Completions { .. } => Ok(()),
    }
}

fn status(out: Out, cloud: &Cloud) -> Result<(), Failure> {
    let status = cloud.status()?;
    let mut text = format!("host       {}\n", status.host);
    let service = match &status.out_of_service {
        None => "in service".to_owned(),
        Some(why) => format!("OUT OF SERVICE: {}: {}", why.code.as_str(), why.message.as_str()),
    };
    let _ = writeln!(text, "service    {service}");
    if let Some(chip) = &status.chip {
        let reset = if chip.reset_held { "held" } else { "released" };
        let _ = writeln!(text, "reset      {reset}; refused firmware writes: {}", chip.refused_writes);
        let _ = writeln!(text, "firmware   sha256 {}", chip.firmware.as_str());
    }
    if let Some(board) = &status.board {
        let _ = writeln!(
            text,
            "board      {:?}, guest runs by {:?}, starts: {}",
            board.power, board.accelerator, board.boots
        );
    }
    for entry in &status.measurements {
        let _ = writeln!(
            text,
            "measured   PCR {:<2} {}  {}",
            entry.pcr,
            entry.sha256.as_str(),
            entry.what.as_str()
        );
    }
    for volume in &status.volumes {
        let _ = writeln!(
            text,
            "volume     {} slot {} {} {:?}: {} reads, {} writes, {} errors",
            volume.volume,
            volume.slot,
            volume.device_name.as_str(),
            volume.state,
            volume.reads,
            volume.writes,
            volume.errors
        );
    }
    if let Some(instance) = &status.instance {
        let _ =
            writeln!(text, "instance   {} from {}: {:?}", instance.instance, instance.root, instance.state);
    }
    let _ = write!(
        text,
        "log        {} records, {} of {} KiB",
        status.log.last,
        status.log.bytes >> 10,
        status.log.capacity >> 10
    );
    out.result(&text, &status);
    Ok(())
}

/// The host's log as a table.
pub(crate) fn log_table(records: &[LogRecord]) -> String {
    let line = |record: &LogRecord| {
        let text = |value: Option<String>| value.unwrap_or_default();
        let what = text(record.api.map(|api| api.to_string()));
        let who = text(record.subject.as_ref().map(|s| s.to_string().replacen("azote:", "", 1)));
        let on: Vec<String> = record.resources.iter().map(ToString::to_string).collect();
        let code = text(record.code.as_ref().map(|code| code.as_str().to_owned()));
        let detail = text(record.detail.as_ref().map(|detail| detail.as_str().to_owned()));
        let of = text(record.intent.map(|intent| format!("of {intent}")));
        let kind = format!("{:?}", record.kind).to_lowercase();
        let time = record.time.as_str().get(11..23).unwrap_or_default();
        let rest = [of, code, on.join(" "), detail]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("  ");
        format!("{:>5}  {time}  {kind:<8} {what:<14} {who:<22} {rest}", record.seq).trim_end().to_owned()
    };
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn volume(out: Out, cloud: &Cloud, verb: &args::Volume) -> Result<(), Failure> {
    match verb {
        args::Volume::Create(create) => {
            let key = match &create.key {
                Some(key) => key.clone(),
                None => cloud.create_key()?,
            };
            let volume = match &create.image {
                Some(image) => {
                    let progress = out.progress("writing the image through a volume card");
                    cloud.import(&key, image, &mut |done, all| {
                        progress.at(&format!("{} of {} MiB", done >> 20, all >> 20));
                    })?
                }
                None => cloud.create_volume(&key, create.size.unwrap_or_default().saturating_mul(1 << 20))?,
            };
            out.result(volume.id.as_str(), &volume);
        }
        args::Volume::List => {
            let volumes = cloud.store.list()?;
            let line = |v: &volumes::Volume| format!("{}  {:>8} MiB  {}", v.id, v.size >> 20, v.key);
            out.result(&volumes.iter().map(line).collect::<Vec<_>>().join("\n"), &volumes);
        }
        args::Volume::Attach { volume, device, slot } => {
            let volume = cloud.store.get(volume)?;
            let slot = match slot {
                Some(slot) => Slot::try_from(*slot).map_err(Failure::state)?,
                None => free_slot(cloud)?,
            };
            let attached = cloud.attach(&volume, device, slot)?;
            out.result(&format!("{} in slot {slot}", volume.id), &attached);
        }
        args::Volume::Detach { volume, force } => {
            cloud.detach(volume, *force)?;
            out.result(&format!("{volume} detached, its key wiped"), &json!({"detached": volume}));
        }
    }
    Ok(())
}

fn free_slot(cloud: &Cloud) -> Result<Slot, Failure> {
    let taken: Vec<Slot> = cloud.status()?.volumes.iter().map(|volume| volume.slot).collect();
    (1..=ids::SLOTS)
        .filter_map(|number| Slot::try_from(number).ok())
        .find(|slot| !taken.contains(slot))
        .ok_or_else(|| Failure::state("every slot is taken: detach a volume first"))
}

fn instance(out: Out, cloud: &Cloud, verb: &Instance) -> Result<(), Failure> {
    match verb {
        Instance::Start { root } => {
            let started = cloud.start(root)?;
            out.result(started.instance.as_str(), &started);
        }
        Instance::Stop { instance, force } => {
            let progress = out.progress("stopping");
            cloud.stop(instance, *force)?;
            drop(progress);
            out.result(&format!("{instance} stopped"), &json!({"stopped": instance}));
        }
    }
    Ok(())
}

fn token(out: Out, cloud: &Cloud, ask: &args::Token) -> Result<(), Failure> {
    let apis: Result<Vec<Api>, _> = ask.apis.iter().map(|api| api.parse::<Api>()).collect();
    let resources: Result<Vec<Resource>, _> =
        ask.resources.iter().map(|name| name.parse::<Resource>()).collect();
    let ask = Ask {
        apis: apis.map_err(Failure::state)?,
        resources: resources.map_err(Failure::state)?,
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
