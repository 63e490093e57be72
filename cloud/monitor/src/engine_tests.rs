use super::*;
use crate::{Kind, Quota};
use ids::HostId;
use proptest::prelude::*;

const T: u64 = 1_700_000_000_000;

fn monitor() -> Monitor {
    Monitor::new(Rules::embedded().unwrap())
}

fn only(rules: &str) -> Monitor {
    Monitor::new(Rules::parse(rules).unwrap())
}

fn host() -> HostId {
    HostId::from_random(7)
}

fn from_host(entry: u64, time: u64, kind: Kind) -> Observation {
    Observation::new(entry, time, Source::Host(host()), kind)
}

fn refusal(entry: u64, time: u64, who: &str, code: &str) -> Observation {
    let seen = from_host(entry, time, Kind::Refusal);
    Observation { subject: Some(who.parse().unwrap()), code: Some(code.to_owned()), ..seen }
}

fn call(entry: u64, time: u64, who: &str, operation: &str) -> Observation {
    let seen = from_host(entry, time, Kind::Intent);
    Observation { subject: Some(who.parse().unwrap()), operations: vec![operation.to_owned()], ..seen }
}

fn rules(alarms: &[Alarm]) -> Vec<&str> {
    alarms.iter().map(|alarm| alarm.rule.as_str()).collect()
}

const ALICE: &str = "azote:operator/alice";

#[test]
fn one_entry_that_nobody_honest_makes_is_enough_and_the_alarm_says_all() {
    let alarms = monitor().observe(&refusal(41, T, ALICE, "proof.signature"));
    let [alarm] = alarms.as_slice() else { panic!("{alarms:?}") };
    assert_eq!(alarm.rule, "stolen-token");
    assert_eq!((alarm.time, alarm.count, alarm.again), (T, 1, false));
    assert_eq!(alarm.subject.as_ref().unwrap().to_string(), ALICE);
    assert_eq!(alarm.host, Some(host()));
    assert_eq!(alarm.code.as_deref(), Some("proof.signature"));
    assert_eq!(alarm.entries, [41]);
    assert_eq!(alarm.link, "docs/runbook.md#stolen-token");
    assert!(alarm.summary.contains(ALICE) && alarm.summary.contains(host().as_str()), "{}", alarm.summary);
    assert!(!alarm.summary.contains('{') && !alarm.runbook.is_empty());
}

#[test]
fn nobody_speaks_with_anothers_codes() {
    let said = |source: Source, kind, code: &str| {
        let seen = Observation { code: Some(code.to_owned()), ..Observation::new(1, T, source, kind) };
        rules(&monitor().observe(&seen)).join(" ")
    };
    for (sources, code, rule) in [
        (&[Source::Tokens, Source::Audit][..], "policy.changed", "policy-changed"),
        (&[Source::Tokens, Source::Audit][..], "review.set", "policy-refused"),
        (&[Source::Audit], "audit.gap.unclaimed", "log-gap"),
        (&[Source::Audit], "audit.gap.unissued", "never-issued"),
        (&[Source::Audit], "audit.truncated", "log-tampered"),
        (&[Source::Audit], "audit.silent", "silent"),
        (&[Source::Audit], "audit.host-key", "host-key"),
        (&[Source::Audit], "cosignature.witness", "audit-forged"),
        (&[Source::Audit], "alarm.undelivered", "alarm-undelivered"),
        (&[Source::Host(host())], "sandbox.killed", "sandbox-killed"),
        (&[Source::Host(host())], "clock.jumped", "clock-jumped"),
    ] {
        for other in [Source::Host(host()), Source::Tokens, Source::Callers, Source::Audit] {
            let expected = if sources.contains(&other) { rule } else { "" };
            assert_eq!(said(other.clone(), Kind::Event, code), expected, "{other} {code}");
        }
    }
}

#[test]
fn a_full_set_of_proofs_is_an_alarm_of_its_own_at_the_first_refusal() {
    let raised = monitor().observe(&refusal(1, T, ALICE, "proof.overload"));
    assert_eq!(rules(&raised), ["proof-overload"]);
    assert!(raised[0].summary.contains(host().as_str()), "{}", raised[0].summary);
}

#[test]
fn the_same_is_raised_once_then_again_with_what_came_meanwhile() {
    let mut monitor = monitor();
    assert_eq!(monitor.observe(&refusal(1, T, ALICE, "token.audience")).len(), 1);
    for n in 2..=5 {
        assert!(monitor.observe(&refusal(n, T + n, ALICE, "token.audience")).is_empty());
    }
    assert_eq!(
        rules(&monitor.observe(&refusal(6, T, ALICE, "token.resource"))),
        ["token-misused"],
        "another code"
    );
    assert!(monitor.tick(T + 899_000).is_empty());
    let again = monitor.tick(T + 901_000);
    let [alarm] = again.as_slice() else { panic!("{again:?}") };
    assert!(alarm.again && alarm.count == 4 && alarm.entries == [2, 3, 4, 5], "{alarm:?}");
    assert!(monitor.tick(T + 1_802_000).is_empty(), "nothing came any more");
    assert!(!monitor.observe(&refusal(7, T + 1_802_001, ALICE, "token.audience"))[0].again, "and it is over");
}

