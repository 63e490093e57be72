use super::*;
use proptest::prelude::*;
use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    thread,
};

const ROOM: u64 = 1 << 20;

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.log");
    (dir, path)
}

fn intent() -> Entry {
    Entry {
        api: Some(Api::AttachVolume),
        subject: Some("azote:operator/alice".parse().unwrap()),
        resources: vec![Resource::Volume(ids::VolumeId::from_random(1))],
        ..Entry::new(RecordKind::Intent)
    }
}

fn outcome(of: u64) -> Entry {
    Entry { intent: Some(of), ..Entry::new(RecordKind::Outcome) }
}

fn one(log: &mut Log, entry: Entry) -> Result<u64, LogError> {
    log.append(&[entry]).remove(0)
}

/// A log with `acts` in it, closed.
fn filled(path: &Path, acts: usize) -> Vec<u8> {
    let mut log = Log::open(path, ROOM).unwrap();
    for n in 0..acts {
        let seq = one(&mut log, intent()).unwrap();
        one(&mut log, Entry::event("chip.write-refused", &format!("attempt {n}"))).unwrap();
        one(&mut log, outcome(seq)).unwrap();
    }
    fs::read(path).unwrap()
}

/// Reads a log as an auditor does: pages, and nothing but the records.
fn audit(log: &Log) -> Vec<LogRecord> {
    let (mut records, mut hash) = (Vec::new(), GENESIS);
    loop {
        let page = log.page(records.len() as u64).unwrap();
        if page.records.is_empty() {
            assert_eq!(page.last, records.len() as u64);
            return records;
        }
        for record in page.records {
            hash = record.follows(records.len() as u64 + 1, &hash).unwrap();
            records.push(record);
        }
    }
}

#[test]
fn records_are_on_disk_chained_and_continue_after_a_restart() {
    let (_dir, path) = place();
    let before = filled(&path, 4);
    let mut log = Log::open(&path, ROOM).unwrap();
    for _ in 0..2 * PAGE {
        one(&mut log, Entry::event("host.boots", "")).unwrap();
    }
    let records = audit(&log);
    assert_eq!(records.len(), 12 + 2 * PAGE);
    assert!(fs::read(&path).unwrap().starts_with(&before));
    assert_eq!(log.status().bytes, fs::metadata(&path).unwrap().len());
    assert!(log.page(u64::MAX).unwrap().records.is_empty());
}

#[test]
fn a_crash_at_any_byte_loses_nothing_that_was_finished() {
    let (_dir, path) = place();
    let whole = filled(&path, 1);
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let log = Log::open(&path, ROOM).unwrap();
        let records = audit(&log);
        let finished = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        for (record, line) in records.iter().zip(&lines[..finished]) {
            assert_eq!(format!("{}\n", record.line()).as_bytes(), *line);
        }
        let torn = cut > lines[..finished].concat().len();
        let recovered = |r: &&LogRecord| r.code.as_ref().is_some_and(|code| code.as_str() == "log.recovered");
        assert_eq!(records.iter().filter(recovered).count(), usize::from(torn), "cut at {cut}");
        let count = |kind| records.iter().filter(|record| record.kind == kind).count();
        assert_eq!(count(RecordKind::Intent), count(RecordKind::Outcome), "an intent without an outcome");
    }
}

proptest! {
    #[test]
    fn any_changed_byte_is_found(at: prop::sample::Index, by in 1..=255u8) {
        let (_dir, path) = place();
        let mut bytes = filled(&path, 4);
        // The hash of the last line is nowhere yet: that one changed, only a reader who remembers it can tell.
        let chained = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        let at = at.index(chained);
        bytes[at] ^= by;
        fs::write(&path, &bytes).unwrap();
        prop_assert!(matches!(Log::open(&path, ROOM), Err(LogError::Broken(_))), "byte {at}");
    }
}

#[test]
fn a_line_taken_out_or_put_in_is_found() {
    let (_dir, path) = place();
    let whole = filled(&path, 4);
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for n in 0..lines.len() - 1 {
        let without: Vec<_> =
            lines.iter().enumerate().filter(|(at, _)| *at != n).map(|(_, line)| *line).collect();
        let twice = [&lines[..=n], &lines[n..]].concat();
        for tampered in [without.concat(), twice.concat()] {
            fs::write(&path, tampered).unwrap();
            assert!(matches!(Log::open(&path, ROOM), Err(LogError::Broken(_))), "line {n}");
        }
    }
    fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
    assert!(matches!(Log::open(&path, ROOM), Err(LogError::Broken(13))));
    fs::write(&path, vec![b'x'; MAX_RECORD + 1]).unwrap();
    assert!(matches!(Log::open(&path, ROOM), Err(LogError::Broken(1))));
}

