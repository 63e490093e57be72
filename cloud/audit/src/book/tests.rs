use super::*;
use host_api::{GENESIS, LogHead, Sha256};
use monitor::Rules;
use token::Ed25519KeyPair;

const SILENCE: u64 = 10_000;

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn host() -> HostId {
    HostId::from_random(1)
}

fn book() -> Book {
    let mut book = Book::new(Monitor::new(Rules::embedded().unwrap()), 30_000, SILENCE);
    book.begin(1);
    book.take(1, Input::Hosts([(host(), PublicKey::of(&key()))].into()));
    book
}

/// A log of so many events; its records differ after `fork`.
fn log(length: u64, fork: u64) -> (Vec<LogRecord>, Vec<[u8; 32]>) {
    let (mut records, mut hashes) = (Vec::new(), vec![GENESIS]);
    for seq in 1..=length {
        let code = if seq > fork { "host.stopped" } else { "host.started" };
        let text = serde_json::json!({
            "seq": seq, "time": "1970-01-01T00:00:00.002Z", "kind": "event", "code": code,
            "prev": Sha256::from_digest(hashes.last().unwrap()),
        });
        let record: LogRecord = serde_json::from_value(text).unwrap();
        hashes.push(LogRecord::hash_of(record.line().as_bytes()));
        records.push(record);
    }
    (records, hashes)
}

fn page(log: &(Vec<LogRecord>, Vec<[u8; 32]>), after: usize) -> LogPage {
    let head = |at: usize| LogHead::sign(at as u64, &log.1[at], &key());
    let last = log.0.len();
    let records = log.0.get(after..).unwrap_or_default().to_vec();
    LogPage { records, last: last as u64, base: head(0), head: head(last) }
}

/// Shows the book a page; gives the codes of what it finds, and how many records it takes.
fn show(book: &mut Book, now: u64, page: LogPage) -> (Vec<String>, usize) {
    found(&book.take(now, Input::Page { host: host(), page: Box::new(page), began: now }))
}

fn found(entries: &[Entry]) -> (Vec<String>, usize) {
    let codes = entries.iter().filter_map(|entry| match &entry.record {
        Record::Audit(observed) => observed.code.as_ref().map(ToString::to_string),
        Record::Alarm(alarm) => Some(format!("alarm:{}", alarm.rule)),
        _ => None,
    });
    let records = entries.iter().filter(|entry| matches!(entry.record, Record::Host(..))).count();
    (codes.collect(), records)
}

#[test]
fn a_hosts_log_that_was_cut_forked_or_changed_is_found_once_and_raises_an_alarm() {
    let whole = log(9, 9);
    let mut cut = page(&log(5, 9), 9);
    cut.records.clear();
    let mut broken = page(&log(12, 12), 9);
    broken.records.remove(1);
    let mut unsigned = page(&log(12, 12), 9);
    unsigned.head = LogHead::sign(12, &[0; 32], &Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap());
    for (page_, code) in [
        (cut, TRUNCATED),
        (page(&log(12, 4), 9), CHAIN),
        (page(&log(9, 4), 9), FORKED),
        (broken, CHAIN),
        (unsigned, SIGNATURE),
    ] {
        let mut book = book();
        assert_eq!(show(&mut book, 2, page(&whole, 0)), (vec![], 9), "{code}");
        let (codes, records) = show(&mut book, 3, page_.clone());
        assert_eq!((codes[0].as_str(), records), (code, 0), "{codes:?}");
        assert!(codes.contains(&"alarm:log-tampered".to_owned()), "{codes:?}");
        assert_eq!(show(&mut book, 4, page_), (vec![], 0), "told once");
        assert_eq!(book.hosts().next().unwrap(), (&host(), 9, Some(code)));
        // The host shows its right log again.
        let (codes, records) = show(&mut book, 5, page(&log(12, 12), 9));
        assert_eq!((codes[0].as_str(), records), (BACK, 3));
        assert_eq!(book.hosts().next().unwrap(), (&host(), 12, None));
    }
}

