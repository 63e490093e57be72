//! Capabilities: none, in any of the five sets. Who starts without them has only a bounding set, which is of no
//! use to a process that can gain nothing by `execve`.

use crate::{SandboxError, system};
use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

/// Gives all of them up, for good.
pub(crate) fn drop_all() -> Result<(), SandboxError> {
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
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(system("no capabilities"))
}
