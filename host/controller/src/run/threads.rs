//! What goes on beside serving.

use crate::{clock::Clock, host::Host, hypervisors::Hypervisors, log::Writer, watch};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// What goes on beside serving.
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(
        host: &Arc<Host>,
        turns: Option<Arc<Hypervisors>>,
        clock: &Clock,
        log: &Writer,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let watching = watch::start(Arc::clone(host), clock.clone(), log.clone(), Arc::clone(&stop))?;
        let turns = turns.map(|hypervisors| watch::take_turns(hypervisors, Arc::clone(&stop))).transpose()?;
        Ok(Self { stop, threads: [Some(watching), turns].into_iter().flatten().collect() })
    }

    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        // The threads have nothing to give; if one panicked, the process ends here anyway.
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}
