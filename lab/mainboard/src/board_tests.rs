use super::*;
use proptest::prelude::*;

/// Records what it is told; `works` says whether it follows.
struct Recorder {
    told: Vec<String>,
    runs: bool,
    works: bool,
}

impl Recorder {
    fn follow(&mut self, what: String, runs: bool) -> Result<(), Fault> {
        self.told.push(what);
        self.runs = runs && self.works;
        if self.works { Ok(()) } else { Err(Fault::new("test.broken", "")) }
    }
}

impl Machine for Recorder {
    fn start(&mut self, functions: &Functions) -> Result<(), Fault> {
        let slots: Vec<_> = functions.keys().map(ToString::to_string).collect();
        self.follow(format!("start {}", slots.join(",")), true)
    }
    fn park(&mut self) -> Result<(), Fault> {
        self.follow("park".into(), false)
    }
    fn stop(&mut self) {
        self.told.push("stop".into());
        self.runs = false;
    }
    fn hot_plug(&mut self, slot: Slot, _: &Path) -> Result<(), Fault> {
        assert!(self.runs);
        self.told.push(format!("hot-plug {slot}"));
        if self.works { Ok(()) } else { Err(Fault::new("test.broken", "")) }
    }
    fn start_bmc(&mut self) -> Result<(), Fault> {
        if self.works { Ok(()) } else { Err(Fault::new("test.broken", "")) }
    }
    fn press_power_button(&mut self) -> Result<(), Fault> {
        assert!(self.runs);
        self.told.push("button".into());
        Ok(())
    }
}

fn recorder() -> Recorder {
    Recorder { told: vec![], runs: false, works: true }
}

fn slot(number: u8) -> Slot {
    Slot::try_from(number).unwrap()
}

fn plug(number: u8) -> Event {
    Event::Plug { slot: slot(number), socket: "/run/f.sock".into() }
}

const RELEASE: Event = Event::Lines(Lines::RELEASED);
const HOLD: Event = Event::Lines(Lines { bmc: Reset::Released, ..Lines::HELD });

/// Handles events one by one; the codes of the faults.
fn play(events: impl IntoIterator<Item = Event>, board: &mut Board, machine: &mut Recorder) -> Vec<String> {
    events
        .into_iter()
        .filter_map(|event| board.handle(event, machine).err())
        .map(|fault| fault.code)
        .collect()
}

#[test]
fn each_start_takes_what_is_plugged_then() {
    let (mut board, mut machine) = (Board::default(), recorder());
    let events = [HOLD, plug(3), RELEASE, plug(1), Event::Unplug { slot: slot(3) }, HOLD, RELEASE];
    assert!(play(events, &mut board, &mut machine).is_empty());
    assert_eq!(machine.told, ["start 3", "hot-plug 1", "park", "start 1"]);
    assert_eq!(board.status("tcg").boots, 2);
}

#[test]
fn a_slot_that_ran_is_spent_until_a_fresh_start() {
    let (mut board, mut machine) = (Board::default(), recorder());
    let away = || Event::Unplug { slot: slot(3) };
    let events = [HOLD, plug(3), plug(3), RELEASE, away(), away(), plug(3), Event::GuestReset, plug(3)];
    assert_eq!(play(events, &mut board, &mut machine), ["slot.busy", "slot.empty", "slot.spent"]);
    assert_eq!(machine.told, ["start 3", "start ", "hot-plug 3"]);
}

#[test]
fn the_guest_that_switches_off_stays_off_until_the_line_moves() {
    let (mut board, mut machine) = (Board::default(), recorder());
    let events = [RELEASE, Event::PowerButton, Event::GuestOff, Event::PowerButton];
    assert_eq!(play(events, &mut board, &mut machine), ["board.not-running"]);
    assert_eq!(board.status("tcg").power, Power::Off);
    assert!(play([RELEASE], &mut board, &mut machine).is_empty());
    assert_eq!(machine.told, ["start ", "button", "stop", "start "]);
}

#[test]
fn a_machine_that_does_not_start_or_take_a_function_is_not_said_to_have() {
    let (mut board, mut machine) = (Board::default(), recorder());
    machine.works = false;
    assert_eq!(play([RELEASE], &mut board, &mut machine), ["test.broken"]);
    assert_eq!(board.status("tcg").power, Power::Off);
    machine.works = true;
    assert!(play([RELEASE], &mut board, &mut machine).is_empty());
    machine.works = false;
    assert_eq!(play([plug(5)], &mut board, &mut machine), ["test.broken"]);
    assert!(board.status("tcg").slots.is_empty());
}

#[test]
fn a_held_management_controller_does_nothing() {
    let (mut board, mut machine) = (Board::default(), recorder());
    let cut = || Event::Lines(Lines::HELD);
    let events = [plug(3), HOLD, plug(3), cut(), Event::Unplug { slot: slot(3) }, Event::PowerButton];
    assert_eq!(play(events, &mut board, &mut machine), ["board.bmc-held"; 3]);
    assert_eq!(board.status("tcg").slots, [slot(3)]);
}

#[test]
fn sockets_must_be_absolute() {
    let event = Event::Plug { slot: slot(1), socket: "f.sock".into() };
    assert_eq!(play([HOLD, event], &mut Board::default(), &mut recorder()), ["slot.socket"]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let reset = || prop_oneof![Just(Reset::Held), Just(Reset::Released)];
    let lines = (reset(), reset(), reset()).prop_map(|(bmc, board, cpu)| Lines { bmc, board, cpu });
    (0..8, 1_u8..=4, lines).prop_map(|(kind, number, lines)| match kind {
        0 => RELEASE,
        1 => HOLD,
        7 => Event::Lines(lines),
        2 => plug(number),
        3 => Event::Unplug { slot: slot(number) },
        4 => Event::GuestReset,
        5 => Event::PowerButton,
        _ => Event::GuestOff,
    })
}

proptest! {
    #[test]
    fn processors_run_only_while_the_line_says_release(
        events in prop::collection::vec((any_event(), any::<bool>()), 0..40)
    ) {
        let (mut board, mut machine) = (Board::default(), recorder());
        let mut lines = Lines::HELD;
        for (event, works) in events {
            // A guest that does not run does nothing.
            if !machine.runs && matches!(event, Event::GuestReset | Event::GuestOff) {
                continue;
            }
            if let Event::Lines(now) = event {
                lines = now;
            }
            machine.works = works;
            let _ = board.handle(event, &mut machine);
            prop_assert!(!machine.runs || lines.run());
            prop_assert_eq!(machine.runs, board.status("tcg").power == Power::Running);
        }
    }
}
