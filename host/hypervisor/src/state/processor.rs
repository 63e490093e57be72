//! The state of one processor. The order in which it is set matters: events last, the timer's deadline after the
//! local APIC and the time-stamp counter.

use crate::{
    vcpu::Vcpu,
    vm::{Tried, VmError, set_xsave},
};
use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

/// `IA32_TSC_DEADLINE`.
const DEADLINE: u32 = 0x6E0;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessorState {
    state: kvm_mp_state,
    registers: kvm_regs,
    special: kvm_sregs,
    extended: kvm_xsave,
    control: kvm_xcrs,
    debug: kvm_debugregs,
    apic: kvm_lapic_state,
    model: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
}

impl ProcessorState {
    /// Of a processor that stands at the gate; `registers` are the model-specific ones that this kernel keeps.
    pub(super) fn take(vcpu: &Vcpu, registers: &[u32]) -> Result<Self, VmError> {
        let fd = vcpu.fd();
        Ok(Self {
            state: fd.get_mp_state().tried("read a processor's state")?,
            registers: fd.get_regs().tried("read registers")?,
            special: fd.get_sregs().tried("read special registers")?,
            extended: fd.get_xsave().tried("read extended registers")?,
            control: fd.get_xcrs().tried("read extended control registers")?,
            debug: fd.get_debug_regs().tried("read debug registers")?,
            apic: fd.get_lapic().tried("read the local APIC")?,
            model: model(vcpu, registers)?,
            events: fd.get_vcpu_events().tried("read pending events")?,
        })
    }

    /// Into a processor that has not run.
    pub(super) fn put(&self, vcpu: &Vcpu) -> Result<(), VmError> {
        let fd = vcpu.fd();
        fd.set_mp_state(self.state).tried("set a processor's state")?;
        fd.set_regs(&self.registers).tried("set registers")?;
        fd.set_sregs(&self.special).tried("set special registers")?;
        set_xsave(fd, &self.extended).tried("set extended registers")?;
        fd.set_xcrs(&self.control).tried("set extended control registers")?;
        fd.set_debug_regs(&self.debug).tried("set debug registers")?;
        fd.set_lapic(&self.apic).tried("set the local APIC")?;
        let (deadline, rest): (Vec<_>, Vec<_>) = self.model.iter().partition(|(index, _)| *index == DEADLINE);
        for (index, data) in rest.into_iter().chain(deadline) {
            // One by one: a register that this kernel keeps to itself must not keep the others from being set.
            if fd.set_msrs(&list(&[index], data)?).tried("set model-specific registers")? == 0 {
                tracing::debug!(index, "a model-specific register is not set");
            }
        }
        fd.set_vcpu_events(&self.events).tried("set pending events")
    }
}

/// Those of `registers` that this processor has.
fn model(vcpu: &Vcpu, registers: &[u32]) -> Result<Vec<(u32, u64)>, VmError> {
    let mut values = Vec::new();
    for index in registers {
        let mut entry = list(&[*index], 0)?;
        if vcpu.fd().get_msrs(&mut entry).is_ok_and(|read| read == 1) {
            values.extend(entry.as_slice().iter().map(|entry| (entry.index, entry.data)));
        }
    }
    Ok(values)
}

fn list(registers: &[u32], data: u64) -> Result<Msrs, VmError> {
    let entries: Vec<_> =
        registers.iter().map(|index| kvm_msr_entry { index: *index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM)).tried("list registers")
}
