use super::*;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    /// Volume, instance whose machine it goes to, slot, whether it stops half way.
    Attach(u8, Option<u8>, u8, bool),
    Detach(u8, bool),
    CardDies,
    /// Instance, whether it gets the main board, root.
    Start(u8, bool, u8),
    Stop(u8),
    StopEnds(u8, bool),
    Ends(u8, bool),
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

fn kind(metal: bool) -> &'static InstanceType {
    instance_types::find(if metal { "metal" } else { "t2.micro" }).unwrap()
}

fn steps() -> impl Strategy<Value = Step> {
    let (i, v) = (|| 0..3u8, || 0..4u8);
    prop_oneof![
        4 => (v(), proptest::option::of(i()), 1..4u8, any::<bool>()).prop_map(|(v, i, s, f)| Step::Attach(v, i, s, f)),
        3 => (v(), any::<bool>()).prop_map(|(v, fails)| Step::Detach(v, fails)),
        1 => Just(Step::CardDies),
        4 => (i(), any::<bool>(), v()).prop_map(|(i, metal, v)| Step::Start(i, metal, v)),
        2 => i().prop_map(Step::Stop),
        2 => (i(), any::<bool>()).prop_map(|(i, well)| Step::StopEnds(i, well)),
        1 => (i(), any::<bool>()).prop_map(|(i, off)| Step::Ends(i, off)),
    ]
}

/// Plays a step as the orchestration would.
fn play(state: &mut State, step: &Step) -> Result<(), Refusal> {
    match *step {
        Step::Attach(v, i, s, failed) => {
            let place = state.place_of(i.map(instance).as_ref());
            state.may_attach(&volume(v), &place, slot(s))?;
            let device_name = "/dev/sdf".parse().unwrap();
            state.attached(volume(v), Volume { place, slot: slot(s), device_name, size: 4096, failed });
        }
        Step::Detach(v, fails) => {
            state.may_detach(&volume(v))?;
            if fails { state.failed(&volume(v)) } else { state.detached(&volume(v)) }
        }
        Step::CardDies => drop(state.card_died()),
        Step::Start(i, metal, v) => {
            state.may_start(&instance(i), kind(metal), &volume(v))?;
            state.started(instance(i), kind(metal), volume(v));
        }
        Step::Stop(i) => drop(state.stopping(&instance(i))?),
        Step::StopEnds(i, well) => match state.instance(&instance(i)).map(|instance| instance.state) {
            Some(InstanceState::Stopping) if well => state.stopped(&instance(i)),
            Some(InstanceState::Stopping) => state.stop_failed(&instance(i)),
            _ => {}
        },
        Step::Ends(i, off) => {
            state.ended(&instance(i), if off { InstanceState::Off } else { InstanceState::Failed });
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_must_always_hold_holds(steps in vec(steps(), 0..80)) {
        let mut state = State::default();
        for step in &steps {
            let before = (state.volumes.clone(), state.instances.clone());
            let played = play(&mut state, step);
            if let Err(refusal) = &played {
                prop_assert_eq!(&before, &(state.volumes.clone(), state.instances.clone()), "{:?} changed something", step);
                prop_assert!(host_api::refusal(refusal.code).is_some(), "{}", refusal.code);
            }
            let slots: BTreeSet<_> = state.volumes.values().map(|v| (format!("{:?}", v.place), v.slot)).collect();
            prop_assert_eq!(slots.len(), state.volumes.len(), "two volumes in a slot");
            prop_assert!(state.metal().is_none() || state.instances.len() == 1, "the board is shared");
            for (id, instance) in &state.instances {
                let root = state.volumes.get(&instance.root);
                prop_assert!(root.is_some(), "an instance without its root volume");
                prop_assert_eq!(&root.unwrap().place, &state.place_of(Some(id)), "another's root");
            }
            for (id, old) in &before.1 {
                let ended = matches!(step, Step::StopEnds(i, _) if instance(*i) == *id);
                prop_assert!(ended || old.state != InstanceState::Stopping || state.instances.get(id) == Some(old), "a stop was overtaken");
            }
            if let (Ok(()), Step::Start(i, _, v)) = (&played, step) {
                prop_assert!(before.0.get(&volume(*v)).is_some_and(|root| !root.failed));
                let over = |old: &Instance| matches!(old.state, InstanceState::Off | InstanceState::Failed);
                prop_assert!(before.1.get(&instance(*i)).is_none_or(over));
            }
        }
    }
}

#[test]
fn the_codes_say_what_is_wrong() {
    let mut state = State::default();
    let code = |state: &mut State, step| play(state, &step).unwrap_err().code;
    play(&mut state, &Step::Attach(1, None, 1, false)).unwrap();
    assert_eq!(code(&mut state, Step::Attach(1, None, 2, false)), "volume.exists");
    assert_eq!(code(&mut state, Step::Attach(2, None, 1, false)), "slot.taken");
    assert_eq!(code(&mut state, Step::Detach(2, false)), "volume.unknown");
    assert_eq!(code(&mut state, Step::Start(1, true, 2)), "instance.no-root");
    assert_eq!(code(&mut state, Step::Start(1, false, 1)), "instance.no-root", "it is on the main board");
    assert_eq!(code(&mut state, Step::Stop(1)), "instance.unknown");
    play(&mut state, &Step::Start(1, true, 1)).unwrap();
    assert_eq!(code(&mut state, Step::Start(2, true, 1)), "instance.exists");
    play(&mut state, &Step::Attach(3, Some(3), 1, false)).unwrap();
    assert_eq!(code(&mut state, Step::Start(3, false, 3)), "instance.class");
    assert_eq!(code(&mut state, Step::Detach(1, false)), "volume.root");
    play(&mut state, &Step::Stop(1)).unwrap();
    assert_eq!(code(&mut state, Step::Attach(2, None, 2, false)), "instance.changing");
    play(&mut state, &Step::StopEnds(1, true)).unwrap();
    play(&mut state, &Step::Start(3, false, 3)).unwrap();
    assert_eq!(code(&mut state, Step::Start(1, true, 1)), "instance.class");
    assert_eq!(state.card_died(), 2);
    assert_eq!(state.card_died(), 0);
    assert_eq!(code(&mut state, Step::Start(1, false, 1)), "instance.no-root");
    play(&mut state, &Step::Detach(1, false)).unwrap();
}