#[test]
fn a_burst_is_counted_within_its_window_only() {
    let mut monitor = monitor();
    let knock = |n, time| {
        let seen = from_host(n, time, Kind::Refusal);
        Observation { code: Some("token.missing".to_owned()), ..seen }
    };
    assert!(monitor.observe(&knock(1, T)).is_empty());
    assert!(monitor.observe(&knock(2, T + 1)).is_empty());
    assert!(monitor.observe(&knock(3, T + 60_002)).is_empty(), "the first two are too old");
    assert!(monitor.observe(&knock(4, T + 60_003)).is_empty());
    let alarms = monitor.observe(&knock(5, T + 60_004));
    assert_eq!(rules(&alarms), ["knocking"]);
    assert_eq!(alarms[0].entries, [3, 4, 5]);
}

#[test]
fn different_values_are_counted_once_each() {
    let mut monitor = monitor();
    let issued = |n: u64, token: u64| {
        let seen = Observation::new(n, T + n, Source::Tokens, Kind::Issued);
        let operations = vec!["DrainHost".to_owned()];
        Observation {
            subject: Some(ALICE.parse().unwrap()),
            operations,
            token: Some(token.to_string()),
            ..seen
        }
    };
    for n in 0..20 {
        assert!(monitor.observe(&issued(n, 1)).is_empty(), "the same token");
    }
    for n in 2..=4 {
        assert!(monitor.observe(&issued(n, n)).is_empty());
    }
    assert_eq!(rules(&monitor.observe(&issued(5, 5))), ["many-tokens"]);
}

#[test]
fn each_sensitive_operation_is_told_and_others_are_not() {
    let mut monitor = monitor();
    assert!(monitor.observe(&call(1, T, ALICE, "HostStatus")).is_empty());
    let alarms = monitor.observe(&call(2, T, ALICE, "DrainHost"));
    assert_eq!(rules(&alarms), ["sensitive-operation"]);
    assert_eq!(alarms[0].operation.as_deref(), Some("DrainHost"));
    assert_eq!(rules(&monitor.observe(&call(3, T, ALICE, "ResumeHost"))), ["sensitive-operation"]);
}

#[test]
fn the_bound_is_learned_and_who_goes_too_far_does_not_move_it() {
    let mut monitor = monitor();
    let cp = "azote:service/control-plane";
    let mut entry = 0;
    let mut slot = |monitor: &mut Monitor, minute: u64, calls: u64| -> Vec<Alarm> {
        let start = T / 60_000 * 60_000 + minute * 60_000;
        (0..calls)
            .flat_map(|n| {
                entry += 1;
                monitor.observe(&call(entry, start + n, cp, "AttachVolume"))
            })
            .collect()
    };
    assert_eq!(rules(&slot(&mut monitor, 0, 61)), ["unusual-rate"], "while it learns, a fixed bound holds");
    for minute in 1..700 {
        assert!(slot(&mut monitor, minute, 36 + minute % 9).is_empty(), "minute {minute}");
    }
    let alarms = slot(&mut monitor, 700, 300);
    assert_eq!(rules(&alarms), ["unusual-rate"]);
    assert!((45..=100).contains(&alarms[0].count), "told at the first that is too many: {}", alarms[0].count);
    for minute in 41..46 {
        assert_eq!(
            rules(&slot(&mut monitor, minute * 20, 601)),
            ["unusual-rate"],
            "always above the last bound"
        );
    }
}

#[test]
fn a_duty_that_is_new_to_somebody_known_is_told() {
    let mut monitor = monitor();
    let day = 86_400_000;
    assert!(monitor.observe(&call(1, T, ALICE, "HostStatus")).is_empty());
    assert_eq!(
        rules(&monitor.observe(&call(2, T + 1, ALICE, "DrainHost"))),
        ["sensitive-operation"],
        "not known yet"
    );
    let told = monitor.observe(&call(3, T + day, ALICE, "HostStatus"));
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(rules(&monitor.observe(&call(4, T + day + 1, ALICE, "StopInstance"))), ["unusual-operation"]);
    assert!(monitor.observe(&call(5, T + day + 2, ALICE, "StopInstance")).is_empty());
}

#[test]
fn a_quota_is_told_of_before_it_is_spent() {
    let mut monitor = monitor();
    let used = |n, used| {
        let seen = Observation::new(n, T, Source::Tokens, Kind::Issued);
        let quota = Quota { scope: "operator-hosts".to_owned(), used, limit: 10 };
        Observation { subject: Some(ALICE.parse().unwrap()), quota: Some(quota), ..seen }
    };
    assert!(monitor.observe(&used(1, 7)).is_empty());
    let alarms = monitor.observe(&used(2, 8));
    assert_eq!(rules(&alarms), ["quota-nearly-spent"]);
    assert!(alarms[0].summary.contains("operator-hosts"));
}

