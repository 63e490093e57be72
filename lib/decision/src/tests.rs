use crate::{admission::*, kernel::*, quota::*, *};

fn good() -> Call<Native> {
    Call {
        times: Times {
            now: 100,
            floor: 90,
            skew: 5,
            issued: 95,
            not_before: 95,
            expires: 200,
            max_life: 900,
        },
        audience: true,
        holder: true,
        fresh: true,
        operation: true,
        resource: true,
        content: false,
        recorded: true,
        charge: Charge { used: 2, cost: 1, limit: 3 },
    }
}

fn told(edit: impl Fn(&mut Call<Native>)) -> Result<u64, Reason> {
    let mut call = good();
    edit(&mut call);
    decide(&Native, &call).result()
}

#[test]
fn a_call_is_granted_only_if_nothing_speaks_against_it() {
    assert_eq!(told(|_| ()), Ok(3));
    assert_eq!(told(|c| c.times.max_life = 104), Err(Reason::Life));
    assert_eq!(told(|c| c.times.expires = 95), Err(Reason::Life));
    assert_eq!(told(|c| c.audience = false), Err(Reason::Audience));
    assert_eq!(told(|c| c.holder = false), Err(Reason::Holder));
    assert_eq!(told(|c| c.fresh = false), Err(Reason::Fresh));
    assert_eq!(told(|c| c.operation = false), Err(Reason::Operation));
    assert_eq!(told(|c| c.resource = false), Err(Reason::Resource));
    assert_eq!(told(|c| c.content = true), Err(Reason::Content));
    assert_eq!(told(|c| c.charge.used = 3), Err(Reason::Quota));
    assert_eq!(told(|c| c.charge.cost = u64::MAX), Err(Reason::Quota));
    assert_eq!(told(|c| c.recorded = false), Err(Reason::Recorded));
    let all = |c: &mut Call<Native>| (c.audience, c.holder, c.content) = (false, false, true);
    assert_eq!(told(all), Err(Reason::Audience), "the first reason is told");
}

#[test]
fn skew_is_forgiven_before_the_time_and_not_after_it_and_the_clock_never_goes_back() {
    assert_eq!(told(|c| (c.times.now, c.times.floor) = (90, 0)), Ok(3));
    assert_eq!(told(|c| (c.times.now, c.times.floor) = (89, 0)), Err(Reason::NotYetValid));
    assert_eq!(told(|c| c.times.now = 199), Ok(3));
    assert_eq!(told(|c| c.times.now = 200), Err(Reason::Expired));
    assert_eq!(told(|c| c.times.floor = 200), Err(Reason::Expired));
}

#[test]
fn reasons_have_their_own_numbers() {
    for (n, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason.number(), n as u64 + 1);
        assert_eq!(refusal(reason.number()), Err(reason));
    }
    assert_eq!((refusal(0), Reason::from_number(12)), (Ok(()), None));
}

#[test]
fn a_window_gives_its_limit_once_and_a_new_one_when_it_has_ended() {
    let window = Window::new(1000, 60, 3).take(1000, 2).unwrap();
    assert_eq!(window.take(1059, 2), Err(Spent { left: 1, until: 1060 }));
    assert_eq!(window.take(0, 2), Err(Spent { left: 1, until: 1060 }), "the clock went back");
    let full = window.take(1059, 1).unwrap();
    assert_eq!((full.used, full.left(1059), full.left(1060)), (3, 0, 3));
    assert_eq!(full.take(1060, 3), Ok(Window { start: 1060, used: 3, ..full }));
    assert_eq!(full.take(5000, 4), Err(Spent { left: 3, until: u64::MAX }));
    assert_eq!(full.take(5000, u64::MAX), Err(Spent { left: 3, until: u64::MAX }));
    let endless = Window::new(0, 0, 1).take(5, 1).unwrap();
    assert_eq!(endless.take(u64::MAX, 1), Err(Spent { left: 0, until: u64::MAX }));
    let late = Window::new(u64::MAX, 60, 1).take(u64::MAX, 1).unwrap();
    assert_eq!(late.take(u64::MAX, 1), Err(Spent { left: 0, until: u64::MAX }));
}

/// Drives a call to its end over a log that takes `room` records; gives what was done, in order.
fn drive(gate: &mut Gate, asked: Result<Asked, Reason>, room: usize) -> (Vec<Step<Reason>>, Answer<Reason>) {
    let (mut admission, mut step) = gate.admit(asked);
    let mut done = Vec::new();
    loop {
        let event = match &step {
            Step::Write(_) if done.iter().filter(|step| matches!(step, Step::Write(_))).count() < room => {
                Event::Durable
            }
            Step::Write(_) => Event::Unlogged,
            Step::Act | Step::Observe => Event::Acted(Ok(())),
            Step::Answer(answer) => return (done, answer.clone()),
        };
        done.push(step);
        (admission, step) = admission.next(event);
    }
}

fn asked(token: u8, limit: u64) -> Result<Asked, Reason> {
    let mut call = good();
    call.charge.limit = limit;
    Ok(Asked { token: [token; 16], call, observes: false })
}

fn looks(token: u8, limit: u64) -> Result<Asked, Reason> {
    asked(token, limit).map(|asked| Asked { observes: true, ..asked })
}

fn gate() -> Gate {
    Gate::restart(0, 0, 2)
}

