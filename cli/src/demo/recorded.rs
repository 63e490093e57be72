//! Step 8: the log that has it all.

use super::{Scene, Stage, refused::Attack};
use crate::{cloud::Attempt, failure::Failure};
use host_api::{Code, LogRecord, RecordKind};

/// Who takes the log to the audit log.
const AUDIT: &str = "azote:service/audit";

/// The rule that a stolen token raises an alarm by.
const STOLEN: &str = "stolen-token";

/// The host's log: chained, every attempt there, each before its outcome.
pub(super) fn log(
    stage: &mut Stage<'_>,
    scene: &Scene,
    attack: &Attack,
) -> Result<serde_json::Value, Failure> {
    stage
        .report
        .step("The host's log has every attempt, refusals included, each written before it was acted on");
    let made = scene.cloud.attempts();
    let records = scene.cloud.log(0)?;
    stage.out.line(&crate::verbs::log_table(&records));
    stage.report.promise(
        "its chain is whole from the first record on",
        is_chained(&records),
        format!("{} records, each with the hash of the one before", records.len()),
    );
    // The audit service reads all the time, and the authority looks now and then: their calls are between ours.
    let pulls = |record: &LogRecord| {
        record
            .subject
            .as_ref()
            .is_some_and(|who| [AUDIT, service::AUTHORITY].contains(&who.to_string().as_str()))
    };
    let others: Vec<_> = records.iter().filter(|record| !pulls(record)).cloned().collect();
    let logged = attempts(&others).unwrap_or_default();
    // This scene's calls are the last ones: that the log was read is recorded once it was found.
    let ours = logged.get(logged.len().saturating_sub(made.len())..).unwrap_or_default();
    let all = ours.len() == made.len() && !made.is_empty();
    let difference = ours.iter().zip(&made).find(|(logged, made)| !tells(logged, made));
    let refused = made.iter().filter(|attempt| attempt.code.is_some()).count();
    stage.report.promise(
        "every attempt of steps 4 to 7 is there, in its order and with its code, the intent before the outcome",
        all && difference.is_none(),
        match difference {
            None => format!("{} attempts made, {} recorded, {refused} of them refused or failed", made.len(), ours.len()),
            Some((_, made)) => format!("not as it was: {} {}", made.api, made.code.as_deref().unwrap_or("done")),
        },
    );
    let event = records.iter().find(|record| is_attack(record, attack));
    stage.report.promise(
        "so is the guest's attempt on the firmware",
        event.is_some(),
        event.map(|record| crate::verbs::log_table(std::slice::from_ref(record))).unwrap_or_default().trim(),
    );
    audited(stage, scene, &records)?;
    serde_json::to_value(&records).map_err(Failure::state)
}

/// The audit service's log: the same records, off the host, under a tree that verifies; and the alarm.
fn audited(stage: &mut Stage<'_>, scene: &Scene, records: &[LogRecord]) -> Result<(), Failure> {
    let key = crate::audit::key(stage.place)?;
    let copy = {
        let _progress =
            stage.out.progress("waiting for the audit service to read the host, and verifying its log");
        crate::audit::copy(&scene.cloud, &key, records.len() as u64)?
    };
    let same = copy.records.get(..records.len()) == Some(records);
    let size = copy.report.size;
    stage.report.promise(
        "the audit service has the same records, in a log that verifies against its public key",
        same,
        format!("{size} entries, root {}", copy.report.root),
    );
    let stolen = copy.alarms.iter().find(|alarm| alarm.rule == STOLEN);
    let summary = stolen.map(|alarm| format!("{}: {}", alarm.rule, alarm.summary)).unwrap_or_default();
    stage.report.promise("the stolen token raised an alarm", stolen.is_some(), summary);
    Ok(())
}

fn is_chained(records: &[LogRecord]) -> bool {
    let mut hash = host_api::GENESIS;
    let follows =
        |(seq, record): (u64, &LogRecord)| record.follows(seq, &hash).map(|next| hash = next).is_ok();
    !records.is_empty() && (1..).zip(records).all(follows)
}

/// What the log says was attempted, in order; `None` if an outcome has no intent before it.
fn attempts(records: &[LogRecord]) -> Option<Vec<Attempt>> {
    let mut found: Vec<(u64, Attempt)> = Vec::new();
    for record in records {
        let code = record.code.as_ref().map(|code| code.as_str().to_owned());
        match (record.kind, record.api) {
            (RecordKind::Outcome, _) => {
                let intent = found.iter_mut().find(|(seq, _)| Some(*seq) == record.intent)?;
                intent.1.code = code;
            }
            (RecordKind::Intent | RecordKind::Refusal, Some(api)) => {
                found.push((record.seq, Attempt { api, resources: record.resources.clone(), code }));
            }
            _ => {}
        }
    }
    Some(found.into_iter().map(|(_, attempt)| attempt).collect())
}

/// Whether the log tells what was made. What a caller without a good token wanted to touch is not written down.
fn tells(logged: &Attempt, made: &Attempt) -> bool {
    let unsaid = logged.resources.is_empty() && made.code.is_some();
    logged.api == made.api && logged.code == made.code && (unsaid || logged.resources == made.resources)
}

fn code_of(record: &LogRecord) -> &str {
    record.code.as_ref().map_or("", Code::as_str)
}

/// Whether this is the chip's word on the guest's write, not on one of the firmware's own.
fn is_attack(record: &LogRecord, attack: &Attack) -> bool {
    let place = format!("at {:#x}", attack.offset);
    record.seq > attack.after
        && code_of(record) == "chip.write-refused"
        && record.detail.as_ref().is_some_and(|detail| detail.as_str().ends_with(&place))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A log of these, numbered from 1.
    pub(crate) fn records(of: &[Value]) -> Vec<LogRecord> {
        let record = |(seq, value): (usize, &Value)| {
            let mut record =
                json!({"seq": seq + 1, "time": "2026-01-02T03:04:05.678901Z", "prev": "00".repeat(32)});
            record.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            serde_json::from_value(record).unwrap()
        };
        of.iter().enumerate().map(record).collect()
    }

    #[test]
    fn an_outcome_before_its_intent_is_noticed() {
        let intent = json!({"kind": "intent", "api": "DetachVolume"});
        let outcome =
            |of: u64| json!({"kind": "outcome", "api": "DetachVolume", "intent": of, "code": "volume.busy"});
        let good = attempts(&records(&[intent.clone(), outcome(1)])).unwrap();
        assert_eq!((good.len(), good[0].code.as_deref()), (1, Some("volume.busy")));
        assert_eq!(attempts(&records(&[outcome(2), intent])), None);
        let refusal = json!({"kind": "refusal", "api": "DetachVolume", "code": "token.missing"});
        assert_eq!(attempts(&records(&[refusal])).unwrap()[0].code.as_deref(), Some("token.missing"));
    }

    #[test]
    fn the_firmwares_own_write_is_not_taken_for_the_guests() {
        let write = |at: &str| json!({"kind": "event", "code": "chip.write-refused", "detail": format!("event 4: 1 write of 512 bytes to the firmware at {at}")});
        let all = records(&[write("0x17c000"), write("0x0"), write("0x17c000")]);
        let attack = Attack { after: 1, offset: 0x17c000 };
        assert_eq!(
            all.iter().map(|record| is_attack(record, &attack)).collect::<Vec<_>>(),
            [false, false, true]
        );
    }
}
