//! Which cores and pages of a board an instance gets, and when it may use them: instances of fixed types have
//! whole cores for life, burstable ones take turns on whole cores and pay with CPU credits. It decides and keeps
//! the books; it touches no core and no page. It stands on the boundary between tenants of one host: what it gives
//! to two of them at one time, no other part of the system takes apart again.
//!
//! It is a state machine without I/O. Every step gives [`Action`]s, which must be carried out one after the other
//! before the next step is asked for. If one fails, the instance that it names is [released](Action::Release) at
//! once, what follows for it is left out, and [`Placement::stop`] is told. Times are microseconds of one clock that
//! does not go back.
//!
//! What holds after every action of every sequence of steps: no core and no page belongs to two instances, except
//! that members of a ring use its cores at different times; between two instances a core is flushed; memory is
//! zero when an instance gets it; nothing is promised that is not there.
#![forbid(unsafe_code)]

mod action;
mod credits;
mod pages;
mod ring;
mod topology;

pub use action::{Action, Cpus, PlacementError, Request, Vcpu};
pub use credits::{Burstable, Carried, Credits, Mode};
pub use pages::Extent;
pub use ring::{Report, TURN};
pub use topology::{Core, Node, Topology};

use ids::InstanceId;
use pages::Pool;
use ring::Ring;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holding {
    memory: Vec<Extent>,
    /// Nodes and cores.
    cores: Vec<(usize, usize)>,
    vcpus: u32,
    /// The ring of a burstable instance.
    ring: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    pool: Pool,
    free: BTreeSet<usize>,
    /// Whose state each core may hold; nobody knows what ran there before the host started.
    last: Vec<Option<InstanceId>>,
}

/// The books.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    topology: Topology,
    places: Vec<Place>,
    holdings: BTreeMap<InstanceId, Holding>,
    rings: BTreeMap<u64, Ring>,
    opened: u64,
}

impl Placement {
    /// Books of a board on which nothing runs.
    pub fn new(topology: Topology) -> Result<Self, PlacementError> {
        topology.check()?;
        let place = |(index, node): (usize, &Node)| Place {
            pool: Pool::new(number(index), node.pages),
            free: (0..node.cores.len()).collect(),
            last: vec![None; node.cores.len()],
        };
        let places = topology.nodes.iter().enumerate().map(place).collect();
        Ok(Self { places, topology, holdings: BTreeMap::new(), rings: BTreeMap::new(), opened: 0 })
    }

    /// Gives an instance its memory and cores. A fixed one runs at once, a burstable one when a [`Self::tick`] says so.
    pub fn start(
        &mut self,
        now: u64,
        instance: &InstanceId,
        request: &Request,
    ) -> Result<Vec<Action>, PlacementError> {
        if self.holdings.contains_key(instance) {
            return Err(PlacementError::Placed);
        }
        if request.memory == 0 || !request.memory.is_multiple_of(self.topology.page_size) {
            return Err(PlacementError::MemorySize);
        }
        let pages = request.memory / self.topology.page_size;
        match &request.cpus {
            Cpus::Fixed { vcpus } => self.start_fixed(instance, *vcpus, pages),
            Cpus::Burstable { kind, mode, carried } => {
                kind.check()?;
                let credits = Credits::new(kind.clone(), *mode, carried.as_ref(), now);
                self.start_burstable(instance, credits, pages)
            }
        }
    }

