//! What an instance's processors do, in numbers.

use crate::{
    cloud::{Cloud, Who},
    failure::Failure,
    out::Out,
};
use host_api::{CpuStatistics, ReadStatistics, Statistics};
use ids::InstanceId;

/// Prints them.
pub(super) fn show(out: Out, cloud: &Cloud, instance: &InstanceId) -> Result<(), Failure> {
    let statistics = cloud.call(Who::ControlPlane, &ReadStatistics { instance: instance.clone() })?;
    out.result(&text(&statistics), &statistics);
    Ok(())
}

fn text(statistics: &Statistics) -> String {
    let failed = statistics.failed.map(|why| format!(" ({why})")).unwrap_or_default();
    let slots: Vec<_> = statistics.slots.iter().map(|slot| format!("{} {}", slot.slot, slot.state)).collect();
    let slots = if slots.is_empty() { "none".to_owned() } else { slots.join(", ") };
    let mut lines = vec![
        format!("processors {}{failed}; slots: {slots}", statistics.state),
        format!(
            "{:>4} {:>10} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "vCPU",
            "ran s",
            "stolen s",
            "devices s",
            "port in",
            "port out",
            "mmio in",
            "mmio out",
            "halts",
            "pauses",
            "other"
        ),
    ];
    lines.extend(statistics.cpus.iter().enumerate().map(|(number, cpu)| line(number, cpu)));
    lines.join("\n")
}

fn line(number: usize, cpu: &CpuStatistics) -> String {
    let known = |nanoseconds: Option<u64>| nanoseconds.map_or_else(|| "?".to_owned(), seconds);
    format!(
        "{number:>4} {:>10} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        known(cpu.cpu_ns),
        known(cpu.steal_ns),
        seconds(cpu.wait_ns),
        cpu.port_in,
        cpu.port_out,
        cpu.mmio_read,
        cpu.mmio_write,
        cpu.halt,
        cpu.interrupted,
        cpu.other
    )
}

fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:03}", nanoseconds / 1_000_000_000, nanoseconds / 1_000_000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_a_line_under_its_headings() {
        let cpu = CpuStatistics {
            port_in: 1,
            port_out: 2,
            mmio_read: 3,
            mmio_write: 4,
            halt: 5,
            interrupted: 6,
            other: 7,
            wait_ns: 1_002_000_000,
            cpu_ns: Some(61_234_567_890),
            steal_ns: None,
        };
        let slot = host_api::SlotStatistics {
            slot: ids::Slot::try_from(1).unwrap(),
            state: host_api::SlotState::Present,
        };
        let statistics = Statistics {
            state: host_api::MachineState::Running,
            failed: None,
            cpus: vec![cpu.clone(), cpu],
            slots: vec![slot],
        };
        let text = text(&statistics);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (4, "processors running; slots: 1 present"));
        assert_eq!(lines[1].len(), lines[2].len());
        for part in ["61.234", "?", "1.002"] {
            assert!(lines[3].contains(part), "{part} in {:?}", lines[3]);
        }
    }
}
