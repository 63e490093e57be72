//! Instances start, stop and end: one on the whole main board, or several that share the host.

use super::{Components, Host, Inner, LOOK, numbers};
use crate::{
    Refusal,
    chip::Firmware,
    hypervisors::{End, Order},
    log::Entry,
    state::Instance,
};
use host_api::{
    ConsoleOutput, CreditMode, Done, InstanceMeasurement, InstanceState, InstanceStatus, Power, ReadConsole,
    ReadStatistics, SealedConsole, StartInstance, Statistics, StopInstance, Weakness, WriteConsole,
};
use ids::{InstanceId, Slot};
use instance_types::{Class, InstanceType};
use nsm::Extension;
use placement::Mode;
use std::{
    os::fd::AsFd,
    thread::sleep,
    time::{Duration, Instant},
};
use wire::{Fault, hypervisor::State};

impl Host {
    pub(super) fn start(&self, request: &StartInstance) -> Result<InstanceStatus, Refusal> {
        let kind = instance_types::find(request.instance_type.as_str())
            .ok_or_else(|| Refusal::of("instance.type"))?;
        match kind.class {
            Class::Metal => self.lock().start_metal(&self.firmware, request, kind, self.clock.seconds())?,
            _ => self.start_machine(request, kind)?,
        }
        let inner = self.lock();
        let started = inner.state.instance(&request.instance).ok_or_else(|| Refusal::of("host.failed"))?;
        Ok(self.describe(&request.instance, started))
    }

    fn start_machine(&self, request: &StartInstance, kind: &'static InstanceType) -> Result<(), Refusal> {
        let (hypervisors, facts) =
            self.hypervisors.as_ref().ok_or_else(|| Refusal::of("hypervisor.absent"))?;
        if self.is_production() && !hypervisors.weaknesses().is_empty() {
            return Err(Refusal::of("host.not-isolated"));
        }
        let mut inner = self.lock();
        inner.state.may_start(&request.instance, kind, &request.root)?;
        let mode = request.credits.map(|mode| match mode {
            CreditMode::Standard => Mode::Standard,
            CreditMode::Unlimited => Mode::Unlimited,
        });
        let order = Order {
            instance: request.instance.clone(),
            kind,
            mode,
            console_key: request.console_key.as_ref().map(|key| key.to_bytes().to_vec()),
        };
        inner.parts.attestation.attach(&request.instance, &facts.registers, None, self.clock.seconds())?;
        let started =
            inner.functions(&request.instance).and_then(|functions| hypervisors.start(order, functions));
        if let Err(refusal) = started {
            inner.parts.attestation.detach(&request.instance);
            return Err(refusal);
        }
        inner.state.started(request.instance.clone(), kind, request.root.clone());
        Ok(())
    }

    fn is_production(&self) -> bool {
        self.hypervisors.as_ref().is_some_and(|(_, facts)| facts.refuse_weaknesses)
    }

    /// The only act that waits for a guest to end: others go on meanwhile, the state refuses what would interfere.
    pub(super) fn stop(&self, request: &StopInstance) -> Result<Done, Refusal> {
        let id = &request.instance;
        let metal = self.lock().state.instance(id).is_some_and(Instance::is_metal);
        let runs = self.lock().state.stopping(id)?;
        let grace = if runs && !request.force { self.stop_grace } else { Duration::ZERO };
        if metal { self.stop_metal(id, grace) } else { self.stop_machine(id, grace) }
    }

    fn stop_metal(&self, id: &InstanceId, grace: Duration) -> Result<Done, Refusal> {
        if !grace.is_zero() && self.lock().parts.board.power_button().is_ok() {
            wait(grace, || self.lock().parts.board.status().is_ok_and(|b| b.power == Power::Running));
        }
        let mut inner = self.lock();
        match inner.parts.chip.hold() {
            Ok(()) => {
                inner.strip_board(id);
                inner.state.stopped(id);
                Ok(Done {})
            }
            Err(refusal) => {
                inner.state.stop_failed(id);
                Err(refusal)
            }
        }
    }

    fn stop_machine(&self, id: &InstanceId, grace: Duration) -> Result<Done, Refusal> {
        if let Some((hypervisors, _)) = &self.hypervisors {
            if !grace.is_zero() && hypervisors.ask(id, |machine| machine.press_power_button()).is_ok() {
                let runs = |state| matches!(state, State::Running | State::Paused);
                wait(grace, || hypervisors.ask(id, |machine| machine.state()).is_ok_and(runs));
            }
            hypervisors.stop(id);
        }
        let mut inner = self.lock();
        inner.let_go(id);
        inner.state.stopped(id);
        Ok(Done {})
    }

    pub(super) fn statistics(&self, request: &ReadStatistics) -> Result<Statistics, Refusal> {
        self.shares(&request.instance)?;
        let statistics = self.hypervisors()?.ask(&request.instance, |machine| machine.statistics())?;
        Ok(numbers::statistics(&statistics))
    }

    pub(super) fn read_console(&self, request: &ReadConsole) -> Result<ConsoleOutput, Refusal> {
        let (instance, hypervisors) = (&request.instance, self.hypervisors()?);
        let read = hypervisors.read_console(instance, request.after);
        let (next, sealed) = match read {
            Err(Refusal { code: "hypervisor.absent", .. }) => {
                return Err(self.shares(instance).err().unwrap_or_else(|| Refusal::of("hypervisor.absent")));
            }
            read => read?,
        };
        let sealed = SealedConsole::from_bytes(&sealed).map_err(|_| Refusal::of("hypervisor.fault"))?;
        Ok(ConsoleOutput { next, sealed })
    }

