//! The data: which CPUID bits and which model-specific registers a guest may have.

use std::ops::RangeInclusive;

/// All bits of a register.
const ALL: u32 = u32::MAX;

/// The allowed bits of one CPUID leaf; of leaves that are not listed a guest has nothing.
pub(super) struct Leaf {
    /// The leaf.
    pub(super) leaf: u32,
    /// Sub-leaves that it holds for.
    pub(super) index: RangeInclusive<u32>,
    /// EAX, EBX, ECX, EDX.
    pub(super) allowed: [u32; 4],
}

const fn leaf(leaf: u32, allowed: [u32; 4]) -> Leaf {
    Leaf { leaf, index: 0..=0, allowed }
}

const fn leaves(leaf: u32, index: RangeInclusive<u32>) -> Leaf {
    Leaf { leaf, index, allowed: [ALL; 4] }
}

const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let (mut mask, mut at) = (0, 0);
    while at < N {
        mask |= 1 << list[at];
        at += 1;
    }
    mask
}

const fn but<const N: usize>(list: [u32; N]) -> u32 {
    !bits(list)
}

/// Not promised: nested virtualisation, monitor/mwait, performance counters, tracing, SGX, memory protection
/// extensions, transactional memory, resource control, power and thermal management.
pub(super) const CPUID: &[Leaf] = &[
    leaf(0x0, [ALL; 4]),
    // ECX: no DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, SDBG, xTPR, PDCM, DCA. EDX: no DS, ACPI, TM, PBE.
    leaf(0x1, [ALL, ALL, but([2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 18]), but([21, 22, 29, 31])]),
    leaf(0x2, [ALL; 4]),
    leaves(0x4, 0..=7),
    // The local APIC timer never stops.
    leaf(0x6, [bits([2]), 0, 0, 0]),
    leaf(
        0x7,
        [
            ALL,
            // No SGX, HLE, RTM, PQM, MPX, PQE, PT.
            but([2, 4, 11, 12, 14, 15, 25]),
            // AVX-512 VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, LA57, RDPID, MOVDIRI,
            // MOVDIR64B.
            bits([1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 16, 22, 27, 28]),
            // 4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AMX, AVX512-FP16, and the controls of
            // speculation: SPEC_CTRL, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
            bits([2, 3, 4, 8, 10, 14, 22, 23, 24, 25, 26, 27, 28, 29, 31]),
        ],
    ),
    // AVX-VNNI, AVX512-BF16, fast short string operations, AMX-FP16, AVX-IFMA.
    Leaf { leaf: 0x7, index: 1..=1, allowed: [bits([4, 5, 10, 11, 12, 21, 23]), 0, 0, 0] },
    // INTEL_PSFD, IPRED_CTRL, RRSBA_CTRL, BHI_CTRL.
    Leaf { leaf: 0x7, index: 2..=2, allowed: [0, 0, 0, bits([0, 1, 2, 4])] },
    leaves(0xD, 0..=63),
    leaf(0x15, [ALL; 4]),
    leaves(0x1D, 0..=1),
    leaf(0x1E, [ALL; 4]),
    leaf(0x4000_0000, [ALL; 4]),
    // kvm-clock (both), I/O delay, steal time, PV EOI and unhalt, TLB flush, IPI, yield, extended MSI ids, stable clock.
    leaf(0x4000_0001, [bits([0, 1, 3, 5, 6, 7, 9, 11, 13, 15, 24]), 0, 0, 0]),
    leaf(0x8000_0000, [ALL; 4]),
    // No SVM, SKINIT, WDT, LWP, performance counters, MWAITX.
    leaf(0x8000_0001, [ALL, ALL, but([2, 10, 12, 13, 15, 23, 24, 28, 29]), ALL]),
    leaf(0x8000_0002, [ALL; 4]),
    leaf(0x8000_0003, [ALL; 4]),
    leaf(0x8000_0004, [ALL; 4]),
    leaf(0x8000_0005, [ALL; 4]),
    leaf(0x8000_0006, [ALL; 4]),
    // The time-stamp counter is invariant.
    leaf(0x8000_0007, [0, 0, 0, bits([8])]),
    leaf(0x8000_0008, [ALL, ALL, 0, 0]),
    leaves(0x8000_001D, 0..=7),
    leaf(0x8000_001E, [ALL; 4]),
    leaf(0x8000_0021, [ALL, 0, 0, 0]),
];