#[test]
fn another_key_of_a_known_host_raises_an_alarm_once_and_the_log_is_read_by_it() {
    let mut book = book();
    let other = PublicKey::of(&Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap());
    let named = |key| Input::Hosts([(host(), key)].into());
    show(&mut book, 2, page(&log(2, 2), 0));
    assert_eq!(found(&book.take(2, named(PublicKey::of(&key())))).0, Vec::<String>::new(), "as it was");
    let entries = book.take(3, named(other));
    assert_eq!(found(&entries).0, [HOST_KEY, "alarm:host-key"]);
    assert_eq!(found(&book.take(4, named(other))).0, Vec::<String>::new());
    assert_eq!(show(&mut book, 5, page(&log(3, 3), 2)).0[0], SIGNATURE, "what the old one signed");
    let mut again = self::book();
    entries.iter().for_each(|entry| again.recall(entry));
    assert_eq!(show(&mut again, 5, page(&log(3, 3), 0)).0[0], SIGNATURE);
}

#[test]
fn the_evidence_is_what_the_host_signed() {
    let mut book = book();
    show(&mut book, 2, page(&log(9, 9), 0));
    let fork = page(&log(9, 4), 9);
    let entries = book.take(3, Input::Page { host: host(), page: Box::new(fork.clone()), began: 3 });
    let Record::Audit(observed) = &entries[0].record else { panic!() };
    assert_eq!(observed.evidence.as_ref(), Some(&fork.head));
    fork.head.verify(&PublicKey::of(&key())).unwrap();
    let line = entries[0].line().unwrap();
    assert_eq!(Entry::parse(&line).unwrap(), entries[0]);
}

#[test]
fn silence_is_told_once_and_its_end_too_also_of_a_host_that_was_never_heard() {
    let mut book = book();
    book.take(2, Input::Journal { page: Box::new(tokens::Page { entries: Vec::new(), last: 0 }), began: 2 });
    assert_eq!(found(&book.take(SILENCE, Input::Tick)).0, Vec::<String>::new());
    let (codes, _) = found(&book.take(3 + SILENCE, Input::Tick));
    assert_eq!(codes.iter().filter(|code| *code == SILENT).count(), 2, "host and journal: {codes:?}");
    assert!(found(&book.take(4 + SILENCE, Input::Tick)).0.iter().all(|code| code != SILENT));
    let (codes, records) = show(&mut book, 5 + SILENCE, page(&log(3, 3), 0));
    assert_eq!((codes[0].as_str(), records), (BACK, 3));
}

#[test]
fn a_journal_that_was_rolled_back_is_found() {
    let entry = |seq: u64| -> tokens::Entry {
        serde_json::from_value(serde_json::json!({"seq": seq, "time": 0, "kind": "keys"})).unwrap()
    };
    let journal = |from: u64, to: u64, last: u64| {
        let page = tokens::Page { entries: (from..=to).map(entry).collect(), last };
        Input::Journal { page: Box::new(page), began: 1 }
    };
    let mut book = book();
    assert_eq!(found(&book.take(2, journal(1, 3, 3))).0, Vec::<String>::new());
    assert_eq!(found(&book.take(3, journal(4, 3, 3))).0, Vec::<String>::new(), "nothing new");
    assert_eq!(found(&book.take(4, journal(5, 6, 6))).0[0], TRUNCATED, "entry 4 is missing");
    assert_eq!((book.journal(), book.journal_trouble()), (6, Some(TRUNCATED)));
    assert_eq!(found(&book.take(5, journal(7, 7, 7))).0, [BACK]);
    assert_eq!(found(&book.take(6, journal(1, 2, 2))).0[0], TRUNCATED, "it begins anew");
    assert_eq!(found(&book.take(7, journal(1, 2, 2))).0, Vec::<String>::new(), "told once");
}