#[test]
fn a_full_log_takes_no_intent_but_the_outcome_of_each_that_it_took() {
    let (_dir, path) = place();
    let capacity = 8 * RESERVE;
    let mut log = Log::open(&path, capacity).unwrap();
    let mut open = Vec::new();
    let refused = loop {
        match one(&mut log, intent()) {
            Ok(seq) => open.push(seq),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full));
    assert!(open.len() >= 6);
    let stuffed = Entry { detail: Some(Sentence::from_lossy(&"\\".repeat(Sentence::MAX))), ..intent() };
    for seq in open {
        one(&mut log, Entry { kind: RecordKind::Outcome, intent: Some(seq), ..stuffed.clone() }).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() <= capacity);
    while one(&mut log, intent()).and_then(|seq| one(&mut log, outcome(seq))).is_ok() {}
    assert!(fs::metadata(&path).unwrap().len() <= capacity);
    audit(&log);
}

#[test]
fn strangers_cannot_fill_the_whole_log() {
    let (_dir, path) = place();
    let mut log = Log::open(&path, 16 * RESERVE).unwrap();
    while one(&mut log, Entry::new(RecordKind::Refusal)).is_ok() {}
    let known = Entry { kind: RecordKind::Refusal, ..intent() };
    assert!(one(&mut log, known.clone()).is_err(), "a subject without a proof was taken for a proven caller");
    one(&mut log, Entry { trusted: true, ..known }).unwrap();
    while one(&mut log, Entry::event("chip.write-refused", "")).is_ok() {}
    assert!(log.status().bytes > 16 * RESERVE / 4 * 3);
    one(&mut log, Entry { trusted: true, ..Entry::event("host.boots", "") }).unwrap();
    let seq = one(&mut log, intent()).unwrap();
    one(&mut log, outcome(seq)).unwrap();
}

#[test]
fn no_record_is_earlier_than_the_one_before_even_after_a_restart() {
    const LATER: Duration = Duration::from_secs(4_000_000_000);
    let (_dir, path) = place();
    let mut log = Log::open(&path, ROOM).unwrap();
    assert_eq!(log.resumed(), Duration::ZERO);
    log.clock = Clock::new(|| LATER, Duration::ZERO);
    one(&mut log, intent()).unwrap();
    drop(log);
    let log = Log::open(&path, ROOM).unwrap();
    assert!((LATER..LATER + Duration::from_secs(60)).contains(&log.resumed()), "{:?}", log.resumed());
    assert!(log.clock().now() >= log.resumed());
    let times: Vec<_> = audit(&log).iter().map(|record| since_epoch(&record.time)).collect();
    assert!(times.len() == 2 && times.is_sorted(), "{times:?}");
}

#[test]
fn after_a_write_that_failed_nothing_is_taken_any_more() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut log = Log::on(full, ROOM);
    assert!(matches!(one(&mut log, intent()), Err(LogError::Poisoned)));
    let (_dir, path) = place();
    log.file = File::create(&path).unwrap();
    assert!(matches!(one(&mut log, intent()), Err(LogError::Poisoned)));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn one_controller_writes_a_log_and_no_link_leads_elsewhere() {
    let (dir, path) = place();
    let _log = Log::open(&path, ROOM).unwrap();
    assert!(matches!(Log::open(&path, ROOM), Err(LogError::InUse(_))));
    let link = dir.path().join("link.log");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Log::open(&link, ROOM), Err(LogError::File { .. })));
}

#[test]
fn many_writers_get_each_a_number_and_one_chain() {
    let (_dir, path) = place();
    let writer = Writer::start(Log::open(&path, ROOM).unwrap()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let writer = writer.clone();
            thread::spawn(move || {
                let intents: Vec<_> = (0..20).map(|_| writer.append(intent()).unwrap()).collect();
                // What append has returned for is in the file, not in a buffer of this process.
                for seq in intents {
                    writer.append(outcome(seq)).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(writer.status().last, 320);
    let on_disk = fs::read(&path).unwrap().iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(on_disk, 320);
    drop(writer);
    // The writing thread still has the file for a moment after the last handle is gone.
    let reopened = (0..100).find_map(|_| {
        thread::sleep(Duration::from_millis(10));
        Log::open(&path, ROOM).ok()
    });
    audit(&reopened.unwrap());
}
