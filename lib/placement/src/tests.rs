//! A board that carries the actions out and knows by itself what must never happen.

mod board;
mod credits;
mod small_world;

use crate::*;
use board::{Board, board, instance};
use proptest::prelude::*;

const PAGE: u64 = 2 << 20;

fn fixed(vcpus: u32, pages: u64) -> Request {
    Request { memory: pages * PAGE, cpus: Cpus::Fixed { vcpus } }
}

fn burstable(vcpus: u32, baseline: u32, mode: Mode, pages: u64) -> Request {
    let cpus = Cpus::Burstable { kind: Burstable::third(vcpus, baseline), mode, carried: None };
    Request { memory: pages * PAGE, cpus }
}

#[derive(Debug, Clone)]
enum Step {
    Start(u128, Request),
    Stop(u128, Option<u64>),
    /// How much later, and who used what and wants more.
    Tick(u64, Vec<(u128, u64, bool)>),
    Switch(u128, bool),
    Scrub(u64, bool),
    /// The next start fails at this action.
    Fail(u128, Request, usize),
}

fn request() -> impl Strategy<Value = Request> {
    let mode = prop_oneof![Just(Mode::Standard), Just(Mode::Unlimited)];
    prop_oneof![
        (0..9_u32, 0..9_u64).prop_map(|(vcpus, pages)| fixed(vcpus, pages)),
        (0..6_u32, 0..5_000_u32, mode, 0..5_u64).prop_map(|(v, b, m, p)| burstable(v, b, m, p)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..8_u128;
    let reports = prop::collection::vec((who.clone(), 0..40_000_u64, any::<bool>()), 0..4);
    prop_oneof![
        4 => (who.clone(), request()).prop_map(|(who, request)| Step::Start(who, request)),
        2 => (who.clone(), prop::option::of(0..20_000_u64)).prop_map(|(who, used)| Step::Stop(who, used)),
        6 => (0..15_000_u64, reports).prop_map(|(later, reports)| Step::Tick(later, reports)),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, unlimited)| Step::Switch(who, unlimited)),
        1 => (0..6_u64, any::<bool>()).prop_map(|(most, zeroed)| Step::Scrub(most, zeroed)),
        1 => (who, request(), 0..4_usize).prop_map(|(who, request, at)| Step::Fail(who, request, at)),
    ]
}

/// Takes one step, carries it out, and looks at the books.
fn take(placement: &mut Placement, board: &mut Board, step: &Step) {
    let now = board.now;
    match step {
        Step::Start(who, request) => {
            let before = placement.clone();
            match placement.start(now, &instance(*who), request) {
                Ok(actions) => board.carry_out(&actions),
                Err(_) => assert_eq!(*placement, before, "a refusal changes nothing"),
            }
        }
        Step::Fail(who, request, at) => {
            if let Ok(actions) = placement.start(now, &instance(*who), request) {
                board.carry_out(&actions[..(*at).min(actions.len())]);
                board.kill(&instance(*who));
                placement.stop(now, &instance(*who), None).unwrap();
            }
        }
        Step::Stop(who, used) => {
            if let Ok((actions, account)) = placement.stop(now, &instance(*who), *used) {
                board.carry_out(&actions);
                assert_eq!(account.map_or(0, |account| account.surplus()), 0, "settled");
            }
        }
        Step::Tick(later, reports) => {
            board.now += later;
            let report =
                |&(who, used, wants): &(u128, u64, bool)| Report { instance: instance(who), used, wants };
            let reports: Vec<_> = reports.iter().map(report).collect();
            let actions = placement.tick(board.now, &reports);
            board.carry_out(&actions);
            assert_ne!(
                placement.deadline(board.now).map(|at| at <= board.now),
                Some(true),
                "nothing is left to do"
            );
        }
        Step::Switch(who, unlimited) => {
            let mode = if *unlimited { Mode::Unlimited } else { Mode::Standard };
            let _ = placement.switch(now, &instance(*who), mode);
        }
        Step::Scrub(most, zeroed) => {
            if let Some(action) = placement.scrub(*most) {
                board.carry_out(if *zeroed { std::slice::from_ref(&action) } else { &[] });
                placement.scrubbed(*zeroed);
            }
        }
    }
    board.agrees_with(placement);
}

proptest! {
    #[test]
    fn nothing_is_ever_shared_leaked_or_promised_twice(
        nodes in 1..4_usize,
        cores in 1..5_usize,
        threads in 1..3_usize,
        pages in 0..12_u64,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut board = board(nodes, cores, threads, pages);
        let mut placement = Placement::new(board.topology.clone()).unwrap();
        for step in &steps {
            take(&mut placement, &mut board, step);
        }
        // All that was given out comes back.
        for who in 0..8 {
            take(&mut placement, &mut board, &Step::Stop(who, None));
        }
        let all = nodes * cores * threads;
        if pages >= nodes as u64 && nodes * cores > 0 {
            let everything = fixed(u32::try_from(all).unwrap(), pages * nodes as u64);
            board.carry_out(&placement.start(board.now, &instance(9), &everything).unwrap());
        }
    }
}

