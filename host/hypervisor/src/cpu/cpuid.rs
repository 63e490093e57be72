//! CPUID of each processor.

use super::promise::{BEYOND_AVX2, BEYOND_AVX512, Beyond, CPUID, Leaf};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use wire::hypervisor::Instructions;

/// The leaf in which a hypervisor says the frequencies of TSC and APIC.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// Leaf 1, ECX: x2APIC, TSC deadline, hypervisor.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: more than one processor.
const HTT: u32 = 1 << 28;
/// The leaf of the extended state, and the bytes of the area that every processor has: x87, SSE and the header (Intel
/// SDM volume 1, section 13.4).
const XSAVE: u32 = 0xD;
const LEAST_STATE: u32 = 576;
/// KVM's APIC timer counts nanoseconds.
const APIC_KHZ: u32 = 1_000_000;

/// Processors as the guest sees them: one package, cores of one or two threads, numbered in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Topology {
    /// Threads in all, at least 1.
    pub cpus: u8,
    /// 1 or 2; a divisor of `cpus`.
    pub threads_per_core: u8,
}

impl Topology {
    /// Whether it is one that can be told to a guest.
    pub fn is_sound(self) -> bool {
        self.cpus > 0
            && matches!(self.threads_per_core, 1 | 2)
            && self.cpus.is_multiple_of(self.threads_per_core)
    }
}

/// Bits of a physical address, of leaf 0x8000_0008.
pub fn physical_bits(cpuid: &CpuId) -> u8 {
    let entry = cpuid.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    entry.map_or(36, |entry| u8::try_from(entry.eax & 0xFF).unwrap_or(36))
}

/// What all processors have in common: what is supported, of what is promised.
pub(super) fn masked(supported: &CpuId, deadline: bool) -> CpuId {
    let mut cpuid = supported.clone();
    cpuid.retain(|entry| rule(entry).is_some());
    for entry in cpuid.as_mut_slice() {
        let Some([eax, ebx, ecx, edx]) = rule(entry).map(|rule| rule.allowed) else { continue };
        entry.eax &= eax;
        entry.ebx &= ebx;
        entry.ecx &= ecx;
        entry.edx &= edx;
        match entry.function {
            // The topology leaf is added below.
            0 => entry.eax = entry.eax.clamp(0xB, 0x1F),
            1 => entry.ecx |= X2APIC | HYPERVISOR | if deadline { TSC_DEADLINE } else { 0 },
            0x4000_0000 => entry.eax = HYPERVISOR_TIMING,
            _ => {}
        }
    }
    cpuid
}

/// No more than the instance's type promises.
pub(super) fn limit(cpuid: &mut CpuId, most: Instructions) {
    let beyond: &[Beyond] = match most {
        Instructions::All => &[],
        Instructions::Avx512 => &[BEYOND_AVX512],
        Instructions::Avx2 => &[BEYOND_AVX512, BEYOND_AVX2],
    };
    for Beyond { bits, leaves, state } in beyond {
        let component =
            |entry: &kvm_cpuid_entry2| entry.index >= 2 && entry.index < 32 && state >> entry.index & 1 == 1;
        cpuid.retain(|entry| {
            !(leaves.contains(&entry.function) || entry.function == XSAVE && component(entry))
        });
        for entry in cpuid.as_mut_slice() {
            for (_, _, [eax, ebx, ecx, edx]) in
                bits.iter().filter(|(leaf, index, _)| (*leaf, *index) == (entry.function, entry.index))
            {
                entry.eax &= !eax;
                entry.ebx &= !ebx;
                entry.ecx &= !ecx;
                entry.edx &= !edx;
            }
            if (entry.function, entry.index) == (XSAVE, 0) {
                entry.eax &= !state;
            }
        }
    }
    if !beyond.is_empty() {
        fit(cpuid);
    }
}