#[test]
fn a_call_is_recorded_then_done_then_recorded_then_answered() {
    let order = [Step::Write(Record::Intent), Step::Act, Step::Write(Record::Outcome(Ok(())))];
    assert_eq!(drive(&mut gate(), asked(1, 1), 9), (order.to_vec(), Answer::Done));
    let (done, answer) = drive(&mut gate(), asked(1, 1), 0);
    assert_eq!((done, answer), (vec![Step::Write(Record::Intent)], Answer::Unlogged), "no record, no act");
    assert_eq!(drive(&mut gate(), asked(1, 1), 1), (order.to_vec(), Answer::Unlogged));
    let refusal = vec![Step::Write(Record::Refusal(Reason::Audience))];
    assert_eq!(
        drive(&mut gate(), Err(Reason::Audience), 1),
        (refusal.clone(), Answer::Refused(Reason::Audience))
    );
    assert_eq!(drive(&mut gate(), Err(Reason::Audience), 0), (refusal, Answer::Unlogged));
}

#[test]
fn what_only_observes_is_recorded_whole_before_it_is_told() {
    let order = [Step::Observe, Step::Write(Record::Observation(Ok(())))];
    assert_eq!(drive(&mut gate(), looks(1, 1), 1), (order.to_vec(), Answer::Done));
    assert_eq!(
        drive(&mut gate(), looks(1, 1), 0),
        (order.to_vec(), Answer::Unlogged),
        "no record, no answer"
    );
    let refusal = vec![Step::Write(Record::Refusal(Reason::Quota))];
    assert_eq!(drive(&mut gate(), looks(1, 0), 9), (refusal, Answer::Refused(Reason::Quota)));
    let (observing, step) = gate().admit(looks(1, 1));
    assert_eq!(step, Step::Observe);
    assert_eq!(observing.clone().next(Event::Durable).1, Step::Answer(Answer::Unlogged), "out of turn");
    let (telling, _) = observing.next(Event::Acted(Err(Reason::Content)));
    assert_eq!(telling.clone().next(Event::Unlogged).1, Step::Answer(Answer::Unlogged));
    assert_eq!(telling.clone().next(Event::Acted(Ok(()))).1, Step::Answer(Answer::Unlogged));
    assert_eq!(telling.next(Event::Durable).1, Step::Answer(Answer::Refused(Reason::Content)));
}

#[test]
fn an_event_out_of_turn_acts_on_nothing() {
    for event in [Event::Acted(Ok(())), Event::Acted(Err(Reason::Life))] {
        let (admission, _) = gate().admit(asked(1, 1));
        assert_eq!(admission.next(event).1, Step::Answer(Answer::Unlogged));
    }
    let (admission, _) = gate().admit(asked(1, 1));
    let (acting, _) = admission.next(Event::Durable);
    let (over, step) = acting.clone().next(Event::Durable);
    assert_eq!(step, Step::Answer(Answer::Unlogged));
    assert_eq!(over.next(Event::Durable).1, Step::Answer(Answer::Unlogged));
    let (reporting, step) = acting.next(Event::Acted(Err(Reason::Content)));
    assert_eq!(step, Step::Write(Record::Outcome(Err(Reason::Content))));
    assert_eq!(reporting.next(Event::Durable).1, Step::Answer(Answer::Refused(Reason::Content)));
}

#[test]
fn a_token_is_used_as_often_as_it_says_and_no_restart_gives_uses_back() {
    let used_up = Answer::Refused(Reason::Quota);
    let mut gate = gate();
    assert_eq!(drive(&mut gate, asked(1, 2), 9).1, Answer::Done);
    assert_eq!(drive(&mut gate, asked(1, 2), 0).1, Answer::Unlogged, "counts although it was not done");
    assert_eq!(drive(&mut gate, asked(1, 2), 9).1, used_up);
    assert_eq!(drive(&mut gate, asked(2, 1), 9).1, Answer::Done);
    assert_eq!(drive(&mut gate, asked(3, 1), 9).1, used_up, "no room to count it");
    let mut again = Gate::restart(100, 0, 2);
    again.recount([1; 16], 200);
    again.recount([1; 16], 200);
    assert_eq!(drive(&mut again, asked(1, 2), 9).1, used_up);
    assert_eq!(drive(&mut again, asked(1, 3), 9).1, Answer::Done);
    // The token of `good` can have been used from 90 on.
    let mut short = Gate::restart(100, 91, 2);
    short.recount([1; 16], 200);
    assert_eq!(drive(&mut short, asked(1, 2), 9).1, used_up, "its first use may be in what was let go of");
    assert_eq!(drive(&mut Gate::restart(100, 91, 2), asked(1, 1), 9).1, used_up);
    assert_eq!(drive(&mut Gate::restart(100, 90, 2), asked(1, 1), 9).1, Answer::Done);
    assert_eq!(drive(&mut Gate::restart(200, 0, 2), asked(1, 1), 9).1, Answer::Refused(Reason::Expired));
}

#[test]
fn room_for_tokens_comes_back_when_others_have_expired() {
    let mut gate = gate();
    for token in 1..=2 {
        assert_eq!(drive(&mut gate, asked(token, 1), 9).1, Answer::Done);
    }
    let mut late = asked(3, 1).unwrap();
    (late.call.times.now, late.call.times.expires) = (200, 300);
    assert_eq!(drive(&mut gate, Ok(late), 9).1, Answer::Done);
    assert_eq!(
        drive(&mut gate, asked(1, 1), 9).1,
        Answer::Refused(Reason::Expired),
        "forgotten, and still no use"
    );
}