#[test]
fn a_fixed_instance_is_near_its_memory_and_is_told_the_truth() {
    let mut board = board(2, 4, 2, 8);
    let mut placement = Placement::new(board.topology.clone()).unwrap();
    let mut start = |who, request: &Request| {
        let actions = placement.start(0, &instance(who), request)?;
        board.carry_out(&actions);
        let vcpus = placement.vcpus(&instance(who)).unwrap();
        let memory = placement.memory(&instance(who)).unwrap().to_vec();
        Ok::<_, PlacementError>((vcpus, memory))
    };
    let (vcpus, memory) = start(1, &fixed(4, 4)).unwrap();
    assert_eq!(vcpus.iter().map(|vcpu| vcpu.core).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(vcpus.iter().all(|vcpu| vcpu.node == memory[0].node));
    assert_eq!(start(2, &fixed(3, 1)), Err(PlacementError::Type), "half a core");
    assert_eq!(start(2, &fixed(0, 1)), Err(PlacementError::Type));
    assert_eq!(start(2, &fixed(2, 0)), Err(PlacementError::MemorySize));
    assert_eq!(start(1, &fixed(2, 1)), Err(PlacementError::Placed));
    // Small ones fill the node that is in use; the whole other one is left to those that need it.
    assert!(start(3, &fixed(4, 4)).unwrap().0.iter().all(|vcpu| vcpu.node == memory[0].node));
    assert_eq!(start(4, &fixed(16, 16)), Err(PlacementError::Cores), "not both nodes are free");
    assert_eq!(start(4, &fixed(2, 9)), Err(PlacementError::Memory), "one core cannot be near two nodes");
    assert_eq!(start(4, &fixed(2, 8)).unwrap().0[0].node, 1);
    assert_eq!(start(5, &fixed(2, 1)), Err(PlacementError::Memory));
}

#[test]
fn what_no_node_can_hold_is_split_in_equal_parts() {
    let board = board(2, 4, 2, 8);
    let mut placement = Placement::new(board.topology.clone()).unwrap();
    placement.start(0, &instance(1), &fixed(12, 12)).unwrap();
    let on = |node| placement.vcpus(&instance(1)).unwrap().iter().filter(|vcpu| vcpu.node == node).count();
    assert_eq!((on(0), on(1)), (6, 6));
    let pages = |node| {
        let memory = placement.memory(&instance(1)).unwrap();
        memory.iter().filter(|extent| extent.node == node).map(|extent| extent.count).sum::<u64>()
    };
    assert_eq!((pages(0), pages(1)), (6, 6));
}

#[test]
fn a_description_that_contradicts_itself_is_refused() {
    let good = board(1, 2, 2, 4).topology;
    let wrong = |change: fn(&mut Topology)| {
        let mut topology = good.clone();
        change(&mut topology);
        assert_eq!(Placement::new(topology).unwrap_err().code(), "placement.topology");
    };
    wrong(|topology| topology.page_size = 3);
    wrong(|topology| topology.nodes[0].pages = u64::MAX);
    wrong(|topology| topology.nodes[0].cores[1].cpus[0] = 0);
    wrong(|topology| topology.nodes[0].cores[1].cpus.truncate(1));
    wrong(|topology| topology.nodes[0].cores.iter_mut().for_each(|core| core.cpus.clear()));
}

/// Members that all want everything, without credits: each has its baseline, whoever pays for more beside it.
#[test]
fn everyone_has_at_least_its_baseline_under_full_load() {
    let mut board = board(1, 1, 2, 8);
    let mut placement = Placement::new(board.topology.clone()).unwrap();
    let baselines = [(0, 1_000), (1, 2_000), (2, 2_000), (3, 3_000)];
    for (who, baseline) in baselines {
        let request = burstable(2, baseline, Mode::Standard, 1);
        board.carry_out(&placement.start(0, &instance(who), &request).unwrap());
    }
    let hog = burstable(2, 1_000, Mode::Unlimited, 1);
    board.carry_out(&placement.start(0, &instance(4), &hog).unwrap());
    let full = placement.start(0, &instance(5), &burstable(2, 100, Mode::Standard, 1));
    assert_eq!(full.unwrap_err(), PlacementError::Cores, "the promises are used up");
    let hour = 3_600_000_000;
    while board.now < hour {
        let actions = placement.tick(board.now, &[]);
        board.carry_out(&actions);
        board.now = placement.deadline(board.now).unwrap();
    }
    for (who, baseline) in baselines {
        let had = board.ran(&instance(who));
        let promised = hour / 10_000 * u64::from(baseline);
        assert!(had.abs_diff(promised) < promised / 100, "{who}: {had} of {promised}");
    }
    assert!(board.ran(&instance(4)) > hour / 10);
}

/// Who slept for an hour has no hour's claim on the others.
#[test]
fn nobody_saves_up_turns_while_asleep() {
    let mut board = board(1, 1, 2, 8);
    let mut placement = Placement::new(board.topology.clone()).unwrap();
    for who in 0..2 {
        let request = burstable(2, 1_000, Mode::Unlimited, 1);
        board.carry_out(&placement.start(0, &instance(who), &request).unwrap());
    }
    let mut until = |end: u64, sleeper_wants: bool| {
        while board.now < end {
            let sleeper = Report { instance: instance(0), used: 0, wants: sleeper_wants };
            let actions = placement.tick(board.now, &[sleeper]);
            board.carry_out(&actions);
            board.now = placement.deadline(board.now).unwrap();
        }
        board.ran(&instance(0))
    };
    assert_eq!(until(3_600_000_000, false), 0);
    let woken = until(3_601_000_000, true);
    assert!((400_000..600_000).contains(&woken), "{woken} of a second");
}
