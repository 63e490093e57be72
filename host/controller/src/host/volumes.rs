//! Volumes come and go: the card gets the key and the storage, whoever runs the guest gets the function.

use super::{Host, Inner, LOOK};
use crate::{
    Refusal,
    hypervisors::{Functions, Hypervisors},
    state::{Place, Volume},
};
use host_api::{AttachVolume, DetachVolume, Done, VolumeState, VolumeStatus};
use ids::{HostId, InstanceId, Slot, VolumeId};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    os::fd::{AsFd, OwnedFd},
    thread::sleep,
    time::{Duration, Instant},
};
use wire::card::{Attach, FunctionState};

/// How long a card may take to notice that a function's other end is gone.
const NOTICE: Duration = Duration::from_secs(2);

impl Host {
    pub(super) fn attach(&self, request: &AttachVolume) -> Result<VolumeStatus, Refusal> {
        let mut inner = self.lock();
        let place = inner.state.place_of(request.instance.as_ref());
        inner.state.may_attach(&request.volume, &place, request.slot)?;
        let device_name = request.device_name.clone();
        let volume = Volume { place, slot: request.slot, device_name, size: request.size, failed: false };
        match volume.place.clone() {
            Place::Board => inner.attach_to_board(&self.identity.host, request, volume),
            Place::Machine(instance) => {
                let hypervisors = self.hypervisors()?;
                inner.attach_to_machine(&self.identity.host, request, volume, &instance, hypervisors)
            }
        }
    }

    pub(super) fn detach(&self, request: &DetachVolume) -> Result<Done, Refusal> {
        let volume = self.lock().state.may_detach(&request.volume)?.clone();
        if let Place::Machine(instance) = &volume.place
            && !volume.failed
        {
            self.take_back(instance, volume.slot, request.force)?;
        }
        self.lock().detach(request)
    }

    /// Takes a function out of a running machine: the guest lets go of it by itself, or loses it.
    fn take_back(&self, instance: &InstanceId, slot: Slot, force: bool) -> Result<(), Refusal> {
        let hypervisors = self.hypervisors()?;
        let used = || {
            let slots = hypervisors.ask(instance, |machine| Ok(machine.statistics()?.slots));
            slots.is_ok_and(|slots| slots.iter().any(|used| used.slot == u8::from(slot)))
        };
        if !used() {
            return Ok(());
        }
        hypervisors.ask(instance, |machine| machine.detach(slot, force))?;
        let end = Instant::now() + self.stop_grace;
        while !force && used() {
            if Instant::now() > end {
                return Err(Refusal::of("volume.busy"));
            }
            sleep(LOOK);
        }
        Ok(())
    }
}

impl Inner {
    fn attach_to_board(
        &mut self,
        host: &HostId,
        request: &AttachVolume,
        mut volume: Volume,
    ) -> Result<VolumeStatus, Refusal> {
        let id = &request.volume;
        let storage = self.parts.storage.open_volume(id, request.size)?;
        if !self.state.guest_runs(&volume.place) {
            // A function is hot-plugged under a guest only: firmware finds what was there before it started.
            self.parts.chip.hold()?;
        }
        let (function, path) = self.parts.storage.listen(id)?;
        let attached =
            self.parts.card.attach(to_card(host, request), storage.as_fd(), Some(function.as_fd()));
        if let Err(refusal) = attached.and_then(|()| self.parts.board.plug(request.slot, &path)) {
            self.parts.storage.remove_socket(id);
            if self.parts.card.detach(id, true).is_err() {
                volume.failed = true;
                self.state.attached(id.clone(), volume);
            }
            return Err(refusal);
        }
        Ok(self.attached(id, volume))
    }

    /// The card waits for the instance's machine, or is connected to it at once if that runs.
    fn attach_to_machine(
        &mut self,
        host: &HostId,
        request: &AttachVolume,
        mut volume: Volume,
        instance: &InstanceId,
        hypervisors: &Hypervisors,
    ) -> Result<VolumeStatus, Refusal> {
        let id = &request.volume;
        let storage = self.parts.storage.open_volume(id, request.size)?;
        self.parts.card.attach(to_card(host, request), storage.as_fd(), None)?;
        let plugged = if self.state.guest_runs(&volume.place) {
            self.connect(id).and_then(|function| {
                hypervisors.ask(instance, |machine| machine.attach(request.slot, function.as_fd()))
            })
        } else {
            Ok(())
        };
        if let Err(refusal) = plugged {
            if self.parts.card.detach(id, true).is_err() {
                volume.failed = true;
                self.state.attached(id.clone(), volume);
            }
            return Err(refusal);
        }
        Ok(self.attached(id, volume))
    }