/// The largest area of extended state that is left: each component says where it ends.
fn fit(cpuid: &mut CpuId) {
    let entries = || cpuid.as_slice().iter().filter(|entry| entry.function == XSAVE);
    let Some(user) = entries().find(|entry| entry.index == 0).map(|entry| entry.eax) else { return };
    let there = entries().filter(|entry| (2..32).contains(&entry.index) && user >> entry.index & 1 == 1);
    let end = there.map(|entry| entry.ebx.saturating_add(entry.eax)).fold(LEAST_STATE, u32::max);
    for entry in cpuid.as_mut_slice().iter_mut().filter(|e| (e.function, e.index) == (XSAVE, 0)) {
        entry.ecx = end;
    }
}

fn rule(entry: &kvm_cpuid_entry2) -> Option<&'static Leaf> {
    CPUID.iter().find(|rule| rule.leaf == entry.function && rule.index.contains(&entry.index))
}

/// Processor `id`'s own.
pub(super) fn of_processor(common: &CpuId, topology: Topology, id: u8, tsc_khz: u32) -> CpuId {
    let (cpus, threads) = (u32::from(topology.cpus), u32::from(topology.threads_per_core.max(1)));
    let id = u32::from(id);
    let mut cpuid = common.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xFFFF | cpus.next_power_of_two().min(255) << 16 | id << 24;
                entry.edx = entry.edx & !HTT | if cpus > 1 { HTT } else { 0 };
            }
            4 | 0x8000_001D => share_cache(entry, cpus, threads),
            0x8000_0008 => entry.ecx = cpus.next_power_of_two().ilog2() << 12 | (cpus - 1),
            0x8000_001E => {
                entry.eax = id;
                entry.ebx = (id / threads) | ((threads - 1) << 8);
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    for leaf in [0xB, 0x1F] {
        for index in 0..3 {
            // A full list would need more than 256 entries: KVM gives fewer than a hundred.
            let _ = cpuid.push(level(leaf, index, cpus, threads, id));
        }
    }
    let timing =
        kvm_cpuid_entry2 { function: HYPERVISOR_TIMING, eax: tsc_khz, ebx: APIC_KHZ, ..Default::default() };
    let _ = cpuid.push(timing);
    cpuid
}

/// One level of the topology: threads, cores, end.
fn level(function: u32, index: u32, cpus: u32, threads: u32, id: u32) -> kvm_cpuid_entry2 {
    let (eax, ebx) = match index {
        0 => (threads.next_power_of_two().ilog2(), threads),
        1 => (cpus.next_power_of_two().ilog2(), cpus),
        _ => (0, 0),
    };
    let kind = if index < 2 { (index + 1) << 8 } else { 0 };
    let flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx: kind | index, edx: id, ..Default::default() }
}

