//! The orchestration: what each admitted request does to card, chip and main board, in which order, and
//! how a half-done act is taken back. One lock: acts happen one after the other.

use crate::{
    Refusal,
    board::Board,
    boot,
    boot::KnownGood,
    card::Card,
    chip::{Chip, counted},
    clock::Clock,
    log::Entry,
    log::{LogError, Writer},
    settings::{Kept, Settings, Trust},
    state::State,
    state::Volume,
    storage::Storage,
    watch::Throttle,
};
use host_api::{
    AttachVolume, ChipStatus, DetachVolume, Done, HostStatus, InstanceStatus, InstanceType, Measured,
    OutOfService, Pem, Power, ReadConsole, ReadStatistics, Request, Sha256, StartInstance, StopInstance,
    UpdateTokenKeys, VolumeState, VolumeStatus, WriteConsole,
};
use ids::{HostId, VolumeId};
use service::Key;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};
use wire::card::{Attach, FunctionState};

/// How often a stopping guest is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Who the host is.
pub struct Identity {
    /// Its name.
    pub host: HostId,
    /// Its certificate chain in PEM.
    pub certificate: Pem,
    /// Its key.
    pub key: Key,
}

/// What the boot found.
#[derive(Debug)]
pub struct Booted {
    /// What was measured.
    pub measurements: Vec<Measured>,
    /// The register's value at the end.
    pub pcr: Option<Sha256>,
    /// The firmware's hash.
    pub firmware: Option<Sha256>,
    /// Why the host cannot be in service.
    pub out_of_service: Option<OutOfService>,
}

/// The host's components.
#[derive(Debug)]
pub struct Components {
    /// The security chip.
    pub chip: Chip,
    /// The main board.
    pub board: Board,
    /// The volume card.
    pub card: Card,
    /// Backing files and function sockets.
    pub storage: Storage,
}

impl Components {
    /// The components that are gone. They come back with the host's next power-cycle.
    fn lost(&mut self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let components = [
            (self.chip.is_there(), "chip.gone", "the security chip"),
            (self.board.is_there(), "board.gone", "the main board"),
            (self.card.is_there(), "card.gone", "the volume card"),
        ];
        components.into_iter().filter(|(there, ..)| !there).map(|(_, code, what)| (code, what))
    }
}

struct Inner {
    parts: Components,
    booted: Booted,
    state: State,
    settings: Settings,
    throttle: Throttle,
    last_event: u64,
    /// How often the board had started before the instance did.
    boots: u64,
    /// Codes of components that the log tells to be gone.
    told: BTreeSet<&'static str>,
}

/// By what the host goes.
pub struct Rules {
    /// The firmware that it may run.
    pub known_good: KnownGood,
    /// How long a stopping guest has to end by itself.
    pub stop_grace: Duration,
    /// What it remembers.
    pub settings: Settings,
}

/// The host.
pub struct Host {
    identity: Identity,
    known_good: KnownGood,
    stop_grace: Duration,
    log: Writer,
    clock: Clock,
    trust: Trust,
    inner: Mutex<Inner>,
}

impl Host {
    /// Takes over a booted host.
    pub fn new(
        identity: Identity,
        parts: Components,
        rules: Rules,
        booted: Booted,
        log: Writer,
        clock: Clock,
    ) -> Self {
        let Rules { known_good, stop_grace, settings } = rules;
        let trust = settings.trust();
        let inner = Inner {
            parts,
            booted,
            state: State::default(),
            settings,
            throttle: Throttle::default(),
            last_event: 0,
            boots: 0,
            told: BTreeSet::new(),
        };
        Self { identity, known_good, stop_grace, log, clock, trust, inner: Mutex::new(inner) }
    }

    /// Its name.
    pub fn id(&self) -> &HostId {
        &self.identity.host
    }

    /// What checks callers' tokens.
    pub fn trust(&self) -> Trust {
        Arc::clone(&self.trust)
    }

    /// Refuses what the host cannot do in its present state. Reads go on, and what ends well.
    pub fn admits(&self, request: &Request) -> Result<(), Refusal> {
        let any_time = matches!(
            request,
            Request::ReadStatus(_)
                | Request::ReadLog(_)
                | Request::AcknowledgeLog(_)
                | Request::UpdateTokenKeys(_)
                | Request::DrainHost(_)
        );
        if any_time {
            return Ok(());
        }
        let mut inner = self.lock();
        let adds = matches!(request, Request::AttachVolume(_) | Request::StartInstance(_));
        if inner.booted.out_of_service.is_some() {
            Err(Refusal::of("host.out-of-service"))
        } else if inner.settings.kept().drained && adds {
            Err(Refusal::of("host.drained"))
        } else if let Some((lost, _)) = inner.parts.lost().next().filter(|_| adds) {
            Err(Refusal::of(lost))
        } else {
            Ok(())
        }
    }

