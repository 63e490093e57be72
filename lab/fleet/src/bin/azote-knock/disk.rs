//! What the disk alone takes: what a call must wait for at least.

use crate::Outcome;
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Bytes of one durable step: about what a record takes in the host's log.
const RECORD: usize = 1024;
const ROUNDS: u32 = 300;

/// Times of two appends, each made durable by itself.
pub(crate) fn alone(state: &Path) -> Outcome<Vec<Duration>> {
    steps(&state.join("knock.tmp"), ROUNDS)
}

/// The same by so many at the same time, each in a file of their own.
pub(crate) fn crowd(state: &Path, count: u32) -> Outcome<Vec<Duration>> {
    let threads: Vec<_> = (0..count)
        .map(|number| {
            let path = state.join(format!("knock.{number}.tmp"));
            thread::spawn(move || steps(&path, (ROUNDS / count).max(20)))
        })
        .collect();
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| "a writer panicked")??);
    }
    Ok(times)
}

fn steps(path: &Path, rounds: u32) -> Outcome<Vec<Duration>> {
    let mut file = File::create(path)?;
    // As in the host's log: with room that the file system need not find while one waits.
    fallocate(&file, FallocateFlags::empty(), 0, u64::from(rounds) * 2 * RECORD as u64)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..2 {
            file.write_all(&[0x5a; RECORD])?;
            file.sync_data()?;
        }
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}
