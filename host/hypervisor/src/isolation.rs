//! What this machine's processor and kernel offer to keep tenants of one host apart: looked for, told, and made use of.
//! A host that offers too little is for laboratories, and [`Isolation::refused`] says why.
//!
//! Core scheduling: `PR_SCHED_CORE`, prctl(2). Flushes: `PR_SET_SPECULATION_CTRL`, the kernel's
//! Documentation/userspace-api/spec_ctrl.rst, and L1D flush in Documentation/admin-guide/hw-vuln/l1d_flush.rst.

use rustix::{
    io::Errno,
    process::{
        SpeculationFeature, SpeculationFeatureControl, SpeculationFeatureState, control_speculative_feature,
        getpid, speculative_feature_state,
    },
    thread::{CoreSchedulingScope, core_scheduling_cookie, create_core_scheduling_cookie},
};
use std::{fs, path::Path};
use wire::{
    Fault,
    hypervisor::{Isolation, Mitigation},
};

const L1D: SpeculationFeature = SpeculationFeature::FlushL1DCacheOnContextSwitchOutOfTask;
const BRANCH: SpeculationFeature = SpeculationFeature::IndirectBranchSpeculation;

/// Why a host is not for production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("siblings cannot be kept apart: turn SMT off, or boot a kernel with core scheduling")]
    CoreScheduling,
    #[error(
        "the L1 data cache cannot be flushed between tenants: boot with l1d_flush=on on a processor that can"
    )]
    L1dFlush,
    #[error("branch predictors cannot be barred between tenants: load microcode that has IBPB")]
    IndirectBranch,
    #[error("the kernel says that the processor is vulnerable: update it and its microcode")]
    Vulnerable,
}

impl Refusal {
    fn code(self) -> &'static str {
        match self {
            Self::CoreScheduling => "isolation.core-scheduling",
            Self::L1dFlush => "isolation.l1d-flush",
            Self::IndirectBranch => "isolation.indirect-branch",
            Self::Vulnerable => "isolation.vulnerable",
        }
    }
}

/// Asks the kernel. To be called before confinement: it reads `/sys/devices/system/cpu`.
pub fn detect() -> Isolation {
    at(Path::new("/sys/devices/system/cpu"))
}

fn at(cpus: &Path) -> Isolation {
    let text = |path: &str| fs::read_to_string(cpus.join(path)).unwrap_or_default();
    let listed = fs::read_dir(cpus.join("vulnerabilities"));
    let names =
        listed.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let open = |name: &String| {
        let said = text(&format!("vulnerabilities/{name}")).to_lowercase();
        // `KVM: Vulnerable` and the like; "SMT vulnerable" is what core scheduling is for.
        ["vulnerable", "unknown"].iter().any(|word| said.starts_with(word)) || said.contains(": vulnerable")
    };
    let mut vulnerable: Vec<String> = names.filter(open).collect();
    vulnerable.sort();
    // What cannot be read is taken for the worse.
    let smt = text("smt/active").trim() != "0";
    let l1d_flush = match mitigation(L1D) {
        // The kernel kills a thread that asks for the flush and then runs beside a sibling.
        Mitigation::Offered if smt => Mitigation::Missing,
        other => other,
    };
    let mut found = Isolation {
        smt,
        // Kernels without it, and hosts without SMT, refuse the question.
        core_scheduling: core_scheduling_cookie(getpid(), CoreSchedulingScope::Thread).is_ok(),
        l1d_flush,
        indirect_branch: mitigation(BRANCH),
        vulnerable,
        refused: Vec::new(),
    };
    found.refused = refusals(&found).map(|refusal| Fault::new(refusal.code(), refusal.to_string())).collect();
    found
}

/// Every reason why tenants must not share this host.
fn refusals(found: &Isolation) -> impl Iterator<Item = Refusal> {
    let missing = |mitigation| mitigation == Mitigation::Missing;
    [
        (found.smt && !found.core_scheduling, Refusal::CoreScheduling),
        (missing(found.l1d_flush), Refusal::L1dFlush),
        (missing(found.indirect_branch), Refusal::IndirectBranch),
        (!found.vulnerable.is_empty(), Refusal::Vulnerable),
    ]
    .into_iter()
    .filter_map(|(is, refusal)| is.then_some(refusal))
}