#[test]
fn a_clock_that_runs_ahead_or_goes_back_is_told() {
    let mut monitor = monitor();
    let at = |n, said| Observation { said: Some(said), ..from_host(n, T, Kind::Outcome) };
    assert!(monitor.observe(&at(1, T - 500_000)).is_empty(), "an old record that was read late");
    assert!(monitor.observe(&at(2, T)).is_empty());
    assert_eq!(rules(&monitor.observe(&at(3, T - 2_001))), ["clock"]);
    let mut monitor = self::monitor();
    assert_eq!(rules(&monitor.observe(&at(1, T + 30_001))), ["clock"]);
}

#[test]
fn after_a_restart_what_was_raised_is_not_raised_again() {
    let mut monitor = monitor();
    monitor.recall(&refusal(1, T, ALICE, "proof.replayed"));
    assert!(monitor.observe(&refusal(2, T + 1, ALICE, "proof.replayed")).is_empty());
    assert!(monitor.tick(T + 900_000)[0].again);
}

#[test]
fn many_made_up_subjects_cost_bounded_memory_hide_nobody_and_are_told() {
    let text = include_str!("../../../policies/alarms.toml").replace("groups = 20000", "groups = 100");
    let mut monitor = only(&text);
    let mut alarms = Vec::new();
    for n in 0..9 {
        alarms.extend(monitor.observe(&refusal(n, T, ALICE, "volume.busy")));
    }
    assert!(alarms.is_empty());
    for n in 0..50_000_u64 {
        let who = format!("azote:operator/x{n}");
        alarms.extend(monitor.observe(&refusal(n, T + n / 10, &who, "volume.busy")));
    }
    let most = 100 + Rules::embedded().unwrap().ids().count();
    for size in [monitor.windows.len(), monitor.baselines.len(), monitor.uses.len(), monitor.raised.len()] {
        assert!(size <= most, "{size}");
    }
    assert!(rules(&alarms).contains(&"monitor-crowded") && rules(&alarms).contains(&"refusals"));
    let mut told = monitor.observe(&refusal(60_000, T + 6_000, ALICE, "volume.busy"));
    told.extend(monitor.tick(T + 11_000));
    let told: Vec<_> = told.iter().filter(|alarm| alarm.rule == "refusals").collect();
    assert!(told.iter().any(|alarm| alarm.entries.contains(&60_000)), "watched already, and still: {told:?}");
}

#[test]
fn a_flood_of_one_alarm_leaves_room_for_others_and_names_the_last() {
    let mut monitor = monitor();
    let gap = |n: u64| {
        let seen = Observation::new(n, T + n, Source::Audit, Kind::Event);
        let (host, code) = (HostId::from_random(n.into()), "audit.gap.unrecorded".to_owned());
        Observation { host: Some(host), code: Some(code), subject: Some(ALICE.parse().unwrap()), ..seen }
    };
    let flood: Vec<_> = (0..30_000).flat_map(|n| monitor.observe(&gap(n))).collect();
    assert!(flood.len() < 1024, "as many as wait for one place: {}", flood.len());
    let last = flood.iter().rfind(|alarm| alarm.rule == "log-gap").unwrap();
    assert!(last.subject.is_some() && last.host.is_some() && last.entries[0] > 20_000, "{last:?}");
    let alarms = monitor.observe(&refusal(1, T + 30_000, "azote:operator/eve", "proof.replayed"));
    assert_eq!(rules(&alarms), ["stolen-token"]);
    assert_eq!((alarms[0].host.as_ref(), alarms[0].subject.is_some()), (Some(&host()), true));
}

proptest! {
    #[test]
    fn nothing_that_a_record_can_say_panics_and_alarms_are_whole(
        records in proptest::collection::vec(
            (any::<u64>(), any::<Option<u64>>(), 0..7_usize, 0..5_usize, ".{0,90}", ".{0,90}", any::<(u64, u64)>()),
            0..60,
        ),
    ) {
        let mut monitor = monitor();
        let kinds = [Kind::Intent, Kind::Outcome, Kind::Refusal, Kind::Event, Kind::Issued, Kind::Attempt, Kind::Read];
        let sources = [Source::Host(host()), Source::Tokens, Source::Callers, Source::Audit, Source::Monitor];
        for (time, said, kind, source, code, operation, (used, limit)) in records {
            // The audit service's own clock; 2^53 ms is far beyond any certificate's year.
            let seen = Observation {
                said,
                code: Some(code.clone()),
                operations: vec![operation; 3],
                token: Some(code.clone()),
                quota: Some(Quota { scope: code, used, limit }),
                ..Observation::new(1, time >> 11, sources[source].clone(), kinds[kind])
            };
            for alarm in monitor.observe(&seen).into_iter().chain(monitor.tick(time >> 11)) {
                prop_assert!(serde_json::to_vec(&alarm).unwrap().len() < 4096);
            }
        }
    }
}
