use super::{page::PAGE, *};
use host_api::{LogReader, Refuted, Resource, Sentence};
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant},
};
use token::PublicKey;

const ROOM: u64 = 1 << 20;
/// A log of this capacity has segments of 16 KiB.
const LITTLE: u64 = 256 * 1024;

pub(crate) fn log_key() -> LogKey {
    LogKey::new(&[9; LogKey::LENGTH]).unwrap()
}

impl Log {
    /// Dates the records by another clock.
    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }
}

fn identity() -> Key {
    Key::from_seed(&[8; 32]).unwrap()
}

/// Another test of this process that starts a program may hold our lock until the program has begun.
fn open(path: &Path, capacity: u64) -> Result<Log, LogError> {
    let begun = Instant::now();
    loop {
        match Log::open(path, capacity, log_key(), identity()) {
            Err(LogError::InUse(_)) if begun.elapsed() < Duration::from_secs(2) => {
                sleep(Duration::from_millis(5));
            }
            opened => return opened,
        }
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::create_dir(&path).unwrap();
    (dir, path)
}

/// The segments' files, in order.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What is durable now, read from the files as they are.
pub(crate) fn on_disk(path: &Path) -> Vec<LogRecord> {
    let segments = files(path)
        .into_iter()
        .filter_map(|file| host_log::read(&log_key(), &fs::read(file).unwrap()).unwrap());
    let lines: Vec<_> = segments.flat_map(|segment| segment.frames).flat_map(|frame| frame.lines).collect();
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
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

fn observation() -> Entry {
    Entry { outcome: Some(Outcome { code: None }), ..intent() }
}

fn one(log: &mut Log, entry: Entry) -> Result<u64, LogError> {
    log.append(&[entry]).remove(0)
}

fn act(log: &mut Log) -> Result<u64, LogError> {
    let seq = one(log, intent())?;
    one(log, outcome(seq))
}

/// Makes a log with `acts` in it.
fn fill(path: &Path, acts: usize) {
    let mut log = open(path, ROOM).unwrap();
    for n in 0..acts {
        let seq = one(&mut log, intent()).unwrap();
        one(&mut log, Entry::event("chip.write-refused", &format!("attempt {n}"))).unwrap();
        one(&mut log, outcome(seq)).unwrap();
    }
}

/// Makes a log of at least so many small segments.
fn fill_segments(path: &Path, segments: usize) -> Log {
    let mut log = open(path, LITTLE).unwrap();
    while log.segments.len() < segments {
        act(&mut log).unwrap();
    }
    log
}

fn reader() -> LogReader {
    LogReader::new(PublicKey(identity().public()))
}

/// Reads a log as an auditor does who knows nothing but the host's public key.
fn audit(log: &Log) -> Vec<LogRecord> {
    let (mut reader, mut records) = (reader(), Vec::new());
    loop {
        let page = log.page(reader.seq()).unwrap();
        reader.take(&page).unwrap();
        if page.records.is_empty() {
            assert!(reader.is_proven() && reader.seq() == log.status().last);
            return records;
        }
        records.extend(page.records);
    }
}

#[test]
fn records_are_on_disk_chained_signed_and_continue_after_a_restart() {
    let (_dir, path) = place();
    fill(&path, 4);
    let before = fs::read(&files(&path)[0]).unwrap();
    let mut log = open(&path, ROOM).unwrap();
    for _ in 0..2 * PAGE {
        one(&mut log, Entry::event("host.started", "")).unwrap();
    }
    let records = audit(&log);
    assert_eq!(records.len() as u64, 12 + 2 * PAGE);
    assert_eq!(records, on_disk(&path));
    let stored: Vec<_> = files(&path).iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(log.status().bytes, stored.iter().map(|bytes| host_log::written(bytes)).sum::<usize>() as u64);
    assert!(log.page(u64::MAX).unwrap().records.is_empty());
    assert_eq!(log.page(5).unwrap().records[..], records[5..5 + usize::try_from(PAGE).unwrap()]);
    // An earlier run's segment is never written again: no nonce of it is used twice, whatever it was cut to.
    assert!(stored.len() > 1 && stored[0] == before[..host_log::written(&before)]);
    assert!(!stored.concat().windows(5).any(|window| window == b"alice"));
}

#[test]
fn a_crash_at_any_byte_loses_nothing_that_was_finished() {
    let (_dir, path) = place();
    fill(&path, 1);
    let file = files(&path).remove(0);
    let whole = fs::read(&file).unwrap();
    let read = host_log::read(&log_key(), &whole).unwrap().unwrap();
    let before = on_disk(&path);
    for cut in 0..read.whole {
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(&file, &whole[..cut]).unwrap();
        let log = open(&path, ROOM).unwrap();
        let records = audit(&log);
        let finished = read.frames.iter().filter(|frame| frame.at.end <= cut).count();
        assert_eq!(records[..finished], before[..finished]);
        let end = read.frames[..finished].last().map_or(0, |frame| frame.at.end);
        let recovered = |r: &&LogRecord| r.code.as_ref().is_some_and(|code| code.as_str() == "log.recovered");
        // What begins with zeros looks like room.
        let torn = host_log::written(&whole[..cut]) > end;
        assert_eq!(records.iter().filter(recovered).count(), usize::from(torn), "cut at {cut}");
        let count = |kind| records.iter().filter(|record| record.kind == kind).count();
        assert_eq!(count(RecordKind::Intent), count(RecordKind::Outcome), "an intent without an outcome");
        drop(log);
        assert_eq!(audit(&open(&path, ROOM).unwrap()), records, "what was put right stays");
    }
}

#[test]
fn room_that_was_not_written_is_given_back_and_nothing_is_told_of_it() {
    let (_dir, path) = place();
    fill(&path, 1);
    let file = files(&path).remove(0);
    let bytes = fs::read(&file).unwrap();
    let written = host_log::written(&bytes);
    assert_eq!(bytes.len() as u64, SMALL_SEGMENT.max(ROOM / 16));
    let before = on_disk(&path);
    assert_eq!(audit(&open(&path, ROOM).unwrap()), before);
    assert_eq!(fs::read(&file).unwrap(), bytes[..written]);
    // A power cut between a segment's file and its first record.
    let next = file.with_file_name("00000000000000000002.segment");
    fs::write(&next, vec![0; bytes.len()]).unwrap();
    assert_eq!(audit(&open(&path, ROOM).unwrap()), before);
    assert!(!next.exists());
}

#[test]
fn every_changed_byte_is_found() {
    let (_dir, path) = place();
    fill(&path, 1);
    fill(&path, 1);
    for file in files(&path) {
        let bytes = fs::read(&file).unwrap();
        for at in 0..host_log::written(&bytes) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&file, &changed).unwrap();
            let opened = open(&path, ROOM).map(|log| audit(&log));
            assert!(
                matches!(opened, Err(LogError::Broken { .. })),
                "byte {at} of {}: {opened:?}",
                file.display()
            );
        }
        fs::write(&file, bytes).unwrap();
    }
    open(&path, ROOM).unwrap();
}