/// Asks for all that is offered, for this thread and those that it starts: a core is shared with nobody else's
/// threads, the cache is flushed and the predictors are barred when another process gets the core.
pub fn engage(found: &Isolation) -> Result<(), Errno> {
    if found.core_scheduling {
        create_core_scheduling_cookie(getpid(), CoreSchedulingScope::ThreadGroup)?;
    }
    if found.l1d_flush == Mitigation::Offered {
        // For this one the kernel means: flushing is enabled.
        control_speculative_feature(L1D, SpeculationFeatureControl::ENABLE)?;
    }
    if found.indirect_branch == Mitigation::Offered {
        control_speculative_feature(BRANCH, SpeculationFeatureControl::FORCE_DISABLE)?;
    }
    Ok(())
}

/// The answer's bits: 0 is "not affected"; PRCTL is "can be asked for". For the L1D flush, which guards against more
/// than one weakness, the kernel answers FORCE_DISABLE where there is none at all, and never "not affected".
fn mitigation(feature: SpeculationFeature) -> Mitigation {
    let disabled = SpeculationFeatureState::DISABLE | SpeculationFeatureState::FORCE_DISABLE;
    match speculative_feature_state(feature) {
        Ok(Some(state)) if state.contains(SpeculationFeatureState::PRCTL) => Mitigation::Offered,
        Ok(Some(state)) if state.is_empty() => Mitigation::NotAffected,
        Ok(Some(state)) if feature != L1D && state.intersects(disabled) => Mitigation::Always,
        _ => Mitigation::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Isolation {
        Isolation {
            smt: true,
            core_scheduling: true,
            l1d_flush: Mitigation::NotAffected,
            indirect_branch: Mitigation::Offered,
            vulnerable: Vec::new(),
            refused: Vec::new(),
        }
    }

    #[test]
    fn production_is_refused_for_each_thing_that_is_missing() {
        let codes = |found: Isolation| refusals(&found).map(Refusal::code).collect::<Vec<_>>();
        assert!(codes(good()).is_empty());
        assert!(codes(Isolation { smt: false, core_scheduling: false, ..good() }).is_empty());
        for (lacking, code) in [
            (Isolation { core_scheduling: false, ..good() }, "isolation.core-scheduling"),
            (Isolation { l1d_flush: Mitigation::Missing, ..good() }, "isolation.l1d-flush"),
            (Isolation { indirect_branch: Mitigation::Missing, ..good() }, "isolation.indirect-branch"),
            (Isolation { vulnerable: vec!["mds".to_owned()], ..good() }, "isolation.vulnerable"),
        ] {
            assert_eq!(codes(lacking), [code]);
        }
    }

    #[test]
    fn the_kernels_words_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["smt", "vulnerabilities"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for (name, text) in [
            ("smt/active", "0\n"),
            ("vulnerabilities/mds", "Not affected\n"),
            ("vulnerabilities/spectre_v2", "Mitigation: Retpolines; STIBP: disabled\n"),
            (
                "vulnerabilities/l1tf",
                "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable\n",
            ),
            ("vulnerabilities/itlb_multihit", "KVM: Vulnerable\n"),
            ("vulnerabilities/srbds", "Unknown: Dependent on hypervisor status\n"),
            ("vulnerabilities/spec_rstack_overflow", "Vulnerable: Safe RET, no microcode\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let found = at(folder.path());
        assert_eq!(found.vulnerable, ["itlb_multihit", "spec_rstack_overflow", "srbds"]);
        assert!(!found.smt);
        assert!(found.refused.iter().any(|refusal| refusal.code == "isolation.vulnerable"));
        assert!(at(Path::new("/nowhere")).smt);
    }

    /// What is said of this host is what it does when it is asked.
    #[test]
    fn what_is_offered_can_be_had_and_what_is_missing_cannot() {
        let found = detect();
        println!("{found:?}");
        // In a thread of its own: these are settings of threads.
        std::thread::spawn(move || {
            let own = rustix::thread::gettid();
            let cookie = create_core_scheduling_cookie(own, CoreSchedulingScope::Thread);
            assert_eq!(cookie.is_ok(), found.core_scheduling, "{cookie:?}");
            let set = control_speculative_feature(BRANCH, SpeculationFeatureControl::DISABLE);
            assert_eq!(set.is_ok(), found.indirect_branch == Mitigation::Offered, "{set:?}");
            assert_eq!(engage(&found), Ok(()));
        })
        .join()
        .unwrap();
    }
}
