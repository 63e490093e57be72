//! Who has a machine here and how it does: what placement decides is carried out on these books, one action after
//! the other.

use super::{
    End, Launcher, Machine,
    accelerators::{self, Accelerators, Held},
};
use crate::Refusal;
use ids::InstanceId;
use instance_types::{Class, InstanceType};
use placement::{Action, Carried, Placement, PlacementError, Report, Request};
use sandbox::Violation;
use std::{collections::BTreeMap, time::Duration};
use wire::hypervisor::{Create, Measurement, State};

/// Who used less of its turn than this many hundredths had nothing to do,
const BUSY: u64 = 5;
/// and is asked again after so many microseconds, if others want the cores meanwhile.
const ASK_AGAIN: u64 = 10_000;
/// Stopped instances whose credits are remembered.
const REMEMBERED: usize = 1024;
/// Ended instances whose console can still be read,
const CONSOLES: usize = 64;
/// and most pieces of it: two hold all that a hypervisor keeps.
const PIECES: usize = 4;

/// Console output, sealed: where each piece ends, and the piece.
pub(super) type Pieces = Vec<(u64, Vec<u8>)>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: &'static InstanceType,
    pub(super) create: Create,
    /// Functions of the host's hardware that it has.
    pub(super) accelerators: Held,
    /// None while it is built.
    pub(super) machine: Option<Machine>,
    pub(super) measurement: Option<Measurement>,
    /// Whether its processors are to run now.
    pub(super) runs: bool,
    /// Processor time that has been counted, in nanoseconds,
    pub(super) counted: u64,
    /// and when, in microseconds.
    pub(super) since: u64,
    /// When it is to be asked again whether it wants its cores.
    pub(super) asleep_until: u64,
    /// It did not do what placement said, and was ended.
    pub(super) failed: bool,
}

#[derive(Debug)]
pub(super) struct Books {
    pub(super) placement: Placement,
    pub(super) entries: BTreeMap<InstanceId, Entry>,
    pub(super) launcher: Launcher,
    /// Those that no entry has.
    pub(super) accelerators: Accelerators,
    /// Credits of burstable instances that were stopped here, and when.
    pub(super) stopped: BTreeMap<InstanceId, (u64, u64)>,
    /// What ended instances printed last, and when they ended.
    pub(super) consoles: BTreeMap<InstanceId, (u64, Pieces)>,
}

impl Books {
    /// Gives an instance its place, on one node: a guest is told of none, so one that spans several would not know
    /// which memory is near.
    pub(super) fn place(
        &mut self,
        now: u64,
        instance: &InstanceId,
        request: &Request,
    ) -> Result<Vec<Action>, PlacementError> {
        let actions = self.placement.start(now, instance, request)?;
        let vcpus = self.placement.vcpus(instance).unwrap_or_default();
        if vcpus.iter().all(|vcpu| Some(vcpu.node) == vcpus.first().map(|first| first.node)) {
            return Ok(actions);
        }
        // Nothing of it was carried out, so there is nothing to take back.
        self.placement.stop(now, instance, None)?;
        Err(PlacementError::Cores)
    }

    /// A machine is built: it runs if it is to.
    pub(super) fn settle(
        &mut self,
        instance: &InstanceId,
        mut machine: Machine,
        measurement: Measurement,
    ) -> Result<Measurement, Refusal> {
        let entry = self.entries.get_mut(instance).ok_or_else(|| Refusal::of("instance.unknown"))?;
        if entry.runs {
            machine.run(true)?;
        }
        (entry.machine, entry.counted) = (Some(machine), 0);
        entry.measurement = Some(measurement.clone());
        Ok(measurement)
    }

    /// Does what placement says. Memory is zeroed by the kernel when a hypervisor takes it, and reserved and pinned
    /// when the machine is built; cores are flushed by the kernel when the hypervisor's threads leave them, for which
    /// each hypervisor asks. What fails is ended, and placement hears of it.
    pub(super) fn carry_out(&mut self, now: u64, actions: Vec<Action>) {
        let mut failed = Vec::new();
        for action in actions {
            let (instance, run) = match action {
                Action::Run { instance, .. } => (instance, true),
                Action::Pause { instance } => (instance, false),
                Action::Zero { .. } | Action::Reserve { .. } | Action::Pin { .. } | Action::Flush { .. } => {
                    continue;
                }
                Action::Release { instance } => {
                    self.take_apart(&instance);
                    continue;
                }
            };
            let Some(entry) = self.entries.get_mut(&instance).filter(|entry| !entry.failed) else { continue };
            if !entry.run(now, run) {
                self.take_apart(&instance);
                failed.push(instance);
            }
        }
        for instance in failed {
            // Its process is gone already: nothing is left to carry out.
            let _ = self.placement.stop(now, &instance, None);
            if let Some(entry) = self.entries.get_mut(&instance) {
                entry.failed = true;
            }
        }
    }

    /// Ends a machine's process and waits until it is gone.
    pub(super) fn take_apart(&mut self, instance: &InstanceId) -> Option<Violation> {
        let entry = self.entries.get_mut(instance)?;
        if let Some(mut machine) = entry.machine.take() {
            // One that does not answer is killed.
            let _ = machine.stop();
        }
        let ended = self.launcher.end(instance);
        accelerators::release(&entry.accelerators);
        ended.unwrap_or_else(|refusal| {
            tracing::error!(%instance, code = refusal.code, "the launcher does not know how a hypervisor ended");
            None
        })
    }

