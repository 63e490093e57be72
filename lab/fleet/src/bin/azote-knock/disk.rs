//! What the disk alone takes: what a call must wait for at least.

use crate::Outcome;
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::{ReadWriteFlags, pwritev2},
};
use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes of one durable step: about what a record takes in the host's log.
const RECORD: usize = 1024;
const ROUNDS: u32 = 300;

/// A file with room, as the host's log has it: the file system need not find any while one waits.
struct Raw(File);

/// How bytes become durable.
type Put = fn(&File, &[u8], u64) -> io::Result<()>;

fn write_and_sync(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)?;
    file.sync_data()
}

fn write_synced(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let written = pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

impl Raw {
    fn create(path: &Path, room: u64) -> Outcome<Self> {
        let file = File::create(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, room)?;
        file.sync_all()?;
        Ok(Self(file))
    }
}

/// Times of `steps` appends one after the other, each made durable by itself: `write` with `fdatasync`, and one write that
/// is durable when it returns.
pub(crate) fn alone(state: &Path, steps: u32) -> Outcome<[Vec<Duration>; 2]> {
    let path = state.join("knock.tmp");
    let raw = Raw::create(&path, u64::from(ROUNDS * steps) * 2 * RECORD as u64)?;
    let forms: [Put; 2] = [write_and_sync, write_synced];
    let mut times = [Vec::new(), Vec::new()];
    let mut at = 0;
    for _ in 0..ROUNDS {
        for (put, times) in forms.iter().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..steps {
                put(&raw.0, &[0x5a; RECORD], at)?;
                at += RECORD as u64;
            }
            times.push(start.elapsed());
        }
    }
    fs::remove_file(path)?;
    Ok(times)
}

/// Appends of many to one file: what comes while one is written becomes durable with the next write.
struct Group {
    raw: Raw,
    queue: Mutex<Queue>,
    written: Condvar,
}

/// Numbers of records.
struct Queue {
    come: u64,
    durable: u64,
    led: bool,
}

impl Group {
    fn append(&self) -> io::Result<()> {
        let mut queue = self.queue();
        let mine = queue.come;
        queue.come += 1;
        loop {
            if queue.durable > mine {
                return Ok(());
            }
            if queue.led {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (from, to) = (queue.durable, queue.come);
            queue.led = true;
            drop(queue);
            let block: Vec<_> = (from..to).flat_map(|_| [0x5a; RECORD]).collect();
            write_and_sync(&self.raw.0, &block, from * RECORD as u64)?;
            queue = self.queue();
            (queue.durable, queue.led) = (to, false);
            self.written.notify_all();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Times of `steps` appends one after the other by so many at the same time, who share writes.
pub(crate) fn together(state: &Path, count: u32, steps: u32) -> Outcome<Vec<Duration>> {
    let (path, rounds) = (state.join("knock.tmp"), (ROUNDS * 8 / count).clamp(60, ROUNDS));
    let raw = Raw::create(&path, u64::from(rounds * count * steps) * RECORD as u64)?;
    let queue = Mutex::new(Queue { come: 0, durable: 0, led: false });
    let group = Group { raw, queue, written: Condvar::new() };
    let one = || {
        let round = |_| {
            let start = Instant::now();
            (0..steps).try_for_each(|_| group.append())?;
            Ok(start.elapsed())
        };
        (0..rounds).map(round).collect::<io::Result<Vec<_>>>()
    };
    let times = thread::scope(|scope| -> Outcome<Vec<Duration>> {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().map_err(|_| "a writer panicked")??);
        }
        Ok(times)
    })?;
    fs::remove_file(path)?;
    Ok(times)
}
