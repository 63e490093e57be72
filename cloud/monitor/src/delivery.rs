//! Carries alarms to where people see them, and tells of each that does not get there.

use crate::Alarm;
use serde::Serialize;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// A delivery under way.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

/// Where alarms go.
pub trait Sink: Send + Sync + 'static {
    /// Its name in records and messages.
    fn name(&self) -> &str;
    /// Sends one alarm. It may be sent again after a failure: [`Alarm::id`] stays the same.
    fn send<'a>(&'a self, alarm: &'a Alarm) -> Sending<'a>;
}

/// Why an alarm was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other side is not there, or not well: it is tried again.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// The other side will not take this alarm, however often it is sent.
    #[error("refused with HTTP status {0}")]
    Refused(u16),
}

/// How deliveries are paced.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Longest that one try may take.
    pub try_for: Duration,
    /// Wait after the first failure; doubled after each further one,
    pub first_wait: Duration,
    /// up to this.
    pub longest_wait: Duration,
    /// After so long an alarm is given up. An alarm that is older still has one try.
    pub give_up: Duration,
    /// Alarms that wait for one sink.
    pub queue: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            try_for: Duration::from_secs(2),
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(30),
            give_up: Duration::from_secs(15 * 60),
            queue: 1024,
        }
    }
}

/// An alarm that did not arrive. It is to be recorded, and observed with
/// [`UNDELIVERED`](crate::UNDELIVERED).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undelivered {
    /// Where it should have gone.
    pub sink: String,
    /// Which alarm.
    pub alarm: String,
    /// Tries so far.
    pub tries: u32,
    /// Whether it is given up, or tried again.
    pub given_up: bool,
    /// Why, for people.
    pub reason: String,
}

type Report = Arc<dyn Fn(Undelivered) + Send + Sync>;

/// Queues and tasks, one of each for every sink: a sink that hangs holds up no other.
#[derive(Debug)]
pub struct Delivery {
    queues: Vec<(Arc<str>, mpsc::Sender<Waiting>)>,
    tasks: JoinSet<()>,
    report: ReportTo,
}

struct ReportTo(Report);

impl std::fmt::Debug for ReportTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReportTo")
    }
}

#[derive(Debug)]
struct Waiting {
    alarm: Arc<Alarm>,
    since: Instant,
}

impl Delivery {
    /// Starts the tasks; within a tokio runtime. `report` hears of an alarm whose second try failed, that was given
    /// up, or for which the queue had no room; it must not block.
    pub fn start(
        sinks: Vec<Box<dyn Sink>>,
        pace: &Pace,
        report: impl Fn(Undelivered) + Send + Sync + 'static,
    ) -> Self {
        let report: Report = Arc::new(report);
        let mut tasks = JoinSet::new();
        let queues = sinks
            .into_iter()
            .map(|sink| {
                let (sender, queue) = mpsc::channel(pace.queue.max(1));
                let name = Arc::from(sink.name());
                tasks.spawn(carry(sink, queue, pace.clone(), Arc::clone(&report)));
                (name, sender)
            })
            .collect();
        Self { queues, tasks, report: ReportTo(report) }
    }

    /// Hands an alarm to every sink's queue; never waits.
    pub fn raise(&self, alarm: &Alarm) {
        let alarm = Arc::new(alarm.clone());
        for (name, queue) in &self.queues {
            let waiting = Waiting { alarm: Arc::clone(&alarm), since: Instant::now() };
            if queue.try_send(waiting).is_err() {
                (self.report.0)(Undelivered {
                    sink: name.to_string(),
                    alarm: alarm.id.clone(),
                    tries: 0,
                    given_up: true,
                    reason: "too many alarms wait for this sink".to_owned(),
                });
            }
        }
    }

    /// Takes no more alarms, and waits for those that are under way, at most so long.
    pub async fn close(self, limit: Duration) {
        let Self { queues, mut tasks, .. } = self;
        drop(queues);
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(limit, all).await.is_err() {
            tracing::warn!("alarms are left undelivered");
        }
    }
}

async fn carry(sink: Box<dyn Sink>, mut queue: mpsc::Receiver<Waiting>, pace: Pace, report: Report) {
    while let Some(waiting) = queue.recv().await {
        deliver(sink.as_ref(), &waiting, &pace, &report).await;
    }
}

/// Tries until it is delivered or given up.
async fn deliver(sink: &dyn Sink, waiting: &Waiting, pace: &Pace, report: &Report) {
    let mut wait = pace.first_wait;
    for tries in 1.. {
        let late = || Err(SendError::Unreachable("no answer in time".to_owned()));
        let result = timeout(pace.try_for, sink.send(&waiting.alarm)).await;
        let Err(error) = result.unwrap_or_else(|_| late()) else { return };
        let given_up = matches!(error, SendError::Refused(_)) || waiting.since.elapsed() >= pace.give_up;
        tracing::warn!(sink = sink.name(), alarm = waiting.alarm.id, tries, given_up, %error, "alarm not delivered");
        if given_up || tries == 2 {
            report(Undelivered {
                sink: sink.name().to_owned(),
                alarm: waiting.alarm.id.clone(),
                tries,
                given_up,
                reason: error.to_string(),
            });
        }
        if given_up {
            return;
        }
        sleep(wait).await;
        wait = (wait * 2).min(pace.longest_wait);
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