    /// Takes an instance's machine, cores, memory and accelerators back.
    pub(super) fn release(&mut self, now: u64, instance: &InstanceId) -> Option<Violation> {
        let (mut violation, mut used) = (None, None);
        if let Some(entry) = self.entries.get_mut(instance) {
            used = (entry.is_burstable() && entry.runs).then(|| entry.report(now, false).0);
            let pieces = entry.last_words();
            self.keep_console(instance, pieces, now);
        }
        if let Ok((actions, account)) = self.placement.stop(now, instance, used) {
            if let Some(account) = account {
                self.remember(instance, account.balance(), now);
            }
            for action in actions {
                match action {
                    Action::Release { .. } => violation = self.take_apart(instance),
                    other => self.carry_out(now, vec![other]),
                }
            }
        }
        if let Some(Entry { kind, accelerators, .. }) = self.entries.remove(instance) {
            self.accelerators.give_back(kind, accelerators);
        }
        violation
    }

    fn remember(&mut self, instance: &InstanceId, balance: u64, now: u64) {
        if self.stopped.len() >= REMEMBERED
            && let Some(oldest) = self.stopped.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| id.clone())
        {
            self.stopped.remove(&oldest);
        }
        self.stopped.insert(instance.clone(), (balance, now));
    }

    fn keep_console(&mut self, instance: &InstanceId, pieces: Pieces, now: u64) {
        if pieces.is_empty() {
            return;
        }
        if self.consoles.len() >= CONSOLES
            && let Some(oldest) =
                self.consoles.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| id.clone())
        {
            self.consoles.remove(&oldest);
        }
        self.consoles.insert(instance.clone(), (now, pieces));
    }

    pub(super) fn carried(&self, instance: &InstanceId, now: u64) -> Option<Carried> {
        let (balance, at) = self.stopped.get(instance)?;
        Some(Carried { balance: *balance, stopped_for: Duration::from_micros(now.saturating_sub(*at)) })
    }

    /// It starts anew: what was kept of its last run counts no more.
    pub(super) fn forget(&mut self, instance: &InstanceId) {
        self.stopped.remove(instance);
        self.consoles.remove(instance);
    }

    /// What burstable instances did since they were last asked, and whether they want their cores.
    pub(super) fn reports(&mut self, now: u64) -> Vec<Report> {
        let rings: Vec<_> =
            self.entries.values().filter(|e| e.is_burstable()).map(|e| e.create.pins.clone()).collect();
        let burstable = self.entries.iter_mut().filter(|(_, entry)| entry.is_burstable());
        let report = |(instance, entry): (&InstanceId, &mut Entry)| {
            let contended = rings.iter().filter(|pins| **pins == entry.create.pins).count() > 1;
            let (used, wants) = entry.report(now, contended);
            Report { instance: instance.clone(), used, wants }
        };
        burstable.map(report).collect()
    }

    /// When to look again, if nothing happens before.
    pub(super) fn next(&self, now: u64) -> Option<u64> {
        let asleep = self.entries.values().map(|entry| entry.asleep_until).filter(|until| *until > now);
        asleep.chain(self.placement.deadline(now)).min()
    }
}

impl Entry {
    pub(super) fn new(kind: &'static InstanceType, create: Create, accelerators: Held, now: u64) -> Self {
        Self {
            kind,
            create,
            accelerators,
            machine: None,
            measurement: None,
            runs: false,
            counted: 0,
            since: now,
            asleep_until: 0,
            failed: false,
        }
    }

    fn is_burstable(&self) -> bool {
        matches!(self.kind.class, Class::Burstable { .. }) && !self.failed
    }

    /// False if the machine does not do it. One that is gone or off does nothing any more, which is as good as
    /// standing still: [`Hypervisors::look`] finds it.
    fn run(&mut self, now: u64, run: bool) -> bool {
        (self.runs, self.since) = (run, now);
        let Some(machine) = &mut self.machine else { return true };
        match machine.run(run) {
            Ok(()) => true,
            Err(refusal) => refusal.code == "hypervisor.gone" || machine.state().is_ok_and(has_ended),
        }
    }

    /// Microseconds of its processors since the last report, and whether it wants them.
    fn report(&mut self, now: u64, contended: bool) -> (u64, bool) {
        let Some(machine) = self.machine.as_mut().filter(|_| self.runs) else {
            return (0, now >= self.asleep_until);
        };
        let Ok(statistics) = machine.statistics() else { return (0, false) };
        let time: u64 = statistics.cpus.iter().filter_map(|cpu| cpu.cpu_ns).sum();
        let used = time.saturating_sub(self.counted) / 1000;
        let busy = used * 100 >= now.saturating_sub(self.since) * BUSY;
        (self.counted, self.since) = (time, now);
        let wants = !has_ended(statistics.state) && (busy || !contended);
        self.asleep_until = if wants { 0 } else { now + ASK_AGAIN };
        (used, wants)
    }

    /// What its console holds, still sealed.
    fn last_words(&mut self) -> Pieces {
        let (mut pieces, mut after) = (Vec::new(), 0);
        let Some(machine) = self.machine.as_mut().filter(|_| self.create.console_key.is_some()) else {
            return pieces;
        };
        while let Ok((next, sealed)) = machine.read_console(after)
            && !sealed.is_empty()
            && pieces.len() < PIECES
        {
            after = next;
            pieces.push((next, sealed));
        }
        pieces
    }

    /// How it ended, if it has and nobody was told.
    pub(super) fn end(&mut self) -> Option<End> {
        if self.failed {
            return Some(End::Failed);
        }
        match self.machine.as_mut()?.state() {
            Ok(State::Running | State::Paused) => None,
            Ok(State::Off) => Some(End::Off),
            Ok(State::Reset) => Some(End::Reset),
            Ok(State::Failed) => Some(End::Failed),
            Err(refusal) if refusal.code == "hypervisor.gone" => Some(End::Gone(None)),
            Err(_) => None,
        }
    }
}

fn has_ended(state: State) -> bool {
    matches!(state, State::Off | State::Reset | State::Failed)
}
