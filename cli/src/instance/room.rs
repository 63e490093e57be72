//! Which instance types there are, and which of them a host can take now.

use crate::{failure::Failure, out::Out};
use host_api::HostStatus;
use instance_types::{Class, InstanceType};
use serde_json::{Value, json};

/// Whether a host can take another instance of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// As far as its status tells; of several nodes, each may have too little.
    Yes,
    /// If the others that take turns leave it enough.
    Maybe,
    /// With the reason.
    No(&'static str),
}

impl Room {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Yes => ("yes", ""),
            Self::Maybe => ("maybe", "on cores that others take turns on"),
            Self::No(why) => ("no", why),
        }
    }
}

/// What a host's status says of a type.
pub(super) fn room(kind: &InstanceType, status: &HostStatus) -> Room {
    let class_of = |name: &str| instance_types::find(name).map(|kind| &kind.class);
    let on_board = |name: &str| class_of(name) == Some(&Class::Metal);
    let running = || status.instances.iter().map(|instance| instance.instance_type.as_str());
    if !status.in_service {
        return Room::No("the host is out of service");
    }
    if status.drained {
        return Room::No("the host is drained");
    }
    if kind.class == Class::Metal {
        return if running().next().is_none() { Room::Yes } else { Room::No("instances run here") };
    }
    let Some(hypervisor) = &status.hypervisor else { return Room::No("the host runs no hypervisors") };
    let threads = u32::try_from(hypervisor.threads_per_core).unwrap_or(u32::MAX).max(1);
    let burstable = matches!(kind.class, Class::Burstable { .. });
    if running().any(on_board) {
        Room::No("an instance has the main board")
    } else if kind.memory_mib > hypervisor.free_memory_mib {
        Room::No("too little memory")
    } else if u64::from(kind.accelerators) > free_accelerators(kind, status) {
        Room::No("too few accelerators")
    } else if !burstable && !kind.vcpus.is_multiple_of(threads) {
        Room::No("not a whole number of cores here")
    } else if u64::from(kind.cores(threads)) <= hypervisor.free_cores {
        Room::Yes
    } else if burstable && running().any(|name| matches!(class_of(name), Some(Class::Burstable { .. }))) {
        Room::Maybe
    } else {
        Room::No("too few cores")
    }
}

/// Accelerators of the type's family that no instance of the host has.
fn free_accelerators(kind: &InstanceType, status: &HostStatus) -> u64 {
    let families = status.hypervisor.iter().flat_map(|hypervisor| &hypervisor.accelerators);
    families.filter(|of| of.family.as_str() == kind.family()).map(|of| of.free).sum()
}

/// Prints the table.
#[expect(clippy::unnecessary_wraps, reason = "as the other verbs")]
pub(super) fn types(out: Out, status: Option<&HostStatus>) -> Result<(), Failure> {
    if status.is_none() {
        out.remark("no host answers here: what it can take is not known; `azote up` starts one");
    }
    let heading = format!(
        "{:<13} {:<9} {:>5} {:>9}  {:>12}  {:>12}  here",
        "type", "class", "vCPUs", "memory", "credits/hour", "accelerators"
    );
    let rows = instance_types::all().map(|kind| line(kind, status));
    let text: Vec<String> = std::iter::once(heading).chain(rows).collect();
    let list: Vec<Value> = instance_types::all().map(|kind| value(kind, status)).collect();
    out.result(&text.join("\n"), &list);
    Ok(())
}

/// Thousandths of a credit that a type earns in an hour.
fn hourly(kind: &InstanceType) -> Option<u64> {
    match &kind.class {
        Class::Burstable { promise, .. } => Some(promise.hourly()),
        _ => None,
    }
}

fn line(kind: &InstanceType, status: Option<&HostStatus>) -> String {
    let (cpus, memory) = match kind.class {
        Class::Metal => ("all".to_owned(), "all".to_owned()),
        _ if kind.memory_mib.is_multiple_of(1024) => {
            (kind.vcpus.to_string(), format!("{} GiB", kind.memory_mib / 1024))
        }
        _ => (kind.vcpus.to_string(), format!("{} MiB", kind.memory_mib)),
    };
    let credits = hourly(kind).map(|n| format!("{}.{}", n / 1000, n % 1000 / 100)).unwrap_or_default();
    let (here, why) = status.map_or(("", ""), |status| room(kind, status).words());
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let accelerators = match (kind.accelerators, status) {
        (0, _) => String::new(),
        (has, None) => has.to_string(),
        (has, Some(status)) => format!("{has} ({} free)", free_accelerators(kind, status)),
    };
    let (name, class) = (kind.name, kind.class.name());
    let line = format!(
        "{name:<13} {class:<9} {cpus:>5} {memory:>9}  {credits:>12}  {accelerators:>12}  {here}{why}"
    );
    line.trim_end().to_owned()
}