    fn attached(&mut self, id: &VolumeId, volume: Volume) -> VolumeStatus {
        let status = volume_status(id, &volume, None);
        self.state.attached(id.clone(), volume);
        VolumeStatus { state: VolumeState::Waiting, ..status }
    }

    fn detach(&mut self, request: &DetachVolume) -> Result<Done, Refusal> {
        let volume = self.state.may_detach(&request.volume)?;
        let (place, slot, force) = (volume.place.clone(), volume.slot, request.force || volume.failed);
        if place == Place::Board {
            self.parts.card.detach(&request.volume, force)?;
            self.parts.storage.remove_socket(&request.volume);
            if let Err(refusal) = self.parts.board.unplug(slot) {
                self.state.failed(&request.volume);
                return Err(refusal);
            }
        } else {
            let end = Instant::now() + NOTICE;
            while let Err(refusal) = self.parts.card.detach(&request.volume, force) {
                if refusal.code != "volume.busy" || Instant::now() > end {
                    return Err(refusal);
                }
                sleep(LOOK / 10);
            }
        }
        self.state.detached(&request.volume);
        Ok(Done {})
    }

    /// The functions of an instance's machine: one end of a private socket each, whose other end its card has.
    pub(super) fn functions(&mut self, instance: &InstanceId) -> Result<Functions, Refusal> {
        let volumes = self.state.functions(instance);
        let connect = |(volume, slot)| Ok((slot, self.connect(&volume)?));
        let mut functions = volumes.into_iter().map(connect).collect::<Result<Functions, Refusal>>()?;
        functions.extend(self.parts.attestation.function(instance)?.map(|function| (Slot::HOST, function)));
        Ok(functions)
    }

    /// Connects to a function. Its card may not have noticed yet that an earlier machine is gone.
    fn connect(&mut self, volume: &VolumeId) -> Result<OwnedFd, Refusal> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| {
                tracing::error!(%volume, %error, "a function's socket cannot be made");
                Refusal::of("host.failed")
            })?;
        let end = Instant::now() + NOTICE;
        while let Err(refusal) = self.parts.card.connect_function(volume, theirs.as_fd()) {
            if refusal.code != "volume.connected" || Instant::now() > end {
                return Err(refusal);
            }
            sleep(LOOK / 10);
        }
        Ok(ours)
    }

    /// Waits until the cards have let go of an ended machine's memory.
    pub(super) fn let_go(&mut self, instance: &InstanceId) {
        self.parts.attestation.detach(instance);
        let volumes = self.state.functions(instance);
        let end = Instant::now() + NOTICE;
        let held = |status: &wire::card::VolumeStatus| {
            status.state != FunctionState::Waiting && volumes.iter().any(|(id, _)| *id == status.volume)
        };
        while self.parts.card.volumes().iter().any(held) {
            if Instant::now() > end {
                tracing::error!(%instance, "the volume card still holds functions of a machine that is gone");
                return;
            }
            sleep(LOOK / 10);
        }
    }
}

fn to_card(host: &HostId, request: &AttachVolume) -> Attach {
    Attach {
        host: host.clone(),
        volume: request.volume.clone(),
        device_name: request.device_name.to_string(),
        size: request.size,
        sealed_key: request.sealed_key.to_bytes(),
    }
}

/// What is told of a volume.
pub(super) fn volume_status(
    id: &VolumeId,
    volume: &Volume,
    function: Option<&wire::card::VolumeStatus>,
) -> VolumeStatus {
    let state = match function.map(|function| function.state) {
        _ if volume.failed => VolumeState::Failed,
        None => VolumeState::Failed,
        Some(FunctionState::Waiting) => VolumeState::Waiting,
        Some(FunctionState::Connected) => VolumeState::Connected,
        Some(FunctionState::Enabled) => VolumeState::Enabled,
        Some(FunctionState::ShutDown) => VolumeState::ShutDown,
    };
    let instance = match &volume.place {
        Place::Board => None,
        Place::Machine(instance) => Some(instance.clone()),
    };
    VolumeStatus {
        volume: id.clone(),
        instance,
        slot: volume.slot,
        device_name: volume.device_name.clone(),
        size: volume.size,
        state,
        reads: function.map_or(0, |function| function.reads),
        writes: function.map_or(0, |function| function.writes),
        errors: function.map_or(0, |function| function.errors),
    }
}
