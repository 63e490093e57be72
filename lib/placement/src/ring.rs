//! Whole cores that a few burstable instances use in turn. One instance has all of a ring's cores, or none: two
//! never share a core, so nothing can run on the sibling of another's thread.

use crate::credits::Credits;
use ids::InstanceId;
use std::collections::BTreeMap;

/// Microseconds of a turn at most. Shorter turns answer sooner and flush more often.
pub const TURN: u64 = 10_000;
/// A standard instance waits until it can afford this many microseconds.
pub(crate) const SHORTEST: u64 = TURN / 2;
/// The sum of the baselines of a ring's members, in ten-thousandths. What is left pays for changing over.
const ADMIT: u32 = 9_000;

/// What an instance did since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub instance: InstanceId,
    /// vCPU microseconds used. More than there were is cut.
    pub used: u64,
    /// Whether any vCPU has something to do.
    pub wants: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Member {
    credits: Credits,
    wants: bool,
    /// Microseconds of turns, each divided by the baseline: the smallest is next.
    virtual_time: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Turn {
    pub(crate) instance: InstanceId,
    pub(crate) until: u64,
    since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ring {
    /// The node, by its place in the topology.
    pub(crate) node: usize,
    /// Cores, by their places in the node.
    pub(crate) cores: Vec<usize>,
    members: BTreeMap<InstanceId, Member>,
    pub(crate) turn: Option<Turn>,
    /// The virtual time of whoever was chosen last: nobody comes back with less.
    floor: u64,
}

impl Ring {
    pub(crate) fn new(node: usize, cores: Vec<usize>) -> Self {
        Self { node, cores, members: BTreeMap::new(), turn: None, floor: 0 }
    }

    /// The baselines of all members, in ten-thousandths.
    pub(crate) fn load(&self) -> u32 {
        self.members.values().map(|member| member.credits.kind().baseline).sum()
    }

    pub(crate) fn admits(&self, baseline: u32) -> bool {
        self.members.is_empty() || self.load() + baseline <= ADMIT
    }

    pub(crate) fn join(&mut self, instance: InstanceId, credits: Credits) {
        let member = Member { credits, wants: true, virtual_time: self.floor };
        self.members.insert(instance, member);
    }

    pub(crate) fn has_turn(&self, instance: &InstanceId) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.instance == *instance)
    }

    /// Takes a member out.
    pub(crate) fn leave(&mut self, instance: &InstanceId) -> Option<Credits> {
        self.turn.take_if(|turn| turn.instance == *instance);
        Some(self.members.remove(instance)?.credits)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn credits(&mut self, instance: &InstanceId) -> Option<&mut Credits> {
        self.members.get_mut(instance).map(|member| &mut member.credits)
    }

    pub(crate) fn account(&self, instance: &InstanceId) -> Option<&Credits> {
        self.members.get(instance).map(|member| &member.credits)
    }

    /// Counts what was earned up to `now`, and what was used. Who has the turn is counted when it reports.
    pub(crate) fn count(&mut self, now: u64, reports: &[Report]) {
        for member in self.members.values_mut() {
            member.credits.earn(now);
        }
        for report in reports {
            let Some(member) = self.members.get_mut(&report.instance) else { continue };
            if report.wants && !member.wants {
                member.virtual_time = member.virtual_time.max(self.floor);
            }
            member.wants = report.wants;
            if self.turn.as_ref().is_some_and(|turn| turn.instance == report.instance) {
                self.used(now, Some(report.used));
            }
        }
    }

    /// Who has the turn has used this many vCPU microseconds since it was last counted; unless told, all.
    pub(crate) fn used(&mut self, now: u64, used: Option<u64>) {
        let Some(turn) = &mut self.turn else { return };
        let Some(member) = self.members.get_mut(&turn.instance) else { return };
        let micros = now.saturating_sub(turn.since);
        turn.since = turn.since.max(now);
        let most = micros.saturating_mul(u64::from(member.credits.kind().vcpus));
        member.credits.spend(used.unwrap_or(most).min(most));
        let virtual_micros = micros.saturating_mul(10_000) / u64::from(member.credits.kind().baseline);
        member.virtual_time = member.virtual_time.saturating_add(virtual_micros);
    }

    /// Whether whoever has the turn must give it up.
    pub(crate) fn over(&self, now: u64) -> bool {
        self.turn.as_ref().is_some_and(|turn| {
            now >= turn.until || !self.members.get(&turn.instance).is_some_and(|member| member.wants)
        })
    }

    /// Who has the next turn, and until when.
    pub(crate) fn next(&mut self, now: u64) -> Option<Turn> {
        let affordable = |member: &Member| member.credits.affords().unwrap_or(TURN).min(TURN);
        let able = self.members.iter().filter(|(_, member)| member.wants && affordable(member) >= SHORTEST);
        let (instance, member) = able.min_by_key(|(_, member)| member.virtual_time)?;
        self.floor = self.floor.max(member.virtual_time);
        let until = now.saturating_add(affordable(member));
        Some(Turn { instance: instance.clone(), until, since: now })
    }

    /// When something is to be done if nobody reports before.
    pub(crate) fn deadline(&self, now: u64) -> Option<u64> {
        if let Some(turn) = &self.turn {
            return Some(turn.until);
        }
        let waiting = self.members.values().filter(|member| member.wants);
        waiting.map(|member| now.saturating_add(member.credits.wait(SHORTEST))).min()
    }
}
