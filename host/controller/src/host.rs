//! The orchestration: what each admitted request does to card, chip and main board, in which order, and
//! how a half-done act is taken back. One lock: acts happen one after the other.

use crate::{
    Refusal,
    attest::Attester,
    attestation::Attestation,
    board::Board,
    boot,
    card::Card,
    chip::{Chip, Firmware, counted},
    clock::Clock,
    firmware::Shelf,
    hypervisors::{Hypervisors, setup::Facts},
    log::Entry,
    log::{LogError, Writer},
    settings::{Kept, Settings, Trust},
    state::{Place, State},
    storage::Storage,
    watch::Throttle,
};
use host_api::{
    AcceleratorFamily, AttestHost, BoardStatus, ChipStatus, Done, FirmwareStatus, HostEvidence, HostStatus,
    HypervisorStatus, InstanceState, Measured, OutOfService, Pem, Power, Register, ReleaseStatus, Request,
    UpdateTokenKeys,
};
use ids::{HostId, Slot};
use service::Key;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use token::PublicKey;
use tokio::sync::Notify;

mod certificate;
mod instances;
mod numbers;
mod reset;
mod volumes;

pub use certificate::Certificates;
pub use reset::Eraser;

/// How often a stopping guest is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Who the host is.
pub struct Identity {
    /// Its name.
    pub host: HostId,
    /// Its certificate chain in PEM, as it was started with.
    pub certificate: Pem,
    /// Its key.
    pub key: Key,
}

/// What the boot found.
#[derive(Debug)]
pub struct Booted {
    /// What was measured.
    pub measurements: Vec<Measured>,
    /// The registers' values at the end.
    pub registers: Vec<Register>,
    /// The release that it runs.
    pub release: Option<ReleaseStatus>,
    /// The firmware that was measured.
    pub firmware: Option<Firmware>,
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
    /// The attestation card.
    pub attestation: Attestation,
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
            (self.attestation.is_there(), "attestation.gone", "the attestation card"),
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
    pub firmware: Firmware,
    /// All that its release has.
    pub shelf: Option<Shelf>,
    /// How long a guest has to end by itself, or to let go of a function.
    pub stop_grace: Duration,
    /// What it remembers.
    pub settings: Settings,
    /// What instances that share it run on.
    pub hypervisors: Option<(Arc<Hypervisors>, Facts)>,
    /// Who shows what it is.
    pub attester: Option<Attester>,
    /// What it shows callers, and takes in its place.
    pub certificates: Option<Certificates>,
    /// What it takes to reset it.
    pub eraser: Option<Eraser>,
}