/// What is left out for types that promise less: CPUID bits, whole leaves, and components of the extended state (XCR0).
pub(super) struct Beyond {
    /// Bits of EAX, EBX, ECX, EDX.
    pub(super) bits: &'static [(u32, u32, [u32; 4])],
    /// Leaves.
    pub(super) leaves: &'static [u32],
    /// Components.
    pub(super) state: u32,
}

/// Beyond AVX-512: AMX with its BF16, INT8 and FP16.
pub(super) const BEYOND_AVX512: Beyond = Beyond {
    bits: &[(0x7, 0, [0, 0, 0, bits([22, 24, 25])]), (0x7, 1, [bits([21]), 0, 0, 0])],
    leaves: &[0x1D, 0x1E],
    state: bits([17, 18]),
};

/// Beyond AVX2: all of AVX-512, and what came with it in shorter vectors: GFNI, VAES, VPCLMULQDQ, AVX-VNNI, AVX-IFMA.
pub(super) const BEYOND_AVX2: Beyond = Beyond {
    bits: &[
        (
            0x7,
            0,
            [
                0,
                bits([16, 17, 21, 26, 27, 28, 30, 31]),
                bits([1, 6, 8, 9, 10, 11, 12, 14]),
                bits([2, 3, 8, 23]),
            ],
        ),
        (0x7, 1, [bits([4, 5, 23]), 0, 0, 0]),
    ],
    leaves: &[],
    state: bits([5, 6, 7]),
};

/// Model-specific registers that a guest may read and write, where KVM knows them. The x2APIC's are always there.
pub(super) const REGISTERS: &[RangeInclusive<u32>] = &[
    0x0..=0x1,                 // machine check address and type of old
    0x10..=0x10,               // time-stamp counter
    0x17..=0x17,               // platform id
    0x1B..=0x1B,               // APIC base
    0x2A..=0x2A,               // power-on configuration
    0x3A..=0x3B,               // feature control, TSC adjust
    0x48..=0x49,               // speculation control and command
    0x79..=0x79,               // microcode update: ignored
    0x8B..=0x8B,               // microcode revision
    0xCE..=0xCF,               // platform information, core capabilities
    0xFE..=0xFE,               // MTRR capabilities
    0x10A..=0x10B,             // architectural capabilities, flush command
    0x122..=0x122,             // TSX control
    0x140..=0x140,             // CPUID faulting
    0x174..=0x176,             // SYSENTER
    0x179..=0x17B,             // machine check
    0x198..=0x198,             // performance status
    0x1A0..=0x1A0,             // miscellaneous
    0x1C4..=0x1C5,             // extended feature disable
    0x1D9..=0x1DE,             // debug control, last branch
    0x200..=0x20F,             // MTRRs, variable
    0x250..=0x250,             // MTRRs, fixed
    0x258..=0x259,             //
    0x268..=0x26F,             //
    0x277..=0x277,             // page attributes
    0x2FF..=0x2FF,             // MTRR default
    0x400..=0x47F,             // machine check banks
    0x6E0..=0x6E0,             // TSC deadline
    0xDA0..=0xDA0,             // extended supervisor state
    0x4B56_4D00..=0x4B56_4D08, // KVM: clock, steal time, PV EOI, asynchronous faults
    0xC000_0080..=0xC000_0084, // EFER, SYSCALL
    0xC000_0100..=0xC000_0103, // FS, GS, kernel GS, TSC_AUX
    0xC001_0010..=0xC001_0010, // AMD: system configuration
    0xC001_0015..=0xC001_0015, // AMD: hardware configuration
    0xC001_001F..=0xC001_001F, // AMD: north bridge
    0xC001_0055..=0xC001_0055, // AMD: interrupt pending
    0xC001_0058..=0xC001_0058, // AMD: memory-mapped configuration
    0xC001_0114..=0xC001_0114, // AMD: VM_CR
    0xC001_011F..=0xC001_011F, // AMD: virtual speculation control
    0xC001_0140..=0xC001_0141, // AMD: OS-visible workarounds
    0xC001_1029..=0xC001_1029, // AMD: DE_CFG
];
