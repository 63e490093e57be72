use super::PAGE;
use crate::*;

pub(super) fn instance(number: u128) -> InstanceId {
    InstanceId::from_random(number)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    Unknown,
    Zero,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Guest {
    cpus: Vec<u32>,
    running: Option<Option<u64>>,
}

/// What the hardware would be like after the actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Board {
    pub(super) topology: Topology,
    pub(super) now: u64,
    pages: BTreeMap<(u16, u64), (Content, Option<InstanceId>)>,
    /// Whose traces each CPU may hold: nobody's only after a flush.
    traces: BTreeMap<u32, Option<InstanceId>>,
    guests: BTreeMap<InstanceId, Guest>,
    since: BTreeMap<InstanceId, u64>,
    ran: BTreeMap<InstanceId, u64>,
}

pub(super) fn board(nodes: usize, cores: usize, threads: usize, pages: u64) -> Board {
    let core = |node: usize, core: usize| {
        let first = (node * cores + core) * threads;
        Core { cpus: (first..first + threads).map(|cpu| u32::try_from(cpu).unwrap()).collect() }
    };
    let node = |node| Node { cores: (0..cores).map(|at| core(node, at)).collect(), pages };
    let topology = Topology { page_size: PAGE, nodes: (0..nodes).map(node).collect() };
    let all = (0..nodes).flat_map(|node| (0..pages).map(move |page| (u16::try_from(node).unwrap(), page)));
    let stranger = Some(instance(u128::MAX));
    let cpus = topology.nodes.iter().flat_map(|node| &node.cores).flat_map(|core| &core.cpus);
    Board {
        pages: all.map(|page| (page, (Content::Unknown, None))).collect(),
        traces: cpus.map(|cpu| (*cpu, stranger.clone())).collect(),
        guests: BTreeMap::new(),
        since: BTreeMap::new(),
        ran: BTreeMap::new(),
        now: 0,
        topology,
    }
}

fn each(extents: &[Extent]) -> impl Iterator<Item = (u16, u64)> {
    extents.iter().flat_map(|e| (e.first..e.first + e.count).map(|page| (e.node, page)))
}

impl Board {
    pub(super) fn carry_out(&mut self, actions: &[Action]) {
        for action in actions {
            self.one(action);
        }
    }

    fn one(&mut self, action: &Action) {
        match action {
            Action::Zero { pages, .. } => {
                for page in each(pages) {
                    let page = self.pages.get_mut(&page).expect("a page that there is");
                    assert_eq!(page.1, None, "somebody has it");
                    page.0 = Content::Zero;
                }
            }
            Action::Reserve { instance, memory } => {
                for page in each(memory) {
                    let page = self.pages.get_mut(&page).expect("a page that there is");
                    assert_eq!(*page, (Content::Zero, None), "zero, and nobody's");
                    *page = (Content::Unknown, Some(instance.clone()));
                }
            }
            Action::Pin { instance, vcpus } => {
                let cpus = vcpus.iter().map(|vcpu| vcpu.cpu).collect();
                assert!(self.guests.insert(instance.clone(), Guest { cpus, running: None }).is_none());
            }
            Action::Flush { cpus, .. } => {
                for cpu in cpus {
                    assert!(self.core(*cpu).iter().all(|cpu| cpus.contains(cpu)), "whole cores");
                    assert_eq!(self.runs_on(*cpu), None, "somebody runs there");
                    self.traces.insert(*cpu, None);
                }
            }
            Action::Run { instance, until } => self.run(instance, *until),
            Action::Pause { instance } => {
                let guest = self.guests.get_mut(instance).expect("it is there");
                assert!(guest.running.take().is_some(), "it ran");
                let since = self.since.remove(instance).unwrap();
                *self.ran.entry(instance.clone()).or_default() += self.now - since;
            }
            Action::Release { instance } => {
                assert_eq!(self.guests.get(instance).and_then(|guest| guest.running), None, "it still runs");
                self.kill(instance);
            }
        }
    }

    fn run(&mut self, instance: &InstanceId, until: Option<u64>) {
        let guest = self.guests.get_mut(instance).expect("pinned before it runs");
        guest.running = Some(until);
        self.since.entry(instance.clone()).or_insert(self.now);
        for cpu in guest.cpus.clone() {
            for sibling in self.core(cpu) {
                let there = self.runs_on(sibling);
                assert!(there.is_none_or(|there| there == *instance), "another on the core");
                let trace = self.traces.insert(sibling, Some(instance.clone())).unwrap();
                assert!(trace.is_none_or(|trace| trace == *instance), "traces of another");
            }
        }
    }

    /// The process and its mappings go away, at whatever point it was.
    pub(super) fn kill(&mut self, instance: &InstanceId) {
        self.guests.remove(instance);
        self.since.remove(instance);
        for page in self.pages.values_mut().filter(|page| page.1.as_ref() == Some(instance)) {
            *page = (Content::Unknown, None);
        }
    }

    fn core(&self, cpu: u32) -> Vec<u32> {
        let mut cores = self.topology.nodes.iter().flat_map(|node| &node.cores);
        cores.find(|core| core.cpus.contains(&cpu)).expect("a CPU that there is").cpus.clone()
    }

    fn runs_on(&self, cpu: u32) -> Option<InstanceId> {
        let running =
            |(_, guest): &(&InstanceId, &Guest)| guest.running.is_some() && guest.cpus.contains(&cpu);
        self.guests.iter().find(running).map(|(instance, _)| instance.clone())
    }

    /// Microseconds for which it had its CPUs.
    pub(super) fn ran(&self, instance: &InstanceId) -> u64 {
        let now = self.since.get(instance).map_or(0, |since| self.now - since);
        self.ran.get(instance).copied().unwrap_or_default() + now
    }

    /// Looks at everything at once.
    pub(super) fn agrees_with(&self, placement: &Placement) {
        for (instance, guest) in &self.guests {
            let booked = placement.vcpus(instance).expect("what runs is in the books");
            assert_eq!(booked.iter().map(|vcpu| vcpu.cpu).collect::<Vec<_>>(), guest.cpus);
            let booked: Vec<_> = each(placement.memory(instance).unwrap()).collect();
            let held = self.pages.iter().filter(|(_, page)| page.1.as_ref() == Some(instance));
            assert_eq!(held.count(), booked.len());
            assert!(booked.iter().all(|page| self.pages[page].1.as_ref() == Some(instance)));
            // A fixed instance has its cores to itself, whether it runs or not.
            let fixed = placement.credits(instance).is_none();
            let mine: Vec<_> = guest.cpus.iter().flat_map(|cpu| self.core(*cpu)).collect();
            let others = self.guests.iter().filter(|(other, _)| fixed && *other != instance);
            assert!(others.flat_map(|(_, other)| &other.cpus).all(|cpu| !mine.contains(cpu)));
            if let Some(credits) = placement.credits(instance) {
                credits.in_bounds();
            }
        }
    }
}
