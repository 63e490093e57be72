//! The monitor's rules file, and entries under whatever rules came out of it. What stands after a line of `%` is
//! entries, one in each line: any text is a code, an operation and a token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::{Kind, Monitor, Observation, Quota, Rules, Source};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let (rules, entries) = text.split_once("\n%\n").unwrap_or((&text, ""));
    let Ok(rules) = Rules::parse(rules).or_else(|_| Rules::embedded()) else { return };
    let mut monitor = Monitor::new(rules);
    let kinds = [Kind::Intent, Kind::Refusal, Kind::Event, Kind::Issued, Kind::Read];
    let sources = [Source::Host(ids::HostId::from_random(1)), Source::Tokens, Source::Audit];
    let mut now = 0;
    for (index, line) in entries.lines().enumerate() {
        let size = line.len() as u64;
        now += size * size * 40;
        let said = line.as_bytes().first().map(|step| now.saturating_sub(u64::from(*step) * 1000));
        let seen = Observation {
            said,
            subject: format!("azote:operator/{line}").parse().ok(),
            operations: vec![line.to_owned(), "DrainHost".to_owned()],
            code: Some(line.to_owned()),
            token: Some(line.to_owned()),
            quota: Some(Quota { scope: line.to_owned(), used: size, limit: 20 }),
            ..Observation::new(index as u64, now, sources[line.len() % 3].clone(), kinds[line.len() % 5])
        };
        let told = monitor.observe(&seen).into_iter().chain(monitor.tick(now));
        for alarm in told {
            assert!(!alarm.rule.is_empty() && alarm.entries.len() <= monitor::Alarm::MAX_ENTRIES);
        }
    }
});
