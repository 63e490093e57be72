//! Every sequence of steps of a small world.

use super::{Board, Step, board, burstable, fixed, instance, take};
use crate::*;
use std::collections::HashSet;

fn steps(placement: &Placement) -> Vec<Step> {
    let requests = [
        (0, fixed(2, 2)),
        (1, burstable(2, 4_000, Mode::Standard, 1)),
        (2, burstable(2, 4_000, Mode::Unlimited, 2)),
        (3, burstable(1, 4_000, Mode::Unlimited, 1)),
    ];
    let mut steps: Vec<Step> = requests
        .into_iter()
        .map(|(who, request)| match placement.memory(&instance(who)) {
            Some(_) => Step::Stop(who, Some(TURN)),
            None => Step::Start(who, request),
        })
        .collect();
    for wants in 0..4 {
        let report = |who: u128| (who, TURN, wants & who != 0);
        steps.push(Step::Tick(TURN, vec![report(1), report(2)]));
    }
    steps.push(Step::Scrub(1, true));
    steps
}

#[test]
fn every_short_sequence_keeps_the_books_right() {
    let board = board(1, 2, 2, 4);
    let placement = Placement::new(board.topology.clone()).unwrap();
    let mut seen = HashSet::from([(placement, board)]);
    let mut frontier: Vec<(Placement, Board)> = seen.iter().cloned().collect();
    for _ in 0..6 {
        let mut next = Vec::new();
        for (placement, board) in &frontier {
            for step in steps(placement) {
                let mut world = (placement.clone(), board.clone());
                take(&mut world.0, &mut world.1, &step);
                if seen.insert(world.clone()) {
                    next.push(world);
                }
            }
        }
        frontier = next;
    }
    assert!(seen.len() > 10_000, "{} worlds", seen.len());
}
