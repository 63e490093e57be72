//! What a virtual processor promises: CPUID and model-specific registers, as data, masked by what this machine has.
//! A guest finds exactly what is listed here, whatever else the machine could do; a kernel that shows more than it
//! was told to (some do) is outside of this module's power.

mod cpuid;
mod msr;
mod promise;

pub use cpuid::{Topology, physical_bits};
pub(crate) use msr::filter;

use crate::{
    vcpu::Vcpu,
    vm::{Tried, VmError},
};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};
use wire::hypervisor::Instructions;

/// `IA32_MISC_ENABLE`: fast string operations.
const MISC_ENABLE: (u32, u64) = (0x1A0, 1);
/// `IA32_MTRR_DEF_TYPE`: enabled, write-back unless said otherwise.
const MTRR_DEFAULT: (u32, u64) = (0x2FF, 1 << 11 | 6);
/// Local interrupt pins: the first takes the interrupt chip's requests, the second is NMI.
const LVT: [(usize, u32); 2] = [(0x350, 7 << 8), (0x360, 4 << 8)];

/// The processors of one machine, before they are made.
pub struct Promise {
    cpuid: CpuId,
    topology: Topology,
    registers: Vec<u32>,
}

impl Promise {
    /// What this machine can give of what is promised, with these vector instructions at most.
    pub fn new(kvm: &Kvm, topology: Topology, instructions: Instructions) -> Result<Self, VmError> {
        let most = kvm.get_max_vcpus();
        if usize::from(topology.cpus) > most {
            return Err(VmError::Processors(most));
        }
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).tried("say what processors can do")?;
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        let registers =
            kvm.get_msr_index_list().tried("list the registers that it keeps")?.as_slice().to_vec();
        let mut cpuid = cpuid::masked(&supported, deadline);
        cpuid::limit(&mut cpuid, instructions);
        Ok(Self { cpuid, topology, registers })
    }

    /// The model-specific registers that are a processor's state.
    pub fn registers(&self) -> &[u32] {
        &self.registers
    }

    /// Bits of a physical address.
    pub fn physical_bits(&self) -> u8 {
        physical_bits(&self.cpuid)
    }

    /// Makes processor `id` what is promised.
    pub fn keep(&self, vcpu: &Vcpu, id: u8) -> Result<(), VmError> {
        let khz = vcpu.fd().get_tsc_khz().unwrap_or_default();
        let cpuid = cpuid::of_processor(&self.cpuid, self.topology, id, khz);
        vcpu.fd().set_cpuid2(&cpuid).tried("set CPUID")?;
        let entry = |(index, data)| kvm_msr_entry { index, data, ..Default::default() };
        let registers = Msrs::from_entries(&[entry(MISC_ENABLE), entry(MTRR_DEFAULT)])
            .map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))
            .tried("set registers")?;
        vcpu.fd().set_msrs(&registers).tried("set registers")?;
        let mut lapic = vcpu.fd().get_lapic().tried("read the local APIC")?;
        for (offset, value) in LVT {
            for (to, byte) in lapic.regs.iter_mut().skip(offset).zip(u32::to_le_bytes(value)) {
                *to = byte.cast_signed();
            }
        }
        vcpu.fd().set_lapic(&lapic).tried("set the local APIC")
    }
}
