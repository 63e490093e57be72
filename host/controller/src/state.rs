//! What the host knows about its volumes and its instance, and which changes it allows. No I/O: the
//! orchestration asks here first, acts, then tells here what came of it.

use crate::Refusal;
use host_api::{DeviceName, InstanceState, InstanceStatus, InstanceType};
use ids::{InstanceId, Slot, VolumeId};
use std::{collections::BTreeMap, mem::replace};

/// A volume that the host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its slot.
    pub slot: Slot,
    /// The tenant's name for it.
    pub device_name: DeviceName,
    /// Bytes.
    pub size: u64,
    /// Its card died, or an attach or detach stopped half way: it can only be detached.
    pub failed: bool,
}

/// The instance that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Which.
    pub id: InstanceId,
    /// Its root volume.
    pub root: VolumeId,
    /// Its type.
    pub kind: InstanceType,
    /// How far it has come.
    pub state: InstanceState,
}

impl From<Instance> for InstanceStatus {
    fn from(instance: Instance) -> Self {
        Self {
            instance: instance.id,
            root: instance.root,
            instance_type: instance.kind,
            state: instance.state,
            measurement: None,
            credits: None,
            weaknesses: Vec::new(),
        }
    }
}

/// Volumes and instance. A host runs one instance at a time.
#[derive(Debug, Default)]
pub struct State {
    volumes: BTreeMap<VolumeId, Volume>,
    instance: Option<Instance>,
}

impl State {
    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (&VolumeId, &Volume)> {
        self.volumes.iter()
    }

    /// The instance.
    pub fn instance(&self) -> Option<&Instance> {
        self.instance.as_ref()
    }

    /// Whether a guest runs, so that a function is hot-plugged.
    pub fn guest_runs(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.state == InstanceState::Running)
    }

    /// Whether `volume` may be attached in `slot`.
    pub fn may_attach(&self, volume: &VolumeId, slot: Slot) -> Result<(), Refusal> {
        self.settled()?;
        if self.volumes.contains_key(volume) {
            Err(Refusal::of("volume.exists"))
        } else if self.volumes.values().any(|other| other.slot == slot) {
            Err(Refusal::of("slot.taken"))
        } else {
            Ok(())
        }
    }

    /// A volume is attached, or `failed` on the way and could not be taken back whole.
    pub fn attached(&mut self, id: VolumeId, volume: Volume) {
        self.volumes.insert(id, volume);
    }

    /// Whether `volume` may be detached.
    pub fn may_detach(&self, volume: &VolumeId) -> Result<&Volume, Refusal> {
        self.settled()?;
        let known = self.volumes.get(volume).ok_or_else(|| Refusal::of("volume.unknown"))?;
        match &self.instance {
            Some(instance) if instance.root == *volume => Err(Refusal::of("volume.root")),
            _ => Ok(known),
        }
    }

    /// A volume is gone.
    pub fn detached(&mut self, volume: &VolumeId) {
        self.volumes.remove(volume);
    }

    /// A volume can only be detached from now on.
    pub fn failed(&mut self, volume: &VolumeId) {
        if let Some(volume) = self.volumes.get_mut(volume) {
            volume.failed = true;
        }
    }

    /// Every volume lost its card; gives how many.
    pub fn card_died(&mut self) -> usize {
        self.volumes.values_mut().map(|volume| usize::from(!replace(&mut volume.failed, true))).sum()
    }

    /// Whether `instance` may be started from `root`. An instance that switched itself off may start again.
    pub fn may_start(&self, instance: &InstanceId, root: &VolumeId) -> Result<(), Refusal> {
        self.settled()?;
        match &self.instance {
            Some(other) if other.state != InstanceState::Off || other.id != *instance => {
                Err(Refusal::of("instance.exists"))
            }
            _ => match self.volumes.get(root) {
                Some(Volume { failed: false, .. }) => Ok(()),
                _ => Err(Refusal::of("instance.no-root")),
            },
        }
    }

    /// Whether the main board may be power-cycled: no instance may lose its guest by it.
    pub fn may_power_cycle(&self) -> Result<(), Refusal> {
        match self.instance {
            Some(_) => Err(Refusal::of("instance.exists")),
            None => Ok(()),
        }
    }

    /// Reset was released for an instance.
    pub fn started(&mut self, id: InstanceId, root: VolumeId, kind: InstanceType) -> Instance {
        let instance = Instance { id, root, kind, state: InstanceState::Running };
        self.instance = Some(instance.clone());
        instance
    }

    /// Begins to stop `instance`; gives whether its guest still runs.
    pub fn stopping(&mut self, instance: &InstanceId) -> Result<bool, Refusal> {
        self.settled()?;
        match &mut self.instance {
            Some(known) if known.id == *instance => {
                let ran = known.state == InstanceState::Running;
                known.state = InstanceState::Stopping;
                Ok(ran)
            }
            _ => Err(Refusal::of("instance.unknown")),
        }
    }

    /// Reset is held: there is no instance any more.
    pub fn stopped(&mut self) {
        self.instance = None;
    }

    /// Reset could not be held; the instance may still run.
    pub fn stop_failed(&mut self) {
        if let Some(instance) = &mut self.instance {
            instance.state = InstanceState::Running;
        }
    }

    /// The guest switched itself off; gives whether that is new.
    pub fn powered_off(&mut self) -> bool {
        match &mut self.instance {
            Some(instance) if instance.state == InstanceState::Running => {
                instance.state = InstanceState::Off;
                true
            }
            _ => false,
        }
    }

    /// Nothing else changes while an instance is being stopped.
    fn settled(&self) -> Result<(), Refusal> {
        match &self.instance {
            Some(Instance { state: InstanceState::Stopping, .. }) => Err(Refusal::of("instance.changing")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
