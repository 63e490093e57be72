use super::*;
use crate::Severity;
use std::sync::Mutex;

fn alarm(id: &str) -> Alarm {
    Alarm {
        id: id.to_owned(),
        rule: "rule".to_owned(),
        severity: Severity::Notice,
        time: 0,
        subject: None,
        host: None,
        operation: None,
        code: None,
        summary: String::new(),
        runbook: String::new(),
        link: String::new(),
        count: 1,
        again: false,
        entries: Vec::new(),
    }
}

/// Answers as the script says, then takes everything.
struct Scripted {
    name: &'static str,
    script: Mutex<Vec<SendError>>,
    took: Arc<Mutex<Vec<String>>>,
    hangs: bool,
}

impl Sink for Scripted {
    fn name(&self) -> &str {
        self.name
    }
    fn send<'a>(&'a self, alarm: &'a Alarm) -> Sending<'a> {
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if let Some(error) = self.script.lock().unwrap().pop() {
                return Err(error);
            }
            self.took.lock().unwrap().push(alarm.id.clone());
            Ok(())
        })
    }
}

type Took = Arc<Mutex<Vec<String>>>;

fn sink(name: &'static str, script: Vec<SendError>, hangs: bool) -> (Box<dyn Sink>, Took) {
    let took = Took::default();
    (Box::new(Scripted { name, script: Mutex::new(script), took: Arc::clone(&took), hangs }), took)
}

fn pace() -> Pace {
    Pace {
        try_for: Duration::from_millis(50),
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(10),
        give_up: Duration::from_millis(200),
        queue: 2,
    }
}

type Reports = Arc<Mutex<Vec<Undelivered>>>;

fn start(sinks: Vec<Box<dyn Sink>>) -> (Delivery, Reports) {
    let reports = Reports::default();
    let told = Arc::clone(&reports);
    (Delivery::start(sinks, &pace(), move |report| told.lock().unwrap().push(report)), reports)
}

fn unreachable() -> SendError {
    SendError::Unreachable("down".to_owned())
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_fails_is_tried_again_and_told_of() {
    let (sink, took) = sink("a", vec![unreachable(), unreachable(), unreachable()], false);
    let (delivery, reports) = start(vec![sink]);
    delivery.raise(&alarm("x"));
    delivery.close(SOON).await;
    assert_eq!(*took.lock().unwrap(), ["x"]);
    let reports = reports.lock().unwrap();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.tries, report.given_up, report.alarm.as_str()), (2, false, "x"));
}

#[tokio::test]
async fn what_is_refused_is_given_up_at_once_and_what_fails_for_too_long_in_the_end() {
    let (refusing, took) = sink("a", vec![SendError::Refused(400)], false);
    let (down, _) = sink("b", (0..10_000).map(|_| unreachable()).collect(), false);
    let (delivery, reports) = start(vec![refusing, down]);
    delivery.raise(&alarm("x"));
    delivery.close(SOON).await;
    assert!(took.lock().unwrap().is_empty());
    let given_up: Vec<_> = reports.lock().unwrap().iter().filter(|r| r.given_up).cloned().collect();
    assert_eq!(given_up.iter().map(|r| r.sink.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(given_up[0].tries == 1 && given_up[1].tries > 2, "{given_up:?}");
}

#[tokio::test]
async fn a_sink_that_hangs_holds_up_no_other_and_its_full_queue_is_told() {
    let (hanging, _) = sink("a", Vec::new(), true);
    let (well, took) = sink("b", Vec::new(), false);
    let (delivery, reports) = start(vec![hanging, well]);
    for n in 0..6 {
        delivery.raise(&alarm(&n.to_string()));
        // So that the one that is well keeps up.
        sleep(Duration::from_millis(2)).await;
    }
    let start = Instant::now();
    while took.lock().unwrap().len() < 6 {
        assert!(start.elapsed() < SOON);
        sleep(Duration::from_millis(2)).await;
    }
    let full = reports.lock().unwrap().iter().filter(|r| r.given_up && r.tries == 0).count();
    assert!(full >= 3, "one is under way, two wait: {full}");
}