fn value(kind: &InstanceType, status: Option<&HostStatus>) -> Value {
    let default = match &kind.class {
        Class::Burstable { default, .. } => Some(default),
        _ => None,
    };
    let words = status.map(|status| room(kind, status).words());
    json!({
        "type": kind.name,
        "class": kind.class.name(),
        "vcpus": (kind.vcpus > 0).then_some(kind.vcpus),
        "memory_mib": (kind.memory_mib > 0).then_some(kind.memory_mib),
        "thousandths_of_credits_per_hour": hourly(kind),
        "default_credits": default,
        "accelerators": kind.accelerators,
        "free_accelerators": status.filter(|_| kind.accelerators > 0).map(|status| free_accelerators(kind, status)),
        "here": words.map(|(here, _)| here),
        "why": words.map(|(_, why)| why).filter(|why| !why.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with instances of these types, and so much free.
    fn host(types: &[&str], free: Option<(u64, u64)>) -> HostStatus {
        let sha = "0".repeat(64);
        let instances: Vec<Value> = types
            .iter()
            .map(|kind| {
                json!({"instance": "i-0123456789abcdef0", "root": "vol-0123456789abcdef0", "instance_type": kind,
                    "state": "running", "weaknesses": []})
            })
            .collect();
        let hypervisor = free.map(|(cores, memory)| {
            json!({"image": sha, "virtualisation": "vmx", "threads_per_core": 2, "free_cores": cores,
                "free_memory_mib": memory, "weaknesses": [],
                "accelerators": [{"family": "g4dn", "all": 4, "free": 1}]})
        });
        serde_json::from_value(json!({
            "host": "h-0123456789abcdef0", "in_service": true, "drained": false, "token_keys": 0, "measurements": [],
            "registers": [],
            "certificate": "-", "volumes": [], "instances": instances, "hypervisor": hypervisor,
            "log": {"last": 0, "bytes": 0, "capacity": 1},
        }))
        .unwrap()
    }

    fn of(name: &str, status: &HostStatus) -> Room {
        room(instance_types::find(name).unwrap(), status)
    }

    #[test]
    fn a_type_has_room_where_cores_and_memory_are_free() {
        let here = host(&[], Some((2, 4096)));
        assert_eq!(of("metal", &here), Room::Yes);
        assert_eq!(of("t3.medium", &here), Room::Yes);
        assert_eq!(of("c7i.large", &here), Room::Yes);
        assert_eq!(of("t2.nano", &here), Room::Yes);
        assert_eq!(of("m3.medium", &here), Room::No("not a whole number of cores here"));
        assert_eq!(of("t3.large", &here), Room::No("too little memory"));
        let large = host(&[], Some((64, 1 << 20)));
        assert_eq!(of("g4dn.2xlarge", &large), Room::Yes);
        for kind in ["g4dn.12xlarge", "g5.xlarge"] {
            assert_eq!(of(kind, &large), Room::No("too few accelerators"));
        }
        let full = host(&["c7i.large"], Some((0, 65_536)));
        assert_eq!(of("c7i.large", &full), Room::No("too few cores"));
        assert_eq!(of("t3.nano", &full), Room::No("too few cores"));
        assert_eq!(of("metal", &full), Room::No("instances run here"));
        assert_eq!(of("t3.nano", &host(&["t3.nano"], Some((0, 65_536)))), Room::Maybe);
        assert_eq!(
            of("t3.nano", &host(&["metal"], Some((2, 4096)))),
            Room::No("an instance has the main board")
        );
        assert_eq!(of("t3.nano", &host(&[], None)), Room::No("the host runs no hypervisors"));
        assert_eq!(of("metal", &host(&[], None)), Room::Yes);
        let drained = HostStatus { drained: true, ..host(&[], None) };
        assert_eq!(of("metal", &drained), Room::No("the host is drained"));
    }

    #[test]
    fn the_table_has_every_type_with_and_without_a_host() {
        let here = host(&[], Some((2, 4096)));
        for kind in instance_types::all() {
            assert!(line(kind, None).starts_with(kind.name));
            assert!(line(kind, Some(&here)).len() < 120);
            assert_eq!(value(kind, None)["here"], Value::Null);
        }
        let small = instance_types::find("t2.2xlarge").unwrap();
        assert!(
            line(small, None).contains("32 GiB") && line(small, None).contains("81.6"),
            "{}",
            line(small, None)
        );
        let with = instance_types::find("g4dn.xlarge").unwrap();
        assert!(line(with, Some(&here)).contains("1 (1 free)"), "{}", line(with, Some(&here)));
        assert_eq!(value(with, Some(&here))["free_accelerators"], json!(1));
        let value = value(instance_types::find("t3.nano").unwrap(), Some(&here));
        assert_eq!(
            (&value["here"], &value["default_credits"], &value["vcpus"]),
            (&json!("yes"), &json!("unlimited"), &json!(2))
        );
    }
}
