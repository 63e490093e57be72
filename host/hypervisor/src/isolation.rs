//! What this machine's processor and kernel offer to keep tenants of one host apart. It looks and tells; a host that
//! offers too little is for laboratories: [`Isolation::production`] says why.
//!
//! Core scheduling: `PR_SCHED_CORE`, prctl(2). Flushes: `PR_GET_SPECULATION_CTRL`, the kernel's
//! Documentation/userspace-api/spec_ctrl.rst, and L1D flush in Documentation/admin-guide/hw-vuln/l1d_flush.rst.

use rustix::{
    process::{SpeculationFeature, SpeculationFeatureState, getpid, speculative_feature_state},
    thread::{CoreSchedulingScope, core_scheduling_cookie},
};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// Whether two threads of one core are in use.
    pub smt: bool,
    /// Whether threads can be told whom to share a core with.
    pub core_scheduling: bool,
    /// Flushing the L1 data cache when a thread leaves the processor.
    pub l1d_flush: Control,
    /// Barring the predictors of one thread from another's (IBPB, STIBP).
    pub indirect_branch: Control,
    /// Weaknesses that the kernel says are open, by its own names.
    pub vulnerable: Vec<String>,
}

/// What the kernel says of one speculation control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// The processor does not have the weakness.
    NotAffected,
    /// A thread can ask for it.
    Offered,
    /// It is on for everyone.
    Always,
    /// The processor or the kernel has none.
    Missing,
}

/// Why a host is not for production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// `smt` without `core_scheduling`.
    #[error("siblings cannot be kept apart: turn SMT off, or boot a kernel with core scheduling")]
    CoreScheduling,
    /// The L1 data cache.
    #[error(
        "the L1 data cache cannot be flushed between tenants: boot with l1d_flush=on on a processor that can"
    )]
    L1dFlush,
    /// Branch predictors.
    #[error("branch predictors cannot be barred between tenants: load microcode that has IBPB")]
    IndirectBranch,
    /// Anything that the kernel calls vulnerable.
    #[error("the kernel says that the processor is vulnerable: update it and its microcode")]
    Vulnerable,
}

impl Refusal {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::CoreScheduling => "isolation.core-scheduling",
            Self::L1dFlush => "isolation.l1d-flush",
            Self::IndirectBranch => "isolation.indirect-branch",
            Self::Vulnerable => "isolation.vulnerable",
        }
    }
}

impl Isolation {
    /// Asks the kernel. To be called before confinement: it reads `/sys/devices/system/cpu`.
    pub fn detect() -> Self {
        Self::at(Path::new("/sys/devices/system/cpu"))
    }

    fn at(cpus: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(cpus.join(path)).unwrap_or_default();
        let listed = fs::read_dir(cpus.join("vulnerabilities"));
        let names =
            listed.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let open = |name: &String| {
            let said = text(&format!("vulnerabilities/{name}")).to_lowercase();
            // `KVM: Vulnerable` and the like; "SMT vulnerable" is what core scheduling is for.
            ["vulnerable", "unknown"].iter().any(|word| said.starts_with(word))
                || said.contains(": vulnerable")
        };
        let mut vulnerable: Vec<String> = names.filter(open).collect();
        vulnerable.sort();
        let smt = text("smt/active").trim() != "0";
        let l1d = control(SpeculationFeature::FlushL1DCacheOnContextSwitchOutOfTask);
        Self {
            smt,
            // Kernels without it, and hosts without SMT, refuse the question.
            core_scheduling: core_scheduling_cookie(getpid(), CoreSchedulingScope::Thread).is_ok(),
            // The kernel kills a thread that asks for the flush and then runs beside a sibling.
            l1d_flush: if smt && l1d == Control::Offered { Control::Missing } else { l1d },
            indirect_branch: control(SpeculationFeature::IndirectBranchSpeculation),
            vulnerable,
        }
    }

    /// Whether tenants may share this host; if not, every reason.
    pub fn production(&self) -> Result<(), Vec<Refusal>> {
        let kept = |control| matches!(control, Control::NotAffected | Control::Offered | Control::Always);
        let wrong = [
            (self.smt && !self.core_scheduling, Refusal::CoreScheduling),
            (!kept(self.l1d_flush), Refusal::L1dFlush),
            (!kept(self.indirect_branch), Refusal::IndirectBranch),
            (!self.vulnerable.is_empty(), Refusal::Vulnerable),
        ];
        let wrong: Vec<Refusal> = wrong.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// The answer's bits: 0 is "not affected"; PRCTL is "can be asked for". For the L1D flush, which guards against more
/// than one weakness, the kernel answers FORCE_DISABLE where there is none at all, and never "not affected".
fn control(feature: SpeculationFeature) -> Control {
    let flush = feature == SpeculationFeature::FlushL1DCacheOnContextSwitchOutOfTask;
    let Ok(Some(state)) = speculative_feature_state(feature) else { return Control::Missing };
    if state.contains(SpeculationFeatureState::PRCTL) {
        Control::Offered
    } else if state.is_empty() {
        Control::NotAffected
    } else if !flush
        && state.intersects(SpeculationFeatureState::DISABLE | SpeculationFeatureState::FORCE_DISABLE)
    {
        Control::Always
    } else {
        Control::Missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Isolation {
        Isolation {
            smt: true,
            core_scheduling: true,
            l1d_flush: Control::NotAffected,
            indirect_branch: Control::Offered,
            vulnerable: Vec::new(),
        }
    }

    #[test]
    fn production_is_refused_for_each_thing_that_is_missing() {
        assert_eq!(good().production(), Ok(()));
        assert_eq!(Isolation { smt: false, core_scheduling: false, ..good() }.production(), Ok(()));
        for (lacking, reason) in [
            (Isolation { core_scheduling: false, ..good() }, Refusal::CoreScheduling),
            (Isolation { l1d_flush: Control::Missing, ..good() }, Refusal::L1dFlush),
            (Isolation { indirect_branch: Control::Missing, ..good() }, Refusal::IndirectBranch),
            (Isolation { vulnerable: vec!["mds".to_owned()], ..good() }, Refusal::Vulnerable),
        ] {
            assert_eq!(lacking.production(), Err(vec![reason]));
            assert!(reason.code().starts_with("isolation."));
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
        let found = Isolation::at(folder.path());
        assert_eq!(found.vulnerable, ["itlb_multihit", "spec_rstack_overflow", "srbds"]);
        assert!(!found.smt);
        // What cannot be read is taken for the worse.
        assert!(Isolation::at(Path::new("/nowhere")).smt);
    }

    /// What is said of this host is what it does when it is asked: a control that is offered can be had.
    #[test]
    fn what_is_offered_can_be_had() {
        use rustix::{
            process::{SpeculationFeatureControl, control_speculative_feature},
            thread::create_core_scheduling_cookie,
        };
        let found = Isolation::detect();
        println!("{found:?}: {:?}", found.production());
        // In a thread of its own: these are settings of threads.
        std::thread::spawn(move || {
            let own = rustix::thread::gettid();
            let cookie = create_core_scheduling_cookie(own, CoreSchedulingScope::Thread);
            assert_eq!(cookie.is_ok(), found.core_scheduling, "{cookie:?}");
            let set = control_speculative_feature(
                SpeculationFeature::IndirectBranchSpeculation,
                SpeculationFeatureControl::DISABLE,
            );
            assert_eq!(set.is_ok(), found.indirect_branch == Control::Offered, "{set:?}");
        })
        .join()
        .unwrap();
    }
}
