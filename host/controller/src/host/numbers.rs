//! A machine's numbers, as callers read them.

use host_api::{CpuStatistics, MachineState, SlotState, SlotStatistics, Statistics};
use ids::Slot;
use wire::hypervisor as machine;

/// What a hypervisor tells of its machine.
pub(super) fn statistics(told: &machine::Statistics) -> Statistics {
    let state = match told.state {
        machine::State::Paused => MachineState::Paused,
        machine::State::Running => MachineState::Running,
        machine::State::Off => MachineState::Off,
        machine::State::Reset => MachineState::Reset,
        machine::State::Failed => MachineState::Failed,
    };
    let slots = told.slots.iter().filter_map(slot).collect();
    Statistics { state, failed: told.failed, cpus: told.cpus.iter().map(cpu).collect(), slots }
}

fn slot(told: &machine::SlotStatistics) -> Option<SlotStatistics> {
    let state = match told.state {
        machine::SlotState::Present => SlotState::Present,
        machine::SlotState::Leaving => SlotState::Leaving,
        machine::SlotState::Lost => SlotState::Lost,
    };
    Some(SlotStatistics { slot: Slot::try_from(told.slot).ok()?, state })
}

fn cpu(told: &machine::CpuStatistics) -> CpuStatistics {
    CpuStatistics {
        port_in: told.port_in,
        port_out: told.port_out,
        mmio_read: told.mmio_read,
        mmio_write: told.mmio_write,
        halt: told.halt,
        interrupted: told.interrupted,
        other: told.other,
        wait_ns: told.wait_ns,
        cpu_ns: told.cpu_ns,
        steal_ns: told.steal_ns,
    }
}