/// The first two levels belong to a core, the third to all; of Intel's also the number of cores.
fn share_cache(entry: &mut kvm_cpuid_entry2, cpus: u32, threads: u32) {
    if entry.eax & 0x1F == 0 {
        return;
    }
    let sharing = if entry.eax >> 5 & 7 < 3 { threads } else { cpus.next_power_of_two() };
    entry.eax = entry.eax & 0x3FFF | (sharing - 1) << 14;
    if entry.function == 4 {
        entry.eax |= ((cpus / threads).next_power_of_two() - 1).min(63) << 26;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == (function, index)).copied()
    }

    /// A machine that can do everything.
    fn everything() -> CpuId {
        let leaves =
            [(0, 0), (1, 0), (4, 0), (4, 3), (7, 0), (0xA, 0), (0x12, 0), (0x14, 0), (0x4000_0001, 0)];
        let entries = leaves.map(|(leaf, index)| entry(leaf, index, [u32::MAX; 4]));
        CpuId::from_entries(&entries).unwrap()
    }

    #[test]
    fn what_is_not_promised_is_not_there() {
        let cpuid = masked(&everything(), true);
        for leaf in [0xA, 0x12, 0x14] {
            assert!(find(&cpuid, leaf, 0).is_none(), "leaf {leaf:#x}");
        }
        let one = find(&cpuid, 1, 0).unwrap();
        assert_eq!(one.ecx & (1 << 5 | 1 << 3 | 1 << 15), 0, "no VMX, MONITOR, PDCM");
        assert_eq!(one.ecx & (X2APIC | TSC_DEADLINE | HYPERVISOR), X2APIC | TSC_DEADLINE | HYPERVISOR);
        let seven = find(&cpuid, 7, 0).unwrap();
        assert_eq!(seven.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 25), 0, "no SGX, HLE, RTM, PT");
        assert_eq!(find(&cpuid, 0, 0).unwrap().eax, 0x1F);
    }

    #[test]
    fn a_type_that_promises_less_has_less() {
        let machine = || {
            let state = [(0, [0x6_00E7, 0, 11_008, 0]), (2, [256, 576, 0, 0]), (5, [64, 1088, 0, 0])];
            let tiles = [
                (6, [512, 1152, 0, 0]),
                (7, [1024, 1664, 0, 0]),
                (17, [64, 2752, 0, 0]),
                (18, [8192, 2816, 0, 0]),
            ];
            let state =
                state.into_iter().chain(tiles).map(|(index, registers)| entry(XSAVE, index, registers));
            let others = [
                entry(7, 0, [u32::MAX; 4]),
                entry(7, 1, [u32::MAX; 4]),
                entry(0x1D, 0, [1; 4]),
                entry(0x1E, 0, [1; 4]),
            ];
            masked(&CpuId::from_entries(&state.chain(others).collect::<Vec<_>>()).unwrap(), true)
        };
        let of = |most| {
            let mut cpuid = machine();
            limit(&mut cpuid, most);
            cpuid
        };
        for (most, avx512, tiles, user, size) in [
            (Instructions::All, true, true, 0x6_00E7, 11_008),
            (Instructions::Avx512, true, false, 0xE7, 2688),
            (Instructions::Avx2, false, false, 7, 832),
        ] {
            let cpuid = of(most);
            let (seven, state) = (find(&cpuid, 7, 0).unwrap(), find(&cpuid, XSAVE, 0).unwrap());
            assert_eq!(seven.ebx & 1 << 16 != 0, avx512, "{most:?}: AVX512F");
            assert_eq!(seven.edx & 1 << 24 != 0, tiles, "{most:?}: AMX-TILE");
            assert_ne!(seven.ebx & 1 << 5, 0, "{most:?}: AVX2");
            assert_eq!((state.eax, state.ecx), (user, size), "{most:?}");
            assert_eq!(find(&cpuid, 0x1D, 0).is_some(), tiles, "{most:?}");
            assert_eq!(find(&cpuid, XSAVE, 6).is_some(), avx512, "{most:?}");
            assert_eq!(find(&cpuid, XSAVE, 18).is_some(), tiles, "{most:?}");
        }
        assert_eq!(of(Instructions::All), machine());
    }

    #[test]
    fn what_is_not_supported_is_not_made_up() {
        let none = CpuId::from_entries(&[entry(1, 0, [0; 4]), entry(7, 0, [0; 4])]).unwrap();
        let cpuid = masked(&none, false);
        assert_eq!(find(&cpuid, 7, 0).unwrap().ebx, 0);
        assert_eq!(find(&cpuid, 1, 0).unwrap().ecx, X2APIC | HYPERVISOR);
    }

    #[test]
    fn each_thread_finds_itself() {
        let topology = Topology { cpus: 6, threads_per_core: 2 };
        let cpuid = of_processor(&masked(&everything(), true), topology, 5, 2_500_000);
        assert_eq!(find(&cpuid, 1, 0).unwrap().ebx >> 16, 5 << 8 | 8);
        let (threads, cores) = (find(&cpuid, 0xB, 0).unwrap(), find(&cpuid, 0xB, 1).unwrap());
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (1, 2, 0x100, 5));
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 5));
        assert_eq!(find(&cpuid, 0xB, 2).unwrap().ecx, 2);
        assert_eq!(find(&cpuid, HYPERVISOR_TIMING, 0).unwrap().eax, 2_500_000);
        let cache = find(&cpuid, 4, 3).unwrap();
        assert_eq!((cache.eax >> 14 & 0xFFF, cache.eax >> 26), (7, 3), "shared by 8 ids, 4 core ids");
        assert!(!Topology { cpus: 5, threads_per_core: 2 }.is_sound());
    }
}
