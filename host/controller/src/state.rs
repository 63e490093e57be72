//! What the host knows about its volumes and its instances, and which changes it allows. No I/O: the
//! orchestration asks here first, acts, then tells here what came of it.

use crate::Refusal;
use host_api::{DeviceName, InstanceState};
use ids::{InstanceId, Slot, VolumeId};
use instance_types::{Class, InstanceType};
use std::{collections::BTreeMap, mem::replace};

/// Where a volume's function goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The main board.
    Board,
    /// The machine of an instance that shares the host.
    Machine(InstanceId),
}

/// A volume that the host holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where its function goes.
    pub place: Place,
    /// Its slot there.
    pub slot: Slot,
    /// The tenant's name for it.
    pub device_name: DeviceName,
    /// Bytes.
    pub size: u64,
    /// Its card died, or an attach or detach stopped half way: it can only be detached.
    pub failed: bool,
}

/// An instance that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its type.
    pub kind: &'static InstanceType,
    /// Its root volume.
    pub root: VolumeId,
    /// How far it has come.
    pub state: InstanceState,
}

impl Instance {
    /// Whether it has the main board to itself.
    pub fn is_metal(&self) -> bool {
        matches!(self.kind.class, Class::Metal)
    }
}

/// Volumes and instances. One instance has the main board, or several share the host.
#[derive(Debug, Default)]
pub struct State {
    volumes: BTreeMap<VolumeId, Volume>,
    instances: BTreeMap<InstanceId, Instance>,
}

impl State {
    /// Whether it holds no volume, and no instance is started.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.instances.is_empty()
    }

    /// The volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (&VolumeId, &Volume)> {
        self.volumes.iter()
    }

    /// The volumes whose functions go to the machine of `instance` and have not failed.
    pub fn functions(&self, instance: &InstanceId) -> Vec<(VolumeId, Slot)> {
        let here = |volume: &Volume| !volume.failed && volume.place == Place::Machine(instance.clone());
        let functions = self.volumes.iter().filter(|(_, volume)| here(volume));
        functions.map(|(id, volume)| (id.clone(), volume.slot)).collect()
    }

    /// The instances.
    pub fn instances(&self) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.instances.iter()
    }

    /// An instance.
    pub fn instance(&self, instance: &InstanceId) -> Option<&Instance> {
        self.instances.get(instance)
    }

    /// The instance that has the main board.
    pub fn metal(&self) -> Option<(&InstanceId, &Instance)> {
        self.instances.iter().find(|(_, instance)| instance.is_metal())
    }

    /// Where the functions of `instance` go; without one, to the main board.
    pub fn place_of(&self, instance: Option<&InstanceId>) -> Place {
        match instance {
            Some(id) if self.metal().is_none_or(|(metal, _)| metal != id) => Place::Machine(id.clone()),
            _ => Place::Board,
        }
    }

    /// Whether a guest runs at `place`, so that a function is hot-plugged.
    pub fn guest_runs(&self, place: &Place) -> bool {
        self.occupant(place).is_some_and(|instance| instance.state == InstanceState::Running)
    }

    fn occupant(&self, place: &Place) -> Option<&Instance> {
        match place {
            Place::Board => self.metal().map(|(_, instance)| instance),
            Place::Machine(id) => self.instances.get(id),
        }
    }

    /// Whether `volume` may be attached in `slot` of `place`.
    pub fn may_attach(&self, volume: &VolumeId, place: &Place, slot: Slot) -> Result<(), Refusal> {
        self.settled(place)?;
        if self.volumes.contains_key(volume) {
            Err(Refusal::of("volume.exists"))
        } else if self.volumes.values().any(|other| (&other.place, other.slot) == (place, slot)) {
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
        let known = self.volumes.get(volume).ok_or_else(|| Refusal::of("volume.unknown"))?;
        self.settled(&known.place)?;
        match self.occupant(&known.place) {
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

    /// Whether `instance` may be started from `root`. One that switched itself off, or failed, may start again.
    pub fn may_start(
        &self,
        instance: &InstanceId,
        kind: &InstanceType,
        root: &VolumeId,
    ) -> Result<(), Refusal> {
        let metal = matches!(kind.class, Class::Metal);
        let place = if metal { Place::Board } else { Place::Machine(instance.clone()) };
        self.settled(&place)?;
        let over = |state| matches!(state, InstanceState::Off | InstanceState::Failed);
        if self.instances.get(instance).is_some_and(|known| !over(known.state)) {
            return Err(Refusal::of("instance.exists"));
        }
        let mut others = self.instances.iter().filter(|(id, _)| *id != instance).map(|(_, other)| other);
        if others.any(|other| metal || other.is_metal()) {
            return Err(Refusal::of(if metal && self.metal().is_some() {
                "instance.exists"
            } else {
                "instance.class"
            }));
        }
        match self.volumes.get(root) {
            Some(volume) if !volume.failed && volume.place == place => Ok(()),
            _ => Err(Refusal::of("instance.no-root")),
        }
    }

    /// Whether the main board may be power-cycled: no instance may lose its guest by it.
    pub fn may_power_cycle(&self) -> Result<(), Refusal> {
        if self.instances.is_empty() { Ok(()) } else { Err(Refusal::of("instance.exists")) }
    }

    /// An instance runs.
    pub fn started(&mut self, id: InstanceId, kind: &'static InstanceType, root: VolumeId) {
        self.instances.insert(id, Instance { kind, root, state: InstanceState::Running });
    }

    /// Begins to stop `instance`; gives whether its guest still runs.
    pub fn stopping(&mut self, instance: &InstanceId) -> Result<bool, Refusal> {
        let known = self.instances.get_mut(instance).ok_or_else(|| Refusal::of("instance.unknown"))?;
        if known.state == InstanceState::Stopping {
            return Err(Refusal::of("instance.changing"));
        }
        Ok(replace(&mut known.state, InstanceState::Stopping) == InstanceState::Running)
    }

    /// There is no such instance any more.
    pub fn stopped(&mut self, instance: &InstanceId) {
        self.instances.remove(instance);
    }

    /// It could not be stopped, and may still run.
    pub fn stop_failed(&mut self, instance: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.state = InstanceState::Running;
        }
    }

    /// The guest of a running instance came to an end, its own or not; gives whether that is new.
    pub fn ended(&mut self, instance: &InstanceId, state: InstanceState) -> bool {
        match self.instances.get_mut(instance) {
            Some(instance) if instance.state == InstanceState::Running => {
                instance.state = state;
                true
            }
            _ => false,
        }
    }

    /// Nothing else of an instance changes while it is being stopped.
    fn settled(&self, place: &Place) -> Result<(), Refusal> {
        match self.occupant(place) {
            Some(Instance { state: InstanceState::Stopping, .. }) => Err(Refusal::of("instance.changing")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
