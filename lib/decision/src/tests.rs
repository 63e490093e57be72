use crate::{kernel::*, quota::*, *};

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
