//! Capabilities: none in any of the five sets, but what the policy keeps. Who starts without them has only a bounding
//! set, which is of no use to a process that can gain nothing by `execve`.

use crate::{Policy, SandboxError, system};
use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

/// What a policy keeps.
pub(crate) fn kept(policy: &Policy) -> Result<CapabilitySet, SandboxError> {
    let named = policy.capabilities.iter().map(|capability| {
        let unknown = || SandboxError::Policy(format!("{} is no capability", capability.name));
        CapabilitySet::from_name(&capability.name).ok_or_else(unknown)
    });
    named.collect()
}

/// Gives all others up, for good. Nothing that is started gets any.
pub(crate) fn keep(kept: CapabilitySet) -> Result<(), SandboxError> {
    let held = capabilities(None).map_err(system("capabilities"))?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(system("the bounding set")(error)),
            }
        }
    }
    clear_ambient_capability_set().map_err(system("the ambient set"))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(system("no other capabilities"))
}