#[test]
fn segments_that_were_moved_taken_out_or_put_back_are_found() {
    let (_dir, path) = place();
    drop(fill_segments(&path, 4));
    let files = files(&path);
    let contents: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let frames = host_log::read(&log_key(), &contents[1]).unwrap().unwrap().frames;
    let older = &contents[1][..frames[frames.len() / 2].at.end];
    let (_other, elsewhere) = place();
    drop(Log::open(&elsewhere, ROOM, log_key(), Key::generate().unwrap()).map(|mut log| act(&mut log)));
    let strangers = fs::read(elsewhere.join(files[0].file_name().unwrap())).unwrap();
    let all = [0, 1, 2, 3].map(|n| Some(contents[n].as_slice()));
    let with = |changes: &[(usize, Option<&'static [u8]>)]| {
        let mut all = all;
        changes.iter().for_each(|(at, to)| all[*at] = *to);
        all
    };
    let swapped = [all[0], all[2], all[1], all[3]];
    let repeated = [all[0], all[1], all[1], all[3]];
    let replayed = [all[0], Some(older), all[2], all[3]];
    let foreign = [Some(strangers.as_slice()), all[1], all[2], all[3]];
    let without = [0, 1, 2].map(|at| with(&[(at, None)]));
    let emptied = with(&[(1, Some(&[]))]);
    let cases = [[swapped, repeated, replayed, foreign, emptied].as_slice(), &without].concat();
    for (case, segments) in cases.iter().enumerate() {
        for (file, bytes) in files.iter().zip(segments) {
            match bytes {
                Some(bytes) => fs::write(file, bytes).unwrap(),
                None => fs::remove_file(file).unwrap(),
            }
        }
        assert!(matches!(open(&path, LITTLE), Err(LogError::Broken { .. })), "case {case}");
    }
}

#[test]
fn that_the_end_was_cut_only_a_reader_who_remembers_can_tell() {
    let (_dir, path) = place();
    let log = fill_segments(&path, 3);
    let mut reader = reader();
    while reader.seq() < log.status().last {
        reader.take(&log.page(reader.seq()).unwrap()).unwrap();
    }
    drop(log);
    fs::remove_file(files(&path).pop().unwrap()).unwrap();
    let log = open(&path, LITTLE).unwrap();
    let page = log.page(reader.seq()).unwrap();
    assert_eq!(reader.take(&page), Err(Refuted::Cut(reader.seq())));
}

#[test]
fn another_key_or_a_later_format_is_told_apart_from_a_broken_log() {
    let (_dir, path) = place();
    fill(&path, 1);
    let other = LogKey::new(&[1; LogKey::LENGTH]).unwrap();
    let opened = Log::open(&path, ROOM, other, identity());
    assert_eq!(opened.unwrap_err().code(), "log.key");
    let opened = Log::open(&path, ROOM, log_key(), Key::generate().unwrap());
    assert_eq!(opened.unwrap_err().code(), "log.broken", "another host's identity");
    let file = files(&path).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    (bytes[9], bytes[29]) = (7, 1);
    fs::write(&file, bytes).unwrap();
    assert_eq!(open(&path, ROOM).unwrap_err().code(), "log.version");
}

#[test]
fn acknowledged_segments_go_and_what_is_left_is_still_proven() {
    let (_dir, path) = place();
    let mut log = fill_segments(&path, 4);
    let before = audit(&log);
    let (second, bytes) = (log.segments[1].last, log.status().bytes);
    assert!(matches!(log.acknowledge(before.len() as u64 + 1), Err(LogError::Ahead(_))));
    assert_eq!(log.acknowledge(second - 1).unwrap(), log.segments[0].start.seq, "half a segment went");
    assert_eq!(log.acknowledge(second).unwrap(), second);
    assert!(log.status().bytes < bytes && files(&path).len() == log.segments.len());
    let after = audit(&log);
    let skipped = usize::try_from(second).unwrap();
    assert_eq!(
        before[skipped..],
        after[..before.len() - skipped],
        "a record that was not acknowledged is gone"
    );
    let mut early = reader();
    assert_eq!(early.take(&log.page(0).unwrap()), Ok(()));
    let told =
        after.iter().filter(|r| r.code.as_ref().is_some_and(|code| code.as_str() == "log.acknowledged"));
    assert_eq!(told.count(), 2);
    drop(log);
    let mut log = open(&path, LITTLE).unwrap();
    assert_eq!(audit(&log), after);
    assert_eq!(log.acknowledge(0).unwrap(), second);
    fs::remove_file(&files(&path)[0]).unwrap();
    drop(log);
    assert!(
        matches!(open(&path, LITTLE), Err(LogError::Broken { .. })),
        "a segment went that was not acknowledged"
    );
}

#[test]
fn a_segment_stays_while_an_act_of_it_goes_on() {
    let (_dir, path) = place();
    let mut log = open(&path, LITTLE).unwrap();
    act(&mut log).unwrap();
    let long = one(&mut log, intent()).unwrap();
    while log.segments.len() < 3 {
        act(&mut log).unwrap();
    }
    assert_eq!(log.acknowledge(log.status().last).unwrap(), 0);
    one(&mut log, outcome(long)).unwrap();
    assert!(log.acknowledge(log.status().last).unwrap() > long);
    audit(&log);
}

#[test]
fn a_page_that_was_planned_is_read_though_its_segment_goes() {
    let (_dir, path) = place();
    let mut log = fill_segments(&path, 3);
    let plan = log.plan(0).unwrap();
    log.acknowledge(log.status().last).unwrap();
    let text = plan.read().unwrap();
    let page: host_api::LogPage = serde_json::from_slice(&text).unwrap();
    assert_eq!(serde_json::to_vec(&page).unwrap(), text);
    assert_eq!((page.records[0].seq, page.records.len() as u64), (1, PAGE.min(page.last)));
    reader().take(&page).unwrap();
}

#[test]
fn a_full_log_takes_no_intent_but_the_outcome_of_each_that_it_took() {
    let (_dir, path) = place();
    let capacity = 16 * RESERVE;
    let mut log = open(&path, capacity).unwrap();
    let mut begun = Vec::new();
    let refused = loop {
        match one(&mut log, intent()) {
            Ok(seq) => begun.push(seq),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Full));
    assert!(begun.len() >= 12);
    let stuffed = Entry { detail: Some(Sentence::from_lossy(&"\\".repeat(Sentence::MAX))), ..intent() };
    for seq in begun {
        one(&mut log, Entry { kind: RecordKind::Outcome, intent: Some(seq), ..stuffed.clone() }).unwrap();
    }
    while act(&mut log).is_ok() {}
    assert!(log.status().bytes <= capacity);
    audit(&log);
}

#[test]
fn an_intent_with_its_outcome_is_one_write_of_both_or_of_neither() {
    let (_dir, path) = place();
    let mut log = open(&path, 16 * RESERVE).unwrap();
    let mut written = 0;
    while let Ok(seq) = one(&mut log, observation()) {
        written += 2;
        assert_eq!((seq, log.status().last), (written - 1, written));
    }
    assert!(log.open.is_empty() && log.status().last == written);
    let records = audit(&log);
    for pair in records.chunks(2) {
        let [intent, outcome] = pair else { panic!("half of {pair:?}") };
        assert_eq!((intent.kind, outcome.kind), (RecordKind::Intent, RecordKind::Outcome));
        assert_eq!(outcome.intent, Some(intent.seq));
    }
    drop(log);
    let segments = files(&path).into_iter().map(|file| fs::read(file).unwrap());
    let segments = segments.filter_map(|bytes| host_log::read(&log_key(), &bytes).unwrap());
    assert_eq!(segments.map(|segment| segment.frames.len() as u64).sum::<u64>(), written / 2);
    assert_eq!(open(&path, ROOM).unwrap().status().last, written, "nothing had to be closed");
}

#[test]
fn a_full_log_can_be_acknowledged_and_goes_on() {
    let (_dir, path) = place();
    let mut log = open(&path, LITTLE).unwrap();
    while act(&mut log).is_ok() {}
    drop(log);
    let mut log = open(&path, LITTLE).unwrap();
    one(&mut log, Entry { trusted: true, ..Entry::event("host.started", "") }).unwrap();
    assert!(matches!(one(&mut log, intent()), Err(LogError::Full)));
    let seq = one(&mut log, Entry { api: Some(Api::AcknowledgeLog), ..intent() }).unwrap();
    assert!(log.acknowledge(seq - 1).unwrap() > 0);
    one(&mut log, outcome(seq)).unwrap();
    act(&mut log).unwrap();
    audit(&log);
}

#[test]
fn strangers_cannot_fill_the_whole_log() {
    let (_dir, path) = place();
    let capacity = 32 * RESERVE;
    let mut log = open(&path, capacity).unwrap();
    while one(&mut log, Entry::new(RecordKind::Refusal)).is_ok() {}
    let known = Entry { kind: RecordKind::Refusal, ..intent() };
    assert!(one(&mut log, known.clone()).is_err(), "a subject without a proof was taken for a proven caller");
    one(&mut log, Entry { trusted: true, ..known }).unwrap();
    while one(&mut log, Entry::event("chip.write-refused", "")).is_ok() {}
    assert!(log.status().bytes > capacity / 4 * 3);
    one(&mut log, Entry { trusted: true, ..Entry::event("host.started", "") }).unwrap();
    act(&mut log).unwrap();
}

#[test]
fn no_record_is_earlier_than_the_one_before_even_after_a_restart() {
    const LATER: Duration = Duration::from_secs(4_000_000_000);
    let (_dir, path) = place();
    let mut log = open(&path, ROOM).unwrap();
    assert_eq!(log.resumed(), Duration::ZERO);
    log.clock = Clock::new(|| LATER, Duration::ZERO);
    one(&mut log, intent()).unwrap();
    drop(log);
    let log = open(&path, ROOM).unwrap();
    assert!((LATER..LATER + Duration::from_secs(60)).contains(&log.resumed()), "{:?}", log.resumed());
    assert!(log.clock().now() >= log.resumed());
    let times: Vec<_> = audit(&log).iter().map(|record| entry::since_epoch(&record.time)).collect();
    assert!(times.len() == 2 && times.is_sorted(), "{times:?}");
}

#[test]
fn after_a_write_that_failed_nothing_is_taken_any_more() {
    let (_dir, path) = place();
    let mut log = open(&path, ROOM).unwrap();
    act(&mut log).unwrap();
    let good = log.current.as_mut().unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = std::mem::replace(&mut good.0, Arc::new(full));
    assert!(matches!(one(&mut log, intent()), Err(LogError::Poisoned)));
    log.current.as_mut().unwrap().0 = file;
    assert!(matches!(one(&mut log, intent()), Err(LogError::Poisoned)));
    assert_eq!(on_disk(&path).len(), 2);
    drop(log);
    let mut log = open(&path, ROOM).unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert!(matches!(one(&mut log, intent()), Err(LogError::Poisoned)), "there was no folder to write in");
}

#[test]
fn one_controller_writes_a_log_and_no_link_leads_elsewhere() {
    let (dir, path) = place();
    let mut log = open(&path, ROOM).unwrap();
    assert!(matches!(open(&path, ROOM), Err(LogError::InUse(_))));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(open(&link, ROOM), Err(LogError::File { .. })));
    act(&mut log).unwrap();
    drop(log);
    let segment = files(&path).remove(0);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&segment, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &segment).unwrap();
    assert!(matches!(open(&path, ROOM), Err(LogError::File { .. })));
}

