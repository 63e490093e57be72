use super::*;
use crate::entry::Observed;
use proptest::prelude::*;

fn host(n: u128) -> HostId {
    HostId::from_random(n)
}

fn attempt(request: u64) -> Attempt {
    Attempt {
        request: format!("{request:032x}").parse().unwrap(),
        token: None,
        api: Api::HostStatus,
        host: host(1),
        resources: Vec::new(),
        time: 0,
        caller: "azote:operator/alice".parse().unwrap(),
        code: None,
    }
}

fn record(request: u64, token: u64, more: &serde_json::Value) -> LogRecord {
    let mut record = serde_json::json!({
        "seq": 1, "time": "2026-01-02T03:04:05Z", "kind": "intent", "api": "HostStatus", "subject": "azote:operator/alice",
        "request": format!("{request:032x}"), "token": format!("{token:032x}"), "prev": "00".repeat(32),
    });
    record.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    serde_json::from_value(record).unwrap()
}

fn none() -> serde_json::Value {
    serde_json::json!({})
}

fn issued(token: u64, subject: &str, audience: u128) -> tokens::Entry {
    let text = serde_json::json!({
        "seq": 1, "time": 0, "kind": "issued", "subject": subject, "audience": host(audience), "token": format!("{token:032x}"),
    });
    serde_json::from_value(text).unwrap()
}

/// A comparison in which all logs were read just now, over and over.
fn after(reconciler: &mut Reconciler, now: u64) -> Vec<(&'static str, Option<String>)> {
    reconciler.read(Some(&host(1)), now);
    reconciler.read(None, now);
    let gaps = reconciler.due(now, |_| true);
    for gap in &gaps {
        reconciler.settle(now, gap.request.as_ref(), gap.token.as_ref());
    }
    gaps.into_iter().map(|gap| (gap.kind.code(), gap.request.map(|request| request.to_string()))).collect()
}

#[test]
fn what_both_sides_tell_in_any_order_is_no_gap() {
    for caller_first in [true, false] {
        let mut reconciler = Reconciler::new(GRACE);
        reconciler.issued(0, &issued(9, "azote:operator/alice", 1));
        if caller_first {
            assert_eq!(reconciler.attempt(1, &attempt(5)), None);
        }
        assert_eq!(reconciler.record(2, &host(1), &record(5, 9, &none())), []);
        if !caller_first {
            assert_eq!(reconciler.attempt(3, &attempt(5)), None);
        }
        assert!(after(&mut reconciler, 3 + 2 * GRACE).is_empty());
        assert!(reconciler.knows(&attempt(5)), "told again, it is not taken for another");
    }
}

#[test]
fn one_side_alone_is_a_gap_after_the_grace_and_only_once() {
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.issued(0, &issued(9, "azote:operator/alice", 1));
    reconciler.attempt(0, &attempt(1));
    reconciler.record(0, &host(1), &record(2, 9, &none()));
    assert!(after(&mut reconciler, GRACE - 1).is_empty());
    let request = |n: u64| Some(format!("{n:032x}"));
    assert_eq!(
        after(&mut reconciler, GRACE),
        [("audit.gap.unrecorded", request(1)), ("audit.gap.unclaimed", request(2))]
    );
    assert!(after(&mut reconciler, 10 * GRACE).is_empty());
}

#[test]
fn a_host_that_could_not_be_read_is_not_blamed_until_it_was() {
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.attempt(0, &attempt(1));
    assert!(reconciler.due(5 * GRACE, |_| true).is_empty());
    // This reading began before the call's time was over: the record may have come after it.
    reconciler.read(Some(&host(1)), GRACE - 1);
    assert!(reconciler.due(6 * GRACE, |_| true).is_empty());
    reconciler.read(Some(&host(1)), 6 * GRACE);
    assert_eq!(reconciler.due(7 * GRACE, |_| true).len(), 1);
}

#[test]
fn a_call_at_a_host_that_there_is_not_waits_for_nobody() {
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.attempt(0, &attempt(1));
    assert!(reconciler.due(GRACE - 1, |_| false).is_empty());
    let gaps = reconciler.due(GRACE, |known| *known == host(2));
    assert_eq!(gaps.iter().map(|gap| gap.kind).collect::<Vec<_>>(), [GapKind::Unrecorded]);
    assert_eq!(reconciler.open(), 0);
}

