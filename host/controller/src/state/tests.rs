use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    Attach(u8, u8, bool),
    Detach(u8, bool),
    CardDies,
    Start(u8, u8),
    Stop(u8),
    StopEnds(bool),
    PowersOff,
}

fn volume(n: u8) -> VolumeId {
    VolumeId::from_random(n.into())
}

fn instance(n: u8) -> InstanceId {
    InstanceId::from_random(n.into())
}

fn slot(n: u8) -> Slot {
    Slot::try_from(n).unwrap()
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8, 1..4u8, any::<bool>()).prop_map(|(v, s, fails)| Step::Attach(v, s, fails)),
        3 => (0..4u8, any::<bool>()).prop_map(|(v, fails)| Step::Detach(v, fails)),
        1 => Just(Step::CardDies),
        3 => (0..2u8, 0..4u8).prop_map(|(i, v)| Step::Start(i, v)),
        2 => (0..2u8).prop_map(Step::Stop),
        2 => any::<bool>().prop_map(Step::StopEnds),
        1 => Just(Step::PowersOff),
    ]
}

/// Plays a step as the orchestration would.
fn play(state: &mut State, step: &Step) -> Result<(), Refusal> {
    match *step {
        Step::Attach(v, s, failed) => {
            state.may_attach(&volume(v), slot(s))?;
            let device_name = "/dev/sdf".parse().unwrap();
            state.attached(volume(v), Volume { slot: slot(s), device_name, size: 4096, failed });
        }
        Step::Detach(v, fails) => {
            state.may_detach(&volume(v))?;
            if fails { state.failed(&volume(v)) } else { state.detached(&volume(v)) }
        }
        Step::CardDies => drop(state.card_died()),
        Step::Start(i, v) => {
            state.may_start(&instance(i), &volume(v))?;
            state.started(instance(i), volume(v), InstanceType::metal());
        }
        Step::Stop(i) => drop(state.stopping(&instance(i))?),
        Step::StopEnds(well) => match (&state.instance, well) {
            (Some(Instance { state: InstanceState::Stopping, .. }), true) => state.stopped(),
            (Some(Instance { state: InstanceState::Stopping, .. }), false) => state.stop_failed(),
            _ => {}
        },
        Step::PowersOff => drop(state.powered_off()),
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_must_always_hold_holds(steps in vec(steps(), 0..60)) {
        let mut state = State::default();
        for step in &steps {
            let before = (state.volumes.clone(), state.instance.clone());
            let played = play(&mut state, step);
            if let Err(refusal) = &played {
                prop_assert_eq!(&before, &(state.volumes.clone(), state.instance.clone()), "{:?} changed something", step);
                prop_assert!(host_api::refusal(refusal.code).is_some());
            }
            let slots: BTreeSet<_> = state.volumes.values().map(|v| v.slot).collect();
            prop_assert_eq!(slots.len(), state.volumes.len(), "two volumes in a slot");
            if let Some(instance) = &state.instance {
                prop_assert!(state.volumes.contains_key(&instance.root), "an instance without its root volume");
            }
            let stopping = |i: &Option<Instance>| i.as_ref().is_some_and(|i| i.state == InstanceState::Stopping);
            if stopping(&before.1) && !matches!(step, Step::StopEnds(_)) {
                prop_assert_eq!(&before.1, &state.instance, "a stop was overtaken");
            }
            if let (Ok(()), Step::Start(i, v)) = (&played, step) {
                prop_assert!(before.0.get(&volume(*v)).is_some_and(|root| !root.failed));
                prop_assert!(before.1.is_none_or(|old| old.id == instance(*i) && old.state == InstanceState::Off));
            }
        }
    }
}

#[test]
fn the_codes_say_what_is_wrong() {
    let mut state = State::default();
    play(&mut state, &Step::Attach(1, 1, false)).unwrap();
    let code = |state: &mut State, step| play(state, &step).unwrap_err().code;
    assert_eq!(code(&mut state, Step::Attach(1, 2, false)), "volume.exists");
    assert_eq!(code(&mut state, Step::Attach(2, 1, false)), "slot.taken");
    assert_eq!(code(&mut state, Step::Detach(2, false)), "volume.unknown");
    assert_eq!(code(&mut state, Step::Start(1, 2)), "instance.no-root");
    assert_eq!(code(&mut state, Step::Stop(1)), "instance.unknown");
    play(&mut state, &Step::Start(1, 1)).unwrap();
    assert_eq!(code(&mut state, Step::Start(2, 1)), "instance.exists");
    assert_eq!(code(&mut state, Step::Detach(1, false)), "volume.root");
    play(&mut state, &Step::Stop(1)).unwrap();
    assert_eq!(code(&mut state, Step::Attach(2, 2, false)), "instance.changing");
    play(&mut state, &Step::StopEnds(true)).unwrap();
    assert_eq!(state.card_died(), 1);
    assert_eq!(state.card_died(), 0);
    assert_eq!(code(&mut state, Step::Start(1, 1)), "instance.no-root");
    play(&mut state, &Step::Detach(1, false)).unwrap();
}