#[test]
fn many_writers_get_each_a_number_and_one_chain() {
    let (_dir, path) = place();
    let writer = Writer::new(open(&path, ROOM).unwrap());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let writer = writer.clone();
            thread::spawn(move || {
                let intents: Vec<_> = (0..20).map(|_| writer.append(intent()).unwrap()).collect();
                for seq in intents {
                    writer.append(outcome(seq)).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(writer.status().last, 320);
    // What append has returned for is in the file, not in a buffer of this process.
    assert_eq!(on_disk(&path).len(), 320);
    let frames = host_log::read(&log_key(), &fs::read(&files(&path)[0]).unwrap()).unwrap().unwrap().frames;
    assert!(frames.len() < 320, "no two records shared a write");
    drop(writer);
    audit(&open(&path, ROOM).unwrap());
}

#[test]
fn records_that_wait_for_the_disk_share_the_next_write_and_no_reader_waits() {
    let (_dir, path) = place();
    let writer = Writer::new(open(&path, ROOM).unwrap());
    let append = || {
        let writer = writer.clone();
        thread::spawn(move || writer.append(intent()).unwrap())
    };
    let until = |state| {
        while writer.waiting() != state {
            thread::yield_now();
        }
    };
    let disk = writer.hold();
    let first = append();
    until((true, 0));
    let others: Vec<_> = (0..7).map(|_| append()).collect();
    until((true, 7));
    let page: host_api::LogPage = serde_json::from_slice(&writer.page(0).unwrap()).unwrap();
    assert!(page.records.is_empty(), "a reader was told of what is not durable");
    drop(disk);
    assert_eq!(first.join().unwrap(), 1);
    let mut others: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
    others.sort_unstable();
    assert_eq!(others, (2..=8).collect::<Vec<_>>());
    let frames = host_log::read(&log_key(), &fs::read(&files(&path)[0]).unwrap()).unwrap().unwrap().frames;
    assert_eq!(frames.len(), 2);
}