#[test]
fn a_journal_with_a_hole_or_out_of_order_is_found_wherever_that_is() {
    let page = |seqs: &[u64], last: u64| {
        let entry = |seq: &u64| serde_json::json!({"seq": seq, "time": 0, "kind": "keys"});
        let entries = seqs.iter().map(|seq| serde_json::from_value(entry(seq)).unwrap()).collect();
        Input::Journal { page: Box::new(tokens::Page { entries, last }), began: 1 }
    };
    let most = u64::MAX;
    for (seqs, last, code, journal) in [
        (&[1, 2, 4][..], 4, TRUNCATED, 4),
        (&[1, 2, 3], 2, TRUNCATED, 3),
        (&[1, 2, 2], 2, CHAIN, 0),
        (&[2, 1], 2, CHAIN, 0),
        (&[1, most], most, TRUNCATED, most),
        (&[most, most], most, CHAIN, 0),
    ] {
        let mut book = book();
        let (codes, _) = found(&book.take(2, page(seqs, last)));
        assert_eq!((codes[0].as_str(), book.journal()), (code, journal), "{seqs:?}");
        assert!(codes.contains(&"alarm:log-tampered".to_owned()), "{codes:?}");
        book.take(3, page(&[], most));
    }
}

/// Killed after any entry, read again, the state is the same.
#[test]
fn read_again_from_the_log_it_comes_to_the_same_state() {
    let mut first = book();
    let mut lines = Vec::new();
    let mut take = |book: &mut Book, now, input| {
        let entries = book.take(now, input);
        lines.extend(entries.iter().map(|entry| entry.line().unwrap()));
    };
    take(&mut first, 2, Input::Hosts([(HostId::from_random(2), PublicKey::of(&key()))].into()));
    let input = |page: LogPage| Input::Page { host: host(), page: Box::new(page), began: 2 };
    // What `book` took before is not in `lines`: the host is told of again.
    let mut again = book();
    take(&mut first, 3, input(page(&log(9, 9), 0)));
    take(&mut first, 4, input(page(&log(9, 4), 9)));
    take(&mut first, 9 + SILENCE, Input::Tick);
    let attempt: Attempt = serde_json::from_value(serde_json::json!({
        "request": "00".repeat(16), "api": "HostStatus", "host": host(), "resources": [], "time": 1, "caller": "azote:operator/alice",
    }))
    .unwrap();
    take(&mut first, 10 + SILENCE, Input::Attempts(vec![attempt.clone(), attempt.clone()]));
    take(&mut first, 11 + SILENCE, Input::Attempts(vec![attempt]));
    take(&mut first, 100_000, Input::Tick);
    for line in &lines {
        again.recall(&Entry::parse(line).unwrap());
    }
    let state = |book: &Book| serde_json::to_value(book.kept()).unwrap();
    assert_eq!(state(&again)["hosts"], state(&first)["hosts"]);
    assert_eq!(state(&again)["alarms"], state(&first)["alarms"]);
    assert_eq!(again.kept().size, first.kept().size);
    assert_eq!(again.open(), first.open());
}

#[test]
fn a_quota_that_is_nearly_spent_raises_an_alarm() {
    let mut book = book();
    for (seq, used, alarms) in [(1, 15, 0), (2, 16, 1)] {
        let entry = serde_json::from_value(serde_json::json!({
            "seq": seq, "time": 0, "kind": "issued", "subject": "azote:operator/alice",
            "quota": {"quota": "keepers-hosts/fleet/lab", "used": used, "limit": 20},
        }));
        let page = tokens::Page { entries: vec![entry.unwrap()], last: seq };
        let (codes, _) = found(&book.take(2, Input::Journal { page: Box::new(page), began: 1 }));
        assert_eq!(
            codes.iter().filter(|code| *code == "alarm:quota-nearly-spent").count(),
            alarms,
            "{codes:?}"
        );
    }
}

#[test]
fn what_is_too_long_for_an_entry_is_refused_and_stops_nothing() {
    let mut book = book();
    let mut entry: tokens::Entry =
        serde_json::from_value(serde_json::json!({"seq": 1, "time": 0, "kind": "keys"})).unwrap();
    entry.detail = Some("x".repeat(70_000));
    let journal = tokens::Page { entries: vec![entry], last: 1 };
    let entries = book.take(2, Input::Journal { page: Box::new(journal), began: 1 });
    assert_eq!((found(&entries).0[0].as_str(), book.journal()), (CHAIN, 0));
    let mut long = page(&log(3, 3), 0);
    long.records[2].resources = vec![host_api::Resource::Host(host()); 5000];
    let (codes, records) = show(&mut book, 3, long);
    assert_eq!((codes[0].as_str(), records), (CHAIN, 0));
    assert!(entries.iter().all(|entry| entry.line().is_some()));
}