    /// Does what an admitted and logged request asks; gives the JSON text of the answer.
    pub fn act(&self, request: &Request) -> Result<Vec<u8>, Refusal> {
        match request {
            Request::ReadStatus(_) => json(&self.status()),
            Request::ReadLog(read) => Ok(self.log.page(read.after)?),
            Request::AcknowledgeLog(read) => match self.log.acknowledge(read.up_to) {
                Ok(_) => json(&Done {}),
                Err(LogError::Ahead(_)) => Err(Refusal::of("log.ahead")),
                Err(error) => Err(error.into()),
            },
            Request::UpdateTokenKeys(update) => json(&self.lock().trust(update)?),
            Request::DrainHost(_) => json(&self.lock().drain(true)?),
            Request::ResumeHost(_) => json(&self.lock().drain(false)?),
            Request::PowerCycleHost(_) => json(&self.lock().power_cycle(&self.known_good)?),
            Request::AttachVolume(attach) => json(&self.lock().attach(&self.identity.host, attach)?),
            Request::DetachVolume(detach) => json(&self.lock().detach(detach)?),
            Request::StartInstance(start) => json(&self.lock().start(&self.known_good, start)?),
            Request::StopInstance(stop) => json(&self.stop(stop)?),
            Request::ReadStatistics(ReadStatistics { instance })
            | Request::ReadConsole(ReadConsole { instance, .. })
            | Request::WriteConsole(WriteConsole { instance, .. }) => {
                // On the main board nobody but the guest knows.
                let here = self.lock().state.instance().is_some_and(|known| known.id == *instance);
                Err(Refusal::of(if here { "hypervisor.absent" } else { "instance.unknown" }))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> HostStatus {
        let mut inner = self.lock();
        let Inner { parts, booted, state, settings, .. } = &mut *inner;
        let chip = parts.chip.status().ok().zip(booted.firmware.clone());
        let functions: BTreeMap<_, _> =
            parts.card.volumes().into_iter().map(|volume| (volume.volume.clone(), volume)).collect();
        let there = parts.card.is_there();
        let lost =
            parts.lost().next().and_then(|(code, _)| boot::out_of_service(code, &Refusal::of(code).message));
        let out_of_service = booted.out_of_service.clone().or(lost);
        HostStatus {
            host: self.identity.host.clone(),
            in_service: out_of_service.is_none(),
            out_of_service,
            drained: settings.kept().drained,
            token_keys: settings.sequence(),
            measurements: booted.measurements.clone(),
            pcr: booted.pcr.clone(),
            chip: chip.map(|((reset_held, refused_writes), firmware)| ChipStatus {
                reset_held,
                refused_writes,
                firmware,
            }),
            board: parts.board.status().ok(),
            card: Some(parts.card.status(
                &self.identity.host,
                self.identity.key.pair(),
                self.clock.seconds(),
            )),
            certificate: self.identity.certificate.clone(),
            volumes: state
                .volumes()
                .map(|(id, volume)| volume_status(id, volume, functions.get(id).filter(|_| there)))
                .collect(),
            instances: state.instance().cloned().map(InstanceStatus::from).into_iter().collect(),
            hypervisor: None,
            log: self.log.status(),
        }
    }

    /// The only act that waits for a guest: others go on meanwhile, the state refuses what would interfere.
    fn stop(&self, request: &StopInstance) -> Result<Done, Refusal> {
        let runs = self.lock().state.stopping(&request.instance)?;
        if runs && !request.force && self.lock().parts.board.power_button().is_ok() {
            let end = Instant::now() + self.stop_grace;
            while Instant::now() < end
                && self.lock().parts.board.status().is_ok_and(|b| b.power == Power::Running)
            {
                sleep(LOOK);
            }
        }
        let mut inner = self.lock();
        match inner.parts.chip.hold() {
            Ok(()) => {
                inner.state.stopped();
                Ok(Done {})
            }
            Err(refusal) => {
                inner.state.stop_failed();
                Err(refusal)
            }
        }
    }

    /// Looks at what nobody asked for: the chip's events, a card that died, a guest that switched itself off.
    /// Gives what the log should say.
    pub fn look(&self) -> Vec<Entry> {
        let mut inner = self.lock();
        let mut entries = inner.chip_events();
        entries.extend(inner.losses());
        if inner.state.guest_runs()
            && inner.parts.board.status().is_ok_and(|b| b.power == Power::Off && b.boots > inner.boots)
            && inner.state.powered_off()
        {
            entries.push(Entry::event("instance.off", "the guest switched itself off"));
        }
        entries
    }
}

impl Inner {
    fn attach(&mut self, host: &HostId, request: &AttachVolume) -> Result<VolumeStatus, Refusal> {
        let id = &request.volume;
        if request.instance.is_some() {
            return Err(Refusal::of("hypervisor.absent"));
        }
        self.state.may_attach(id, request.slot)?;
        let storage = self.parts.storage.open_volume(id, request.size)?;
        if !self.state.guest_runs() {
            // A function is hot-plugged under a guest only: firmware finds what was there before it started.
            self.parts.chip.hold()?;
        }
        let (function, path) = self.parts.storage.listen(id)?;
        let attach = Attach {
            host: host.clone(),
            volume: id.clone(),
            device_name: request.device_name.to_string(),
            size: request.size,
            sealed_key: request.sealed_key.to_bytes(),
        };
        let device_name = request.device_name.clone();
        let mut volume = Volume { slot: request.slot, device_name, size: request.size, failed: false };
        let attached = self.parts.card.attach(attach, storage.as_fd(), function.as_fd());
        if let Err(refusal) = attached.and_then(|()| self.parts.board.plug(request.slot, &path)) {
            self.parts.storage.remove_socket(id);
            if self.parts.card.detach(id, true).is_err() {
                volume.failed = true;
                self.state.attached(id.clone(), volume);
            }
            return Err(refusal);
        }
        let status = volume_status(id, &volume, None);
        self.state.attached(id.clone(), volume);
        Ok(VolumeStatus { state: VolumeState::Waiting, ..status })
    }

    fn detach(&mut self, request: &DetachVolume) -> Result<Done, Refusal> {
        let volume = self.state.may_detach(&request.volume)?;
        let (slot, force) = (volume.slot, request.force || volume.failed);
        self.parts.card.detach(&request.volume, force)?;
        self.parts.storage.remove_socket(&request.volume);
        if let Err(refusal) = self.parts.board.unplug(slot) {
            self.state.failed(&request.volume);
            return Err(refusal);
        }
        self.state.detached(&request.volume);
        Ok(Done {})
    }

    fn drain(&mut self, drained: bool) -> Result<Done, Refusal> {
        self.keep(Kept { drained, ..self.settings.kept().clone() })
    }

    /// Takes the next keys of the token service: durable first, then in force.
    fn trust(&mut self, update: &UpdateTokenKeys) -> Result<Done, Refusal> {
        let keys = self.settings.follow(&update.key_set.to_bytes())?;
        self.keep(Kept { keys: Some(keys), ..self.settings.kept().clone() })
    }

    fn keep(&mut self, kept: Kept) -> Result<Done, Refusal> {
        self.settings.change(kept).map_err(|error| {
            tracing::error!(%error, "the host's settings cannot be written");
            Refusal::of("host.failed")
        })?;
        Ok(Done {})
    }

    /// Holds reset and releases it again, as at the boot: only for firmware that is known good.
    fn power_cycle(&mut self, known_good: &KnownGood) -> Result<Done, Refusal> {
        self.state.may_power_cycle()?;
        let hash = self.hold_and_verify(known_good)?;
        self.parts.chip.release(&hash)?;
        match self.parts.board.status()?.power {
            Power::Running => Ok(Done {}),
            Power::Held | Power::Off => Err(Refusal::of("board.fault")),
        }
    }

    /// What holds reset holds whatever ran; what is released next is what is measured here.
    fn hold_and_verify(&mut self, known_good: &KnownGood) -> Result<Sha256, Refusal> {
        self.parts.chip.hold()?;
        let verdict = boot::verify(&mut self.parts.chip, known_good);
        let boot::Verdict::Good(hash) = &verdict else {
            self.booted.out_of_service = verdict.objection();
            return Err(Refusal::of("host.out-of-service"));
        };
        self.booted.firmware = Some(hash.clone());
        Ok(hash.clone())
    }

    fn start(&mut self, known_good: &KnownGood, request: &StartInstance) -> Result<InstanceStatus, Refusal> {
        if request.instance_type != InstanceType::metal() {
            return Err(Refusal::of("hypervisor.absent"));
        }
        self.state.may_start(&request.instance, &request.root)?;
        let hash = self.hold_and_verify(known_good)?;
        self.boots = self.parts.board.status()?.boots;
        self.parts.chip.release(&hash)?;
        Ok(self
            .state
            .started(request.instance.clone(), request.root.clone(), request.instance_type.clone())
            .into())
    }

    /// Components that are gone, each told once.
    fn losses(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(violation) = self.parts.card.violation() {
            let detail = "the volume card made a call that its sandbox forbids, and was ended";
            entries.push(Entry::event(violation.code(), detail));
        }
        for (code, what) in self.parts.lost() {
            let volumes = if code == "card.gone" { self.state.card_died() } else { 0 };
            if self.told.insert(code) {
                entries.push(Entry::event(
                    code,
                    &format!("{what} is gone; {} lost it", counted(volumes as u64, "volume")),
                ));
            }
        }
        entries
    }

    fn chip_events(&mut self) -> Vec<Entry> {
        let Ok((events, dropped)) = self.parts.chip.events(self.last_event) else { return Vec::new() };
        self.last_event = events.iter().map(|event| event.seq).max().unwrap_or(self.last_event);
        self.throttle.pass(&events, dropped)
    }
}

fn volume_status(
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
    VolumeStatus {
        volume: id.clone(),
        instance: None,
        slot: volume.slot,
        device_name: volume.device_name.clone(),
        size: volume.size,
        state,
        reads: function.map_or(0, |function| function.reads),
        writes: function.map_or(0, |function| function.writes),
        errors: function.map_or(0, |function| function.errors),
    }
}

fn json<T: host_api::Datum>(answer: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(answer).map_err(|_| Refusal::of("host.failed"))
}