/// The host.
pub struct Host {
    identity: Identity,
    firmware: Firmware,
    shelf: Option<Shelf>,
    stop_grace: Duration,
    hypervisors: Option<(Arc<Hypervisors>, Facts)>,
    attester: Option<Attester>,
    certificates: Option<Certificates>,
    eraser: Option<Eraser>,
    /// The certificate chain that it shows.
    shown: RwLock<Pem>,
    /// Told when the host is no more.
    ended: Arc<Notify>,
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
        let Rules { firmware, shelf, stop_grace, settings, hypervisors, attester, certificates, eraser } =
            rules;
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
        let host = Self {
            shown: RwLock::new(identity.certificate.clone()),
            identity,
            firmware,
            shelf,
            stop_grace,
            hypervisors,
            attester,
            certificates,
            eraser,
            ended: Arc::default(),
            log,
            clock,
            trust,
            inner: Mutex::new(inner),
        };
        host.resume_certificates();
        host
    }

    /// Told when the host is no more: it was reset.
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// The certificate chain that it shows.
    fn certificate(&self) -> Pem {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
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
                | Request::AttestHost(_)
                | Request::ListFirmware(_)
                | Request::VerifyFirmware(_)
                | Request::ReadLog(_)
                | Request::AcknowledgeLog(_)
                | Request::UpdateTokenKeys(_)
                | Request::OfferCertificate(_)
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
        } else if adds && let Some((lost, _)) = inner.parts.lost().next() {
            Err(Refusal::of(lost))
        } else {
            Ok(())
        }
    }

    /// Does what an admitted and logged request of `by` asks; gives the JSON text of the answer.
    pub fn act(&self, request: &Request, by: Option<&ids::Identity>) -> Result<Vec<u8>, Refusal> {
        match request {
            Request::ReadStatus(_) => json(&self.status()),
            Request::AttestHost(attest) => json(&self.evidence(attest)?),
            Request::ListFirmware(_) => json(&self.list_firmware(None)),
            Request::VerifyFirmware(_) => {
                let flash = self.lock().parts.chip.measure()?;
                json(&self.list_firmware(Some(&flash)))
            }
            Request::ReadLog(read) => Ok(self.log.page(read.after)?),
            Request::AcknowledgeLog(read) => match self.log.acknowledge(read.up_to) {
                Ok(_) => json(&Done {}),
                Err(LogError::Ahead(_)) => Err(Refusal::of("log.ahead")),
                Err(error) => Err(error.into()),
            },
            Request::UpdateTokenKeys(update) => json(&self.lock().trust(update)?),
            Request::DrainHost(_) => json(&self.lock().drain(true)?),
            Request::ResumeHost(_) => json(&self.lock().drain(false)?),
            Request::PowerCycleHost(_) => json(&self.lock().power_cycle(&self.firmware)?),
            Request::ResetHost(_) => json(&self.reset(by)?),
            Request::OfferCertificate(offer) => json(&self.offer(offer)?),
            Request::AttachVolume(attach) => json(&self.attach(attach)?),
            Request::DetachVolume(detach) => json(&self.detach(detach)?),
            Request::StartInstance(start) => json(&self.start(start)?),
            Request::StopInstance(stop) => json(&self.stop(stop)?),
            Request::ReadStatistics(read) => json(&self.statistics(read)?),
            Request::ReadConsole(read) => json(&self.read_console(read)?),
            Request::WriteConsole(write) => json(&self.write_console(write)?),
        }
    }

    /// The release's images; with what is in flash now, each is read again.
    fn list_firmware(&self, flash: Option<&Firmware>) -> FirmwareStatus {
        let nothing = FirmwareStatus { release: None, images: Vec::new() };
        self.shelf.as_ref().map_or(nothing, |shelf| shelf.list(flash))
    }

    /// What instances that share this host run on.
    fn hypervisors(&self) -> Result<&Hypervisors, Refusal> {
        self.hypervisors.as_ref().map(|(all, _)| &**all).ok_or_else(|| Refusal::of("hypervisor.absent"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evidence is also given when the host is out of service: it shows what differs.
    fn evidence(&self, request: &AttestHost) -> Result<HostEvidence, Refusal> {
        let events = self.lock().booted.measurements.clone();
        let attester = self.attester.as_ref().ok_or_else(|| Refusal::of("tpm.gone"))?;
        let identity = PublicKey(self.identity.key.public());
        attester.evidence(request, &identity, &self.certificate(), &events)
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
            registers: booted.registers.clone(),
            release: booted.release.clone(),
            chip: chip.map(|((reset_held, refused_writes), firmware)| ChipStatus {
                reset_held,
                refused_writes,
                firmware: firmware.code,
            }),
            board: parts.board.status().ok().map(without_own),
            card: Some(parts.card.status(
                &self.identity.host,
                self.identity.key.pair(),
                self.clock.seconds(),
            )),
            certificate: self.certificate(),
            volumes: state
                .volumes()
                .map(|(id, volume)| volumes::volume_status(id, volume, functions.get(id).filter(|_| there)))
                .collect(),
            instances: state.instances().map(|(id, instance)| self.describe(id, instance)).collect(),
            hypervisor: self.hypervisors.as_ref().map(|(all, facts)| hypervisor_status(all, facts)),
            log: self.log.status(),
        }
    }

    /// Looks at what nobody asked for: the chip's events, a card that died, guests that came to their end.
    /// Gives what the log should say.
    pub fn look(&self) -> Vec<Entry> {
        let mut inner = self.lock();
        inner.parts.attestation.renew(self.clock.seconds());
        let mut entries = inner.look();
        drop(inner);
        entries.extend(self.look_at_machines());
        entries
    }
}

impl Inner {
    fn look(&mut self) -> Vec<Entry> {
        let mut entries = self.chip_events();
        entries.extend(self.losses());
        let metal = self.state.metal().map(|(id, _)| id.clone());
        if let Some(metal) = metal.filter(|_| self.state.guest_runs(&Place::Board))
            && self.parts.board.status().is_ok_and(|b| b.power == Power::Off && b.boots > self.boots)
            && self.state.ended(&metal, InstanceState::Off)
        {
            entries.push(Entry::event("instance.off", "the guest switched itself off"));
        }
        entries
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
    fn power_cycle(&mut self, known_good: &Firmware) -> Result<Done, Refusal> {
        self.state.may_power_cycle()?;
        let hash = self.hold_and_verify(known_good)?;
        self.parts.chip.release(&hash)?;
        match self.parts.board.status()?.power {
            Power::Running => Ok(Done {}),
            Power::Held | Power::Off => Err(Refusal::of("board.fault")),
        }
    }

    /// What holds reset holds whatever ran; what is released next is what is measured here.
    fn hold_and_verify(&mut self, known_good: &Firmware) -> Result<Firmware, Refusal> {
        self.parts.chip.hold()?;
        let (code, message) = match self.parts.chip.measure() {
            Ok(found) if found == *known_good => {
                self.booted.firmware = Some(found.clone());
                return Ok(found);
            }
            Ok(found) => (
                "boot.firmware",
                format!(
                    "main-board firmware {found} is not the known-good one: repair the flash, then boot anew"
                ),
            ),
            Err(refusal) => ("boot.chip", format!("the firmware could not be measured: {}", refusal.message)),
        };
        self.booted.out_of_service = boot::out_of_service(code, &message);
        Err(Refusal::of("host.out-of-service"))
    }

    /// Components that are gone, each told once.
    fn losses(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Some(violation) = self.parts.card.violation() {
            let detail = "the volume card made a call that its sandbox forbids, and was ended";
            entries.push(Entry::event(violation.code(), detail));
        }
        if let Some(violation) = self.parts.attestation.violation() {
            let detail = "the attestation card made a call that its sandbox forbids, and was ended";
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

/// What is told of the board: the slot of the host's own function is nobody's business.
fn without_own(mut board: BoardStatus) -> BoardStatus {
    board.slots.retain(|slot| *slot != Slot::HOST);
    board
}

fn hypervisor_status(all: &Hypervisors, facts: &Facts) -> HypervisorStatus {
    let (free_cores, free_bytes) = all.room();
    HypervisorStatus {
        image: facts.image.clone(),
        virtualisation: facts.virtualisation,
        threads_per_core: all.threads_per_core(),
        free_cores,
        free_memory_mib: free_bytes >> 20,
        accelerators: all.accelerators().into_iter().filter_map(family).collect(),
        weaknesses: instances::weaknesses(all.weaknesses()),
    }
}

fn family((family, all, free): (&str, usize, usize)) -> Option<AcceleratorFamily> {
    Some(AcceleratorFamily { family: family.parse().ok()?, all: all as u64, free: free as u64 })
}

fn json<T: host_api::Datum>(answer: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(answer).map_err(|_| Refusal::of("host.failed"))
}
