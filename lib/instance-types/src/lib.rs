//! Which instance types there are: a table of names, virtual processors, memory, accelerators, and what a burstable
//! type promises. It is data; whether a host has room for a type is for `placement` to say. It stands on no boundary:
//! controller and clients read the same table.
//!
//! Names and numbers are EC2's, for types with x86 processors: sizes from the instance type guide
//! (`docs.aws.amazon.com/ec2/latest/instancetypes`), credits from the EC2 User Guide, "Key concepts for burstable
//! performance instances", as of 2025; numbers of accelerators from the same guide's accelerated computing instances
//! (`instancetypes/ac.html`). `metal` is ours: the whole main board, whatever it has. Which hardware a family's
//! accelerator is, the configuration of each host says: the table only counts them. Every row has been compared with
//! answers of `DescribeInstanceTypes`.
#![forbid(unsafe_code)]

use placement::{Burstable, Carried, Cpus, Mode, Request};

/// One type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    /// As a caller writes it: `t3.micro`.
    pub name: &'static str,
    /// What it gets of processors.
    pub class: Class,
    /// Virtual processors; 0 for `metal`.
    pub vcpus: u32,
    /// Memory in MiB; 0 for `metal`.
    pub memory_mib: u64,
    /// Accelerators of its [`InstanceType::family`], functions of the host's hardware that it has alone; at most
    /// [`MAX_ACCELERATORS`].
    pub accelerators: u8,
}

/// The vector instructions that a type promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// Up to AVX2.
    Avx2,
    /// Up to AVX-512, and no tiles (AMX).
    Avx512,
    /// Whatever the host has.
    All,
}

/// Most accelerators of one type.
pub const MAX_ACCELERATORS: u8 = 8;

/// What an instance of a type gets of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// The main board, alone.
    Metal,
    /// Whole cores for life.
    Fixed,
    /// Turns on whole cores, paid with CPU credits.
    Burstable {
        /// Baseline and credits.
        promise: Burstable,
        /// What happens when no credits are left, unless the caller says.
        default: Mode,
    },
}

impl Class {
    /// In a word: `metal`, `fixed`, `burstable`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Metal => "metal",
            Self::Fixed => "fixed",
            Self::Burstable { .. } => "burstable",
        }
    }
}

const METAL: InstanceType =
    InstanceType { name: "metal", class: Class::Metal, vcpus: 0, memory_mib: 0, accelerators: 0 };

const fn fixed(name: &'static str, vcpus: u32, memory_mib: u64) -> InstanceType {
    accelerated(name, vcpus, memory_mib, 0)
}

const fn accelerated(name: &'static str, vcpus: u32, memory_mib: u64, accelerators: u8) -> InstanceType {
    InstanceType { name, class: Class::Fixed, vcpus, memory_mib, accelerators }
}

const fn burstable(
    name: &'static str,
    vcpus: u32,
    memory_mib: u64,
    promise: Burstable,
    default: Mode,
) -> InstanceType {
    InstanceType { name, class: Class::Burstable { promise, default }, vcpus, memory_mib, accelerators: 0 }
}

/// `baseline` in ten-thousandths of each virtual processor.
const fn t2(name: &'static str, vcpus: u32, memory_mib: u64, baseline: u32) -> InstanceType {
    burstable(name, vcpus, memory_mib, Burstable::second(vcpus, baseline), Mode::Standard)
}

const fn t3(name: &'static str, vcpus: u32, memory_mib: u64, baseline: u32) -> InstanceType {
    burstable(name, vcpus, memory_mib, Burstable::third(vcpus, baseline), Mode::Unlimited)
}

/// The sizes of a family of the seventh generation, which has so much memory for each virtual processor.
macro_rules! seventh {
    ($($family:literal: $gib:literal GiB;)*) => {[$(
        fixed(concat!($family, ".large"), 2, 2 * 1024 * $gib),
        fixed(concat!($family, ".xlarge"), 4, 4 * 1024 * $gib),
        fixed(concat!($family, ".2xlarge"), 8, 8 * 1024 * $gib),
        fixed(concat!($family, ".4xlarge"), 16, 16 * 1024 * $gib),
        fixed(concat!($family, ".8xlarge"), 32, 32 * 1024 * $gib),
        fixed(concat!($family, ".12xlarge"), 48, 48 * 1024 * $gib),
        fixed(concat!($family, ".16xlarge"), 64, 64 * 1024 * $gib),
        fixed(concat!($family, ".24xlarge"), 96, 96 * 1024 * $gib),
        fixed(concat!($family, ".48xlarge"), 192, 192 * 1024 * $gib),
    )*]};
}

