//! Whether the processors of an emulated machine keep time. QEMU now and then loses an interrupt of a processor that it
//! emulates on a busy machine: that processor then sleeps on, and with it whatever waits for a timer there, the kernel's
//! or a guest's. What was found in such a machine says nothing of what ran in it.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread::{available_parallelism, scope, sleep},
    time::{Duration, Instant},
};

/// How the line begins by which a machine says that one of its processors stands still.
pub const STILL: &str = "azote-guest: still ";
/// No processor that keeps time is as late as this, however busy the machine that emulates it.
const LATE: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(200);

/// Keeps a thread on each processor that wakes by that processor's timer and looks whether the others did too; prints
/// [`STILL`] if one did not. Ends with the machine.
#[allow(clippy::print_stdout, reason = "who emulates the machine reads it")]
pub fn watch() -> Result<(), crate::Error> {
    let beats: Vec<_> = (0..available_parallelism()?.get()).map(|_| AtomicU64::new(0)).collect();
    let begun = Instant::now();
    let (beats, tell) =
        (&beats, |late: Late| println!("{STILL}processor {}, {:.1} s", late.0, late.1.as_secs_f64()));
    scope(|scope| {
        for cpu in 0..beats.len() {
            scope.spawn(move || keep(cpu, begun, beats).map(tell));
        }
    });
    Ok(())
}

/// A processor, and for how long it was not seen awake.
struct Late(usize, Duration);

/// Beats on processor `cpu`, until another one is late.
fn keep(cpu: usize, begun: Instant, beats: &[AtomicU64]) -> Option<Late> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).ok()?;
    loop {
        sleep(BEAT);
        let now = begun.elapsed();
        beats.get(cpu)?.store(u64::try_from(now.as_millis()).ok()?, Ordering::Relaxed);
        let late =
            beats.iter().map(|beat| now.saturating_sub(Duration::from_millis(beat.load(Ordering::Relaxed))));
        let late = late.enumerate().find(|(_, by)| *by > LATE);
        if let Some((cpu, by)) = late {
            return Some(Late(cpu, by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_does_not_wake_is_named_and_one_that_is_busy_is_not() {
        let begun = Instant::now().checked_sub(2 * LATE).unwrap();
        let beats = [AtomicU64::new(0), AtomicU64::new(u64::MAX), AtomicU64::new(0)];
        let Late(cpu, by) = keep(0, begun, &beats).unwrap();
        assert_eq!(cpu, 2);
        assert!(by >= 2 * LATE);
        assert!(keep(3, begun, &beats).is_none(), "there is no such processor");
    }
}