    fn start_fixed(
        &mut self,
        instance: &InstanceId,
        vcpus: u32,
        pages: u64,
    ) -> Result<Vec<Action>, PlacementError> {
        let threads = self.topology.threads();
        let count = vcpus as usize / threads;
        if count == 0 || !(vcpus as usize).is_multiple_of(threads) {
            return Err(PlacementError::Type);
        }
        let nodes = self.nodes_for(count, pages)?;
        let (share, share_pages) = (count / nodes.len(), pages / nodes.len() as u64);
        let (mut cores, mut memory, mut dirty) = (Vec::new(), Vec::new(), Vec::new());
        for node in nodes {
            let Some(place) = self.places.get_mut(node) else { continue };
            let chosen: Vec<usize> = place.free.iter().copied().take(share).collect();
            place.free.retain(|core| !chosen.contains(core));
            cores.extend(chosen.into_iter().map(|core| (node, core)));
            let (all, unclean) = place.pool.take(share_pages);
            memory.extend(all);
            dirty.extend(unclean);
        }
        let holding = Holding { memory, cores, vcpus, ring: None };
        let mut actions = self.settle_in(instance, holding, dirty);
        actions.extend(self.flush(instance));
        actions.push(Action::Run { instance: instance.clone(), until: None });
        Ok(actions)
    }

    /// One node, the fullest that has enough; several, in equal parts, for what no node could ever hold.
    fn nodes_for(&self, cores: usize, pages: u64) -> Result<Vec<usize>, PlacementError> {
        let nodes = &self.topology.nodes;
        for parts in 1..=nodes.len() {
            let (share, share_pages) = (cores / parts, pages / parts as u64);
            let even = share * parts == cores && share_pages * parts as u64 == pages;
            let holds = |node: &&Node| node.cores.len() >= share && node.pages >= share_pages;
            if !even || nodes.iter().filter(holds).count() < parts {
                continue;
            }
            let enough = self.places.iter().enumerate().filter(|(_, place)| place.free.len() >= share);
            let mut able: Vec<_> = enough.collect();
            if able.len() < parts {
                return Err(PlacementError::Cores);
            }
            able.retain(|(_, place)| place.pool.free() >= share_pages);
            able.sort_by_key(|(_, place)| (place.free.len(), place.pool.free()));
            if able.len() < parts {
                return Err(PlacementError::Memory);
            }
            return Ok(able.into_iter().take(parts).map(|(node, _)| node).collect());
        }
        let all: usize = nodes.iter().map(|node| node.cores.len()).sum();
        Err(if all < cores { PlacementError::Cores } else { PlacementError::Memory })
    }

    fn start_burstable(
        &mut self,
        instance: &InstanceId,
        credits: Credits,
        pages: u64,
    ) -> Result<Vec<Action>, PlacementError> {
        let (vcpus, baseline) = (credits.kind().vcpus, credits.kind().baseline);
        let count = (vcpus as usize).div_ceil(self.topology.threads());
        let roomy = |node: usize| self.places.get(node).is_some_and(|place| place.pool.free() >= pages);
        let fits = |ring: &Ring| ring.cores.len() == count && roomy(ring.node) && ring.admits(baseline);
        let open = self.rings.iter().filter(|(_, ring)| fits(ring)).max_by_key(|(_, ring)| ring.load());
        let id = match open {
            Some((&id, _)) => id,
            None => self.open(count, pages)?,
        };
        let ring = self.rings.get_mut(&id).ok_or(PlacementError::Cores)?;
        let (node, cores) = (ring.node, ring.cores.clone());
        let place = self.places.get_mut(node).ok_or(PlacementError::Cores)?;
        ring.join(instance.clone(), credits);
        let (memory, dirty) = place.pool.take(pages);
        let cores = cores.into_iter().map(|core| (node, core)).collect();
        Ok(self.settle_in(instance, Holding { memory, cores, vcpus, ring: Some(id) }, dirty))
    }

    /// A new ring of so many free cores, on the fullest node that has them and the memory.
    fn open(&mut self, cores: usize, pages: u64) -> Result<u64, PlacementError> {
        let able = self.places.iter_mut().enumerate().filter(|(_, place)| place.free.len() >= cores);
        let mut able: Vec<_> = able.collect();
        if able.is_empty() {
            return Err(PlacementError::Cores);
        }
        able.retain(|(_, place)| place.pool.free() >= pages);
        let best = able.into_iter().min_by_key(|(_, place)| place.free.len());
        let (node, place) = best.ok_or(PlacementError::Memory)?;
        let chosen: Vec<usize> = place.free.iter().copied().take(cores).collect();
        place.free.retain(|core| !chosen.contains(core));
        self.opened += 1;
        self.rings.insert(self.opened, Ring::new(node, chosen));
        Ok(self.opened)
    }