const BURSTABLE: &[InstanceType] = &[
    t2("t2.nano", 1, 512, 500),
    t2("t2.micro", 1, 1024, 1000),
    t2("t2.small", 1, 2048, 2000),
    t2("t2.medium", 2, 4096, 2000),
    t2("t2.large", 2, 8192, 3000),
    t2("t2.xlarge", 4, 16_384, 2250),
    t2("t2.2xlarge", 8, 32_768, 1700),
    t3("t3.nano", 2, 512, 500),
    t3("t3.micro", 2, 1024, 1000),
    t3("t3.small", 2, 2048, 2000),
    t3("t3.medium", 2, 4096, 2000),
    t3("t3.large", 2, 8192, 3000),
    t3("t3.xlarge", 4, 16_384, 4000),
    t3("t3.2xlarge", 8, 32_768, 4000),
];

const FIXED: &[InstanceType] = &seventh! { "m7i": 4 GiB; "c7i": 2 GiB; "r7i": 8 GiB; };

const ACCELERATED: &[InstanceType] = &[
    accelerated("g4dn.xlarge", 4, 16 * 1024, 1),
    accelerated("g4dn.2xlarge", 8, 32 * 1024, 1),
    accelerated("g4dn.4xlarge", 16, 64 * 1024, 1),
    accelerated("g4dn.8xlarge", 32, 128 * 1024, 1),
    accelerated("g4dn.12xlarge", 48, 192 * 1024, 4),
    accelerated("g4dn.16xlarge", 64, 256 * 1024, 1),
    accelerated("g5.xlarge", 4, 16 * 1024, 1),
    accelerated("g5.2xlarge", 8, 32 * 1024, 1),
    accelerated("g5.4xlarge", 16, 64 * 1024, 1),
    accelerated("g5.8xlarge", 32, 128 * 1024, 1),
    accelerated("g5.12xlarge", 48, 192 * 1024, 4),
    accelerated("g5.16xlarge", 64, 256 * 1024, 1),
    accelerated("g5.24xlarge", 96, 384 * 1024, 4),
    accelerated("g5.48xlarge", 192, 768 * 1024, 8),
];

const ALL: &[&[InstanceType]] = &[&[METAL], BURSTABLE, &[fixed("m3.medium", 1, 3840)], FIXED, ACCELERATED];

/// All types.
pub fn all() -> impl Iterator<Item = &'static InstanceType> {
    ALL.iter().copied().flatten()
}

/// The type of that name.
pub fn find(name: &str) -> Option<&'static InstanceType> {
    all().find(|kind| kind.name == name)
}

/// The families whose types have accelerators, each once.
pub fn accelerated_families() -> impl Iterator<Item = &'static str> {
    let families: std::collections::BTreeSet<_> =
        all().filter(|kind| kind.accelerators > 0).map(InstanceType::family).collect();
    families.into_iter()
}

