//! Watching what nobody asks for, about once a second, and writing it into the host's log.

use crate::{
    chip::describe,
    clock::Clock,
    host::Host,
    hypervisors::Hypervisors,
    log::{Entry, Writer},
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};
use wire::chip::Event;

const PERIOD: Duration = Duration::from_secs(1);
/// Most chip events in a row that the log takes one by one,
const BURST: u32 = 16;
/// and how many looks earn one more: a guest that hammers its flash must not fill the host's log.
const LOOKS_PER_RECORD: u32 = 10;

/// Lets through so many records; counts the others and tells their number when there is room again.
#[derive(Debug)]
pub struct Throttle {
    room: u32,
    looks: u32,
    held_back: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { room: BURST, looks: 0, held_back: 0 }
    }
}

impl Throttle {
    /// One look at the chip: new events, and how many the chip itself lost.
    pub fn pass(&mut self, events: &[Event], dropped: u64) -> Vec<Entry> {
        self.looks += 1;
        if self.looks >= LOOKS_PER_RECORD {
            self.looks = 0;
            self.room = (self.room + 1).min(BURST);
        }
        let mut entries = Vec::new();
        if self.held_back > 0 && self.room > 0 {
            self.room -= 1;
            let detail = format!("{} events of the security chip are not listed one by one", self.held_back);
            self.held_back = 0;
            entries.push(Entry::event("chip.events", &detail));
        }
        self.held_back += dropped;
        for event in events {
            if self.room == 0 {
                self.held_back += 1;
                continue;
            }
            self.room -= 1;
            let (code, detail) = describe(event);
            entries.push(Entry::event(code, &detail));
        }
        entries
    }
}

/// Starts the watching thread; it ends within a period after `stop` is set.
pub fn start(
    host: Arc<Host>,
    clock: Clock,
    log: Writer,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let jump = clock.jump().map(|jump| Entry::event("clock.jumped", &jump.to_string()));
            for entry in host.look().into_iter().chain(jump) {
                if let Err(error) = log.append(entry) {
                    tracing::error!(%error, "an event is not in the log");
                }
            }
            sleep(PERIOD);
        }
    })
}

/// Starts the thread that passes turns on among burstable instances; it ends within a second after `stop` is set.
pub fn take_turns(hypervisors: Arc<Hypervisors>, stop: Arc<AtomicBool>) -> io::Result<JoinHandle<()>> {
    let turns = move || hypervisors.take_turns(|| stop.load(Ordering::Relaxed));
    thread::Builder::new().name("turns".to_owned()).spawn(turns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::chip::{Attempts, EventKind, Line, Master, Target};

    #[test]
    fn a_flood_costs_few_records_and_no_number_is_lost() {
        let mut throttle = Throttle::default();
        let events: Vec<_> =
            (0..100).map(|seq| Event { seq, what: EventKind::ResetHeld { line: Line::Cpu } }).collect();
        let looks = 1000;
        let entries: Vec<_> = (0..looks).flat_map(|_| throttle.pass(&events, 3)).collect();
        let listed =
            entries.iter().filter(|e| e.code.as_ref().unwrap().as_str() == "chip.reset-held").count() as u64;
        let told: u64 = entries
            .iter()
            .filter(|e| e.code.as_ref().unwrap().as_str() == "chip.events")
            .map(|e| e.detail.as_ref().unwrap().as_str().split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(listed + told + throttle.held_back, looks * 103);
        assert!(entries.len() as u64 <= u64::from(BURST) + looks / u64::from(LOOKS_PER_RECORD));
    }

    #[test]
    fn single_events_are_listed_as_they_come() {
        let mut throttle = Throttle::default();
        for seq in 0..1000 {
            let (master, target) = (Master::Cpu, Target::Code);
            let what = EventKind::WriteRefused(Attempts {
                master,
                target,
                offset: 64,
                bytes: 4,
                attempts: 1,
                changing: 1,
            });
            let entries = throttle.pass(&[Event { seq, what }], 0);
            assert_eq!(entries.len(), 1);
            for _ in 0..LOOKS_PER_RECORD {
                assert!(throttle.pass(&[], 0).is_empty());
            }
        }
    }
}