#[test]
fn a_call_that_did_not_come_as_far_as_the_host_is_taken_back_unless_the_host_knows_better() {
    let mut reconciler = Reconciler::new(GRACE);
    let withdrawn = |n| Attempt { code: "call.unreachable".parse().ok(), ..attempt(n) };
    reconciler.attempt(0, &attempt(1));
    assert!(!reconciler.knows(&withdrawn(1)));
    reconciler.attempt(1, &withdrawn(1));
    // Nobody takes back what somebody else told.
    reconciler.attempt(1, &attempt(2));
    let other = Attempt { caller: "azote:operator/eve".parse().unwrap(), ..withdrawn(2) };
    reconciler.attempt(1, &other);
    assert_eq!(after(&mut reconciler, 2 * GRACE).len(), 1);
}

#[test]
fn different_words_about_one_call_are_a_gap_at_once() {
    for change in [
        serde_json::json!({"api": "DrainHost"}),
        serde_json::json!({"subject": "azote:service/control-plane"}),
    ] {
        let mut reconciler = Reconciler::new(GRACE);
        reconciler.attempt(0, &attempt(1));
        let gaps = reconciler.record(1, &host(1), &record(1, 9, &change));
        assert_eq!(gaps[0].kind, GapKind::Differs);
        let observed = Observed::from(gaps[0].clone());
        assert_eq!(observed.code.unwrap().as_str(), "audit.gap.differs");
    }
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.record(0, &host(2), &record(1, 9, &none()));
    assert_eq!(reconciler.attempt(1, &attempt(1)).unwrap().kind, GapKind::Differs, "at another host");
}

#[test]
fn strangers_requests_are_nobodys_gap() {
    let mut reconciler = Reconciler::new(GRACE);
    let stranger =
        serde_json::json!({"kind": "refusal", "subject": null, "token": null, "code": "token.signature"});
    reconciler.record(0, &host(1), &record(1, 9, &stranger));
    assert!(after(&mut reconciler, 2 * GRACE).is_empty());
    // But who told of such a call has told of it.
    reconciler.attempt(3 * GRACE, &attempt(2));
    reconciler.record(3 * GRACE, &host(1), &record(2, 9, &stranger));
    assert!(after(&mut reconciler, 5 * GRACE).is_empty());
}

/// Who has stolen a token and its key chooses the ids of requests.
#[test]
fn an_act_does_not_pass_for_another_request_with_the_same_id() {
    let thief = serde_json::json!({"subject": "azote:service/control-plane"});
    let stranger =
        serde_json::json!({"kind": "refusal", "subject": null, "token": null, "code": "token.signature"});
    let of = |reconciler: &mut Reconciler, now, at, more: &_| {
        reconciler.record(now, &host(at), &record(1, 9, more))
    };
    // For one that was refused before anybody was known, soon or late.
    for later in [1, 3 * GRACE, GRACE + KEEP - 10] {
        let mut reconciler = Reconciler::new(GRACE);
        reconciler.issued(0, &issued(9, "azote:service/control-plane", 1));
        of(&mut reconciler, 0, 1, &stranger);
        assert!(after(&mut reconciler, later.min(GRACE)).is_empty());
        of(&mut reconciler, later, 1, &thief);
        after(&mut reconciler, later + GRACE / 2);
        let gaps = after(&mut reconciler, later + 2 * GRACE);
        let expected = [("audit.gap.unclaimed", Some(format!("{:032x}", 1)))];
        assert_eq!(gaps, expected, "after {later}");
    }
    // For the thief's own: one that was refused, one that was taken back, one that was done, here or at another host.
    let own = serde_json::json!({});
    let withdrawn = Attempt { code: "call.unreachable".parse().ok(), ..attempt(1) };
    for (told, recorded) in [(None, Some(&stranger)), (Some(&withdrawn), None), (None, Some(&own))] {
        let mut reconciler = Reconciler::new(GRACE);
        reconciler.issued(0, &issued(9, "azote:service/control-plane", 1));
        reconciler.attempt(0, &attempt(1));
        told.map(|told| reconciler.attempt(0, told));
        recorded.map(|recorded| of(&mut reconciler, 1, 2, recorded));
        let gaps = of(&mut reconciler, 2, 1, &thief);
        assert!(gaps.iter().any(|gap| gap.kind == GapKind::Differs), "{recorded:?}");
    }
    // A host that did get what the caller took back is no gap.
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.issued(0, &issued(9, "azote:operator/alice", 1));
    reconciler.attempt(0, &attempt(1));
    reconciler.attempt(0, &withdrawn);
    assert_eq!(of(&mut reconciler, 2, 1, &own), []);
}