impl InstanceType {
    /// The part of its name before the dot: `g4dn`.
    pub fn family(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(family, _)| family)
    }

    /// What to ask `placement` for; nothing for `metal`. `mode` and `carried` count for burstable types only.
    pub fn request(&self, mode: Option<Mode>, carried: Option<Carried>) -> Option<Request> {
        let cpus = match &self.class {
            Class::Metal => return None,
            Class::Fixed => Cpus::Fixed { vcpus: self.vcpus },
            Class::Burstable { promise, default } => {
                Cpus::Burstable { kind: promise.clone(), mode: mode.unwrap_or(*default), carried }
            }
        };
        Some(Request { memory: self.memory_mib << 20, cpus })
    }

    /// What its guests find at most, by the processors that EC2 names for the family.
    pub fn instructions(&self) -> Instructions {
        match self.family() {
            "m3" | "t2" | "g5" => Instructions::Avx2,
            "t3" | "g4dn" => Instructions::Avx512,
            _ => Instructions::All,
        }
    }

    /// Whole cores that an instance has or shares, on a board whose cores have so many threads.
    pub const fn cores(&self, threads: u32) -> u32 {
        self.vcpus.div_ceil(if threads == 0 { 1 } else { threads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_the_api() {
        let names: BTreeSet<_> = all().map(|kind| kind.name).collect();
        assert_eq!(names.len(), all().count());
        for kind in all() {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.';
            assert!((1..=32).contains(&kind.name.len()) && kind.name.bytes().all(good), "{}", kind.name);
            assert_eq!(find(kind.name), Some(kind));
        }
        for none in ["", "t3", "T3.micro", "t3.micro ", "t4g.micro"] {
            assert_eq!(find(none), None, "{none:?}");
        }
    }

    /// Credits in an hour, in thousandths, and in 24 hours, as EC2's table has them: written a second time.
    #[test]
    fn burstable_types_earn_what_ec2_says() {
        for (name, hourly, daily) in [
            ("t2.nano", 3_000, 72_000),
            ("t2.micro", 6_000, 144_000),
            ("t2.small", 12_000, 288_000),
            ("t2.medium", 24_000, 576_000),
            ("t2.large", 36_000, 864_000),
            ("t2.xlarge", 54_000, 1_296_000),
            ("t2.2xlarge", 81_600, 1_958_400),
            ("t3.nano", 6_000, 144_000),
            ("t3.micro", 12_000, 288_000),
            ("t3.small", 24_000, 576_000),
            ("t3.medium", 24_000, 576_000),
            ("t3.large", 36_000, 864_000),
            ("t3.xlarge", 96_000, 2_304_000),
            ("t3.2xlarge", 192_000, 4_608_000),
        ] {
            let Some(InstanceType { class: Class::Burstable { promise, default }, vcpus, .. }) = find(name)
            else {
                panic!("{name}")
            };
            assert_eq!((promise.hourly(), promise.maximum()), (hourly, daily), "{name}");
            assert_eq!(promise.vcpus, *vcpus, "{name}");
            assert_eq!(*default == Mode::Unlimited, name.starts_with("t3"), "{name}");
            assert_eq!(promise.launch > 0, name.starts_with("t2"), "{name}");
        }
        assert_eq!(all().filter(|kind| matches!(kind.class, Class::Burstable { .. })).count(), 14);
    }

    /// EC2's table, written a second time.
    #[test]
    fn accelerated_types_have_what_ec2_says() {
        let table: Vec<_> = all()
            .filter(|kind| kind.accelerators > 0)
            .map(|kind| (kind.name, kind.vcpus, kind.memory_mib >> 10, kind.accelerators))
            .collect();
        assert_eq!(
            table,
            [
                ("g4dn.xlarge", 4, 16, 1),
                ("g4dn.2xlarge", 8, 32, 1),
                ("g4dn.4xlarge", 16, 64, 1),
                ("g4dn.8xlarge", 32, 128, 1),
                ("g4dn.12xlarge", 48, 192, 4),
                ("g4dn.16xlarge", 64, 256, 1),
                ("g5.xlarge", 4, 16, 1),
                ("g5.2xlarge", 8, 32, 1),
                ("g5.4xlarge", 16, 64, 1),
                ("g5.8xlarge", 32, 128, 1),
                ("g5.12xlarge", 48, 192, 4),
                ("g5.16xlarge", 64, 256, 1),
                ("g5.24xlarge", 96, 384, 4),
                ("g5.48xlarge", 192, 768, 8),
            ]
        );
        assert!(table.iter().all(|(.., accelerators)| *accelerators <= MAX_ACCELERATORS));
        assert_eq!(accelerated_families().collect::<Vec<_>>(), ["g4dn", "g5"]);
        assert_eq!(find("metal").unwrap().family(), "metal");
    }

    #[test]
    fn sizes_are_sane_and_a_placement_takes_them() {
        let metal: Vec<_> = all().filter(|kind| kind.class == Class::Metal).map(|kind| kind.name).collect();
        assert_eq!(metal, ["metal"]);
        for kind in all().filter(|kind| kind.class != Class::Metal) {
            // A hypervisor's bounds: 255 processors, an even number of MiB.
            assert!((1..=255).contains(&kind.vcpus), "{}", kind.name);
            assert!(kind.memory_mib >= 512 && kind.memory_mib.is_multiple_of(2), "{}", kind.name);
            let request = kind.request(None, None).unwrap();
            assert_eq!(request.memory, kind.memory_mib << 20);
            match request.cpus {
                Cpus::Fixed { vcpus } => assert_eq!(vcpus, kind.vcpus),
                Cpus::Burstable { kind: promise, mode, .. } => {
                    assert_eq!(promise.vcpus, kind.vcpus);
                    let other = if mode == Mode::Standard { Mode::Unlimited } else { Mode::Standard };
                    let asked = kind.request(Some(other), None).unwrap();
                    assert!(matches!(asked.cpus, Cpus::Burstable { mode, .. } if mode == other));
                }
            }
        }
        let board = |name: &str, threads| find(name).unwrap().cores(threads);
        assert_eq!([board("t3.micro", 2), board("t3.micro", 1), board("m3.medium", 2)], [1, 2, 1]);
        assert_eq!(find("metal").unwrap().request(None, None), None);
        let sizes =
            ["m7i.48xlarge", "c7i.48xlarge", "r7i.48xlarge"].map(|name| find(name).unwrap().memory_mib >> 10);
        assert_eq!(sizes, [768, 384, 1536]);
    }
}