    fn settle_in(&mut self, instance: &InstanceId, holding: Holding, dirty: Vec<Extent>) -> Vec<Action> {
        let mut actions = Vec::new();
        if !dirty.is_empty() {
            actions.push(Action::Zero { instance: Some(instance.clone()), pages: dirty });
        }
        actions.push(Action::Reserve { instance: instance.clone(), memory: holding.memory.clone() });
        actions.push(Action::Pin { instance: instance.clone(), vcpus: self.vcpus_of(&holding) });
        self.holdings.insert(instance.clone(), holding);
        actions
    }

    /// Takes everything back, and settles the account of a burstable instance. `used` is its vCPU microseconds since
    /// its last report; unless told, it pays for all that it could have used.
    pub fn stop(
        &mut self,
        now: u64,
        instance: &InstanceId,
        used: Option<u64>,
    ) -> Result<(Vec<Action>, Option<Credits>), PlacementError> {
        let holding = self.holdings.remove(instance).ok_or(PlacementError::Unknown)?;
        let mut running = true;
        let mut account = None;
        if let Some(ring) = holding.ring.and_then(|id| self.rings.get_mut(&id)) {
            ring.count(now, &[]);
            running = ring.has_turn(instance);
            if running {
                ring.used(now, used);
            }
            account = ring.leave(instance);
        }
        if let Some(account) = &mut account {
            account.settle();
        }
        let pause = running.then(|| Action::Pause { instance: instance.clone() });
        let actions = pause.into_iter().chain([Action::Release { instance: instance.clone() }]).collect();
        for extent in &holding.memory {
            if let Some(place) = self.places.get_mut(usize::from(extent.node)) {
                place.pool.give_back(extent);
            }
        }
        self.vacate(&holding, instance);
        Ok((actions, account))
    }

    /// Cores are free again unless others take turns on them.
    fn vacate(&mut self, holding: &Holding, instance: &InstanceId) {
        let shared = holding.ring.is_some_and(|id| self.rings.get(&id).is_some_and(|ring| !ring.is_empty()));
        if let Some(id) = holding.ring.filter(|_| !shared) {
            self.rings.remove(&id);
        }
        for (node, core) in &holding.cores {
            let Some(place) = self.places.get_mut(*node) else { continue };
            if !shared {
                place.free.insert(*core);
            }
            // It may be that it never got to its flush: whoever comes next, and be it the same, is not to rely on it.
            if let Some(last) = place.last.get_mut(*core).filter(|last| last.as_ref() == Some(instance)) {
                *last = None;
            }
        }
    }

    /// Counts, and passes on the turns that are over. Call it at [`Self::deadline`], and when an instance begins or
    /// ceases to want its CPUs.
    pub fn tick(&mut self, now: u64, reports: &[Report]) -> Vec<Action> {
        let rings: Vec<u64> = self.rings.keys().copied().collect();
        rings.into_iter().flat_map(|id| self.turn(now, id, reports)).collect()
    }

    fn turn(&mut self, now: u64, id: u64, reports: &[Report]) -> Vec<Action> {
        let Some(ring) = self.rings.get_mut(&id) else { return Vec::new() };
        ring.count(now, reports);
        if ring.turn.is_some() && !ring.over(now) {
            return Vec::new();
        }
        if !reports.iter().any(|report| ring.has_turn(&report.instance)) {
            ring.used(now, None);
        }
        let before = ring.turn.take().map(|turn| turn.instance);
        ring.turn = ring.next(now);
        let after = ring.turn.clone();
        let mut actions = Vec::new();
        let same = before.as_ref() == after.as_ref().map(|turn| &turn.instance);
        if let Some(instance) = before.filter(|_| !same) {
            actions.push(Action::Pause { instance });
        }
        if let Some(turn) = after {
            actions.extend(self.flush(&turn.instance));
            actions.push(Action::Run { instance: turn.instance, until: Some(turn.until) });
        }
        actions
    }