#[test]
fn a_token_that_was_not_issued_so_is_a_gap() {
    let mut reconciler = Reconciler::new(GRACE);
    for request in 1..=4 {
        reconciler.attempt(0, &attempt(request));
    }
    reconciler.issued(0, &issued(1, "azote:operator/eve", 1));
    reconciler.issued(0, &issued(2, "azote:operator/alice", 2));
    for (request, token) in [(1, 1), (2, 2)] {
        let gaps = reconciler.record(1, &host(1), &record(request, token, &none()));
        assert_eq!(gaps[0].kind, GapKind::Unissued, "another's, or for another host");
    }
    // The journal may come later than the host's record.
    assert!(reconciler.record(1, &host(1), &record(3, 3, &none())).is_empty());
    assert!(reconciler.record(1, &host(1), &record(4, 4, &none())).is_empty());
    reconciler.issued(2, &issued(3, "azote:operator/alice", 1));
    assert_eq!(after(&mut reconciler, 2 * GRACE), [("audit.gap.unissued", None)]);
    let refused = serde_json::json!({"kind": "refusal", "code": "token.audience"});
    assert!(
        reconciler.record(3, &host(1), &record(9, 2, &refused)).is_empty(),
        "what is refused is not taken"
    );
}

#[test]
fn what_is_kept_reads_back() {
    let mut reconciler = Reconciler::new(GRACE);
    reconciler.attempt(0, &attempt(1));
    reconciler.record(0, &host(1), &record(2, 2, &none()));
    let text = serde_json::to_vec(&reconciler).unwrap();
    let mut again: Reconciler = serde_json::from_slice(&text).unwrap();
    again.resume(100 * GRACE);
    assert!(after(&mut again, 100 * GRACE).is_empty(), "everybody has the whole grace again");
    assert_eq!(after(&mut again, 102 * GRACE).len(), 3);
    assert_eq!(after(&mut reconciler, 102 * GRACE).len(), 3);
}

proptest! {
    /// Whatever is told in whatever order, in the end each call was told by both sides or is a gap exactly once.
    #[test]
    fn nothing_is_lost_and_nothing_told_twice(told in prop::collection::vec((any::<bool>(), 0..20_u64), 0..60)) {
        let mut reconciler = Reconciler::new(GRACE);
        reconciler.issued(0, &issued(0, "azote:operator/alice", 1));
        let mut gaps = Vec::new();
        // A host admits a request once.
        let new = |(at, one): &(usize, &(bool, u64))| one.0 || !told[..*at].contains(one);
        for (at, (caller, request)) in told.iter().enumerate().filter(new) {
            let now = at as u64;
            if *caller {
                prop_assert_eq!(reconciler.attempt(now, &attempt(*request)), None);
            } else {
                prop_assert!(reconciler.record(now, &host(1), &record(*request, 0, &none())).is_empty());
            }
            gaps.extend(after(&mut reconciler, now));
        }
        for round in 2..5 {
            gaps.extend(after(&mut reconciler, round * GRACE));
        }
        let mut found: Vec<_> = gaps.into_iter().map(|(_, request)| request.unwrap()).collect();
        found.sort();
        let sides = |request: &u64| [true, false].map(|side| told.contains(&(side, *request)));
        let expected: Vec<_> = (0..20).filter(|r| sides(r)[0] != sides(r)[1]).map(|r| format!("{r:032x}")).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(reconciler.open(), 0);
    }
}