    pub(super) fn write_console(&self, request: &WriteConsole) -> Result<Done, Refusal> {
        self.shares(&request.instance)?;
        let sealed = request.sealed.to_bytes();
        self.hypervisors()?.ask(&request.instance, |machine| machine.write_console(sealed))?;
        Ok(Done {})
    }

    /// Whether an instance is here and shares the host: on the main board nobody but the guest knows.
    fn shares(&self, instance: &InstanceId) -> Result<(), Refusal> {
        match self.lock().state.instance(instance) {
            None => Err(Refusal::of("instance.unknown")),
            Some(known) if known.is_metal() => Err(Refusal::of("hypervisor.absent")),
            Some(_) => Ok(()),
        }
    }

    /// What is told of an instance.
    pub(super) fn describe(&self, id: &InstanceId, instance: &Instance) -> InstanceStatus {
        let shares = self.hypervisors.as_ref().filter(|_| !instance.is_metal()).map(|(all, _)| all);
        let (measurement, credits) = shares.map(|all| all.describe(id)).unwrap_or_default();
        let measurement = measurement.and_then(|measured| {
            Some(InstanceMeasurement {
                kernel: measured.kernel.parse().ok()?,
                initrd: measured.initrd.map(|hash| hash.parse()).transpose().ok()?,
                command_line: measured.command_line.parse().ok()?,
            })
        });
        InstanceStatus {
            instance: id.clone(),
            root: instance.root.clone(),
            instance_type: instance.kind.name.parse().unwrap_or_else(|_| host_api::InstanceType::metal()),
            state: instance.state,
            measurement,
            credits,
            weaknesses: shares.map(|all| weaknesses(all.weaknesses())).unwrap_or_default(),
        }
    }

    /// Machines that came to their end; those that were reset start afresh. Gives what the log should say.
    pub(super) fn look_at_machines(&self) -> Vec<Entry> {
        let Some((hypervisors, _)) = &self.hypervisors else { return Vec::new() };
        let ends = hypervisors.look();
        let told = ends.into_iter().filter_map(|(id, end)| {
            let mut inner = self.lock();
            let restarted = match end {
                End::Reset => inner.functions(&id).and_then(|functions| hypervisors.restart(&id, functions)),
                _ => {
                    inner.let_go(&id);
                    Ok(())
                }
            };
            let state = match (end, &restarted) {
                (End::Reset, Ok(())) => {
                    return Some(event("instance.reset", &id, "the guest asked for a reset"));
                }
                (End::Off, _) => InstanceState::Off,
                _ => InstanceState::Failed,
            };
            let (code, detail) = match end {
                End::Off => ("instance.off", "the guest switched itself off"),
                End::Reset => ("instance.failed", "it could not be started afresh after a reset"),
                End::Failed => {
                    ("instance.failed", "a processor could not go on, or did not stand still in time")
                }
                End::Gone(Some(violation)) => {
                    (violation.code(), "its hypervisor made a call that its sandbox forbids, and was ended")
                }
                End::Gone(None) => ("hypervisor.gone", "its hypervisor is gone"),
            };
            let expected = !inner.state.ended(&id, state) && end == End::Off;
            (!expected).then(|| event(code, &id, detail))
        });
        told.collect()
    }
}

impl Inner {
    fn start_metal(
        &mut self,
        known_good: &Firmware,
        request: &StartInstance,
        kind: &'static InstanceType,
        now: u64,
    ) -> Result<(), Refusal> {
        self.state.may_start(&request.instance, kind, &request.root)?;
        let hash = self.hold_and_verify(known_good)?;
        self.boots = self.parts.board.status()?.boots;
        let equipped = self.equip_board(&request.instance, &nsm::of_board(&hash.code.to_digest()), now);
        if let Err(refusal) = equipped.and_then(|()| self.parts.chip.release(&hash)) {
            self.strip_board(&request.instance);
            return Err(refusal);
        }
        self.state.started(request.instance.clone(), kind, request.root.clone());
        Ok(())
    }

    /// Gives the instance on the main board its attestation function; each start of the board is one of the instance.
    fn equip_board(&mut self, id: &InstanceId, image: &[Extension], now: u64) -> Result<(), Refusal> {
        let Components { attestation, board, storage, .. } = &mut self.parts;
        if !attestation.is_offered() {
            return Ok(());
        }
        board.unplug(Slot::HOST)?;
        let (socket, path) = storage.listen(id)?;
        attestation.attach(id, image, Some(socket.as_fd()), now)?;
        board.plug(Slot::HOST, &path)
    }

    fn strip_board(&mut self, id: &InstanceId) {
        let Components { attestation, board, storage, .. } = &mut self.parts;
        if !attestation.is_offered() {
            return;
        }
        attestation.detach(id);
        storage.remove_socket(id);
        if let Err(refusal) = board.unplug(Slot::HOST) {
            tracing::warn!(code = refusal.code, "the main board keeps a function that is gone");
        }
    }
}

/// Waits while something is so.
fn wait(most: Duration, is_so: impl Fn() -> bool) {
    let end = Instant::now() + most;
    while Instant::now() < end && is_so() {
        sleep(LOOK);
    }
}

fn event(code: &str, instance: &InstanceId, detail: &str) -> Entry {
    Entry::event(code, &format!("{instance}: {detail}"))
}

/// What is told of a host's weaknesses.
pub(super) fn weaknesses(found: &[Fault]) -> Vec<Weakness> {
    let told = |fault: &Fault| {
        Some(Weakness {
            code: fault.code.parse().ok()?,
            message: host_api::Sentence::from_lossy(&fault.message),
        })
    };
    found.iter().filter_map(told).collect()
}