    /// Flushes those of its cores that may remember another.
    fn flush(&mut self, instance: &InstanceId) -> Option<Action> {
        let mut cpus = Vec::new();
        for (node, core) in &self.holdings.get(instance)?.cores {
            let last = self.places.get_mut(*node).and_then(|place| place.last.get_mut(*core));
            if let Some(last) = last.filter(|last| last.as_ref() != Some(instance)) {
                *last = Some(instance.clone());
                cpus.extend(self.topology.nodes.get(*node)?.cores.get(*core)?.cpus.iter().copied());
            }
        }
        (!cpus.is_empty()).then(|| Action::Flush { instance: instance.clone(), cpus })
    }

    /// When to call [`Self::tick`] if nothing happens before.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        self.rings.values().filter_map(|ring| ring.deadline(now)).min()
    }

    /// Changes what happens when no credits are left.
    pub fn switch(&mut self, now: u64, instance: &InstanceId, mode: Mode) -> Result<(), PlacementError> {
        let ring = self.holdings.get(instance).ok_or(PlacementError::Unknown)?.ring;
        let ring = ring.and_then(|id| self.rings.get_mut(&id)).ok_or(PlacementError::Type)?;
        ring.count(now, &[]);
        ring.credits(instance).ok_or(PlacementError::Unknown)?.switch(mode);
        Ok(())
    }

    /// Some dirty pages to zero while nobody waits for them; nobody gets them until [`Self::scrubbed`].
    pub fn scrub(&mut self, most: u64) -> Option<Action> {
        let pages = self.places.iter_mut().map(|place| place.pool.scrub(most));
        pages.into_iter().find(|pages| !pages.is_empty()).map(|pages| Action::Zero { instance: None, pages })
    }

    /// Whether the pages of all [`Self::scrub`]s are zero now.
    pub fn scrubbed(&mut self, zeroed: bool) {
        self.places.iter_mut().for_each(|place| place.pool.scrubbed(zeroed));
    }

    /// Where each vCPU runs: what the guest is told of its topology.
    pub fn vcpus(&self, instance: &InstanceId) -> Option<Vec<Vcpu>> {
        self.holdings.get(instance).map(|holding| self.vcpus_of(holding))
    }

    /// The memory of an instance.
    pub fn memory(&self, instance: &InstanceId) -> Option<&[Extent]> {
        self.holdings.get(instance).map(|holding| holding.memory.as_slice())
    }

    /// Whole cores that nobody has.
    pub fn free_cores(&self) -> u64 {
        self.places.iter().map(|place| place.free.len() as u64).sum()
    }

    /// Bytes that nobody has.
    pub fn free_bytes(&self) -> u64 {
        self.places.iter().map(|place| place.pool.free()).sum::<u64>() * self.topology.page_size
    }

    /// The account of a burstable instance, as of the last step.
    pub fn credits(&self, instance: &InstanceId) -> Option<&Credits> {
        self.rings.get(&self.holdings.get(instance)?.ring?)?.account(instance)
    }

    fn vcpus_of(&self, holding: &Holding) -> Vec<Vcpu> {
        let core = |(node, core): &(usize, usize)| {
            let cpus = self.topology.nodes.get(*node).and_then(|node| node.cores.get(*core));
            let (node, core) = (number(*node), u32::try_from(*core).unwrap_or(u32::MAX));
            let cpus = cpus.map_or(&[][..], |core| core.cpus.as_slice());
            cpus.iter().map(move |cpu| Vcpu { cpu: *cpu, core, node }).collect::<Vec<_>>()
        };
        holding.cores.iter().flat_map(core).take(holding.vcpus as usize).collect()
    }
}

/// The number of a node; [`Topology::check`] has seen that it fits.
fn number(node: usize) -> u16 {
    u16::try_from(node).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
