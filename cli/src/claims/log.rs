//! Claim 6: the attempts that were just made are in the log, and the log is whole.

use super::{
    Basis, Evidence, Outcome,
    door::{Attempt, Knocks},
    network::Tried,
};
use crate::{
    audit::{copy, key},
    cloud::Cloud,
    failure::Failure,
    place::Place,
};
use ::audit::{
    note::{Checkpoint, VerifierKey},
    verify::{Reader, Report},
};
use host_api::{Api, LogRecord, RecordKind};
use std::{collections::BTreeSet, fmt::Write, fs};

const WHOLE: &str = "The audit log, verified whole";
/// Where `azote log verify` keeps the checkpoint that it verified last.
const VERIFIED: &str = "verified-checkpoint";
/// What the audit service finds where something was not logged, or was taken out of a log. Other findings are of calls
/// that were logged, and alarmed about.
const LOST: [&str; 5] =
    ["audit.gap.unrecorded", "audit.truncated", "audit.forked", "audit.chain", "audit.signature"];

/// The rows.
pub(super) fn evidence(place: &Place, cloud: &Cloud, knocks: &Knocks, handshakes: &[Tried]) -> Vec<Evidence> {
    let copied = key(place).and_then(|key| {
        let host = cloud.log(knocks.after)?;
        let copy = copy(cloud, &key, host.last().map_or(0, |record| record.seq))?;
        Ok((host, copy, before(cloud, &key, place)?))
    });
    let mut rows = match copied {
        Ok((host, copy, before)) => {
            let after = usize::try_from(knocks.after).unwrap_or(usize::MAX);
            let copied = copy.records.get(after..).is_some_and(|records| records.starts_with(&host));
            vec![made(&host, copied, knocks, handshakes), order(&copy.records), whole(&copy.report, before)]
        }
        // Whatever does not verify is not merely unread.
        Err(Failure::Advice(code, why)) if code.starts_with("verify.") && code != "verify.file" => {
            vec![Evidence::new(WHOLE, Outcome::Broken, format!("{why} ({code})"), &[Basis::Cryptography])]
        }
        Err(error) => vec![Evidence::of(WHOLE, Err(error))],
    };
    rows.push(reader(cloud));
    rows
}

/// Whether the attempts are in the host's log, and `copied` to the audit log.
fn made(records: &[LogRecord], copied: bool, knocks: &Knocks, handshakes: &[Tried]) -> Evidence {
    let attempt = |it: &Attempt| Some((it.refused.what.clone(), it.api, it.refused.code.clone()?));
    let mut wanted: Vec<(String, Option<Api>, String)> = knocks.attempts.iter().filter_map(attempt).collect();
    let failed = handshakes.iter().filter(|it| it.service == "controller").count();
    wanted.extend((0..failed).map(|_| ("a failed handshake".to_owned(), None, "tls.handshake".to_owned())));
    let missing = missing(records, knocks.after, &wanted);
    let found = if !missing.is_empty() {
        format!("{} of {} attempts are in no record: {}", missing.len(), wanted.len(), missing.join(", "))
    } else if copied {
        format!(
            "{} attempts, each in the host's log with its operation and its code; the audit log has the same records",
            wanted.len()
        )
    } else {
        "the audit log has OTHER records than the host".to_owned()
    };
    let outcome = Outcome::of(missing.is_empty() && !wanted.is_empty() && copied);
    let basis = [Basis::Cryptography, Basis::Release];
    Evidence::new("Every attempt that was just made", outcome, found, &basis)
}

/// How many entries the checkpoint had that was verified last; the log must continue it.
fn before(cloud: &Cloud, key: &VerifierKey, place: &Place) -> Result<Option<u64>, Failure> {
    let Ok(note) = fs::read_to_string(place.path(VERIFIED)) else { return Ok(None) };
    let before = Checkpoint::open(&note, key)
        .map_err(|_| Failure::State(format!("{VERIFIED} is no checkpoint of this log")))?;
    let mut read = |name: &str| {
        let path = format!("/{name}");
        cloud.audit(async |audit| audit.bytes(&path).await).map_err(|error| error.to_string())
    };
    Reader::open(key, &mut read)?.continues(&before)?;
    Ok(Some(before.size))
}

/// The attempts that no record of their own is for.
fn missing(records: &[LogRecord], after: u64, wanted: &[(String, Option<Api>, String)]) -> Vec<String> {
    let mut refusals: Vec<&LogRecord> =
        records.iter().filter(|it| it.seq > after && it.kind == RecordKind::Refusal).collect();
    let mut taken = |api: Option<Api>, code: &str| {
        let is =
            |it: &&LogRecord| it.api == api && it.code.as_ref().is_some_and(|said| said.as_str() == code);
        refusals.iter().position(is).map(|at| refusals.swap_remove(at)).is_some()
    };
    wanted.iter().filter(|(_, api, code)| !taken(*api, code)).map(|(what, ..)| what.clone()).collect()
}

/// Each outcome names an intent that was written before it.
fn order(records: &[LogRecord]) -> Evidence {
    let mut intents = BTreeSet::new();
    let (mut outcomes, mut wrong) = (0, Vec::new());
    for record in records {
        match record.kind {
            RecordKind::Intent => drop(intents.insert(record.seq)),
            RecordKind::Outcome => {
                outcomes += 1;
                if !record.intent.is_some_and(|intent| intents.contains(&intent)) {
                    wrong.push(record.seq.to_string());
                }
            }
            _ => {}
        }
    }
    let found = if wrong.is_empty() {
        format!("{outcomes} outcomes, each after the record of its intent, in the order of the host's chain")
    } else {
        format!("outcomes without an intent before them: records {}", wrong.join(", "))
    };
    let outcome = if outcomes == 0 { Outcome::NotShown } else { Outcome::of(wrong.is_empty()) };
    Evidence::new("Every act after its record", outcome, found, &[Basis::Cryptography, Basis::Release])
}

/// What was verified: signature, tree, proofs and the hosts' chains, from the served log.
fn whole(report: &Report, before: Option<u64>) -> Evidence {
    let signed: Vec<String> = report
        .hosts
        .iter()
        .map(|(host, it)| format!("{host}: {} records, signed by it up to {}", it.records, it.signed))
        .collect();
    let list = |lost: bool| {
        let of = report.found.iter().filter(|(code, _)| LOST.contains(&code.as_str()) == lost);
        of.map(|(code, count)| format!("{count} × {code}")).collect::<Vec<_>>().join(", ")
    };
    let (lost, noticed) = (list(true), list(false));
    let mut found = format!(
        "{} entries, root {}, {} inclusion proofs; {}",
        report.size,
        report.root,
        report.proofs,
        signed.join("; ")
    );
    if let Some(size) = before {
        let _ = write!(found, "; continues the checkpoint of {size} entries that was verified before");
    }
    for (what, codes) in [("not logged or lost", &lost), ("noticed by the audit service", &noticed)] {
        if !codes.is_empty() {
            let _ = write!(found, "; {what}: {codes}");
        }
    }
    // The keys that signed are sealed in software TPMs.
    Evidence::new(WHOLE, Outcome::of(lost.is_empty()), found, &[Basis::Cryptography, Basis::LabStandIn])
}

/// Whoever keeps servers may not read what was written about it.
fn reader(cloud: &Cloud) -> Evidence {
    let code = cloud.read_log_as_keeper().err().map(|error| error.code().to_owned());
    let refused = code.as_deref().is_some_and(|code| code.starts_with("rights."));
    Evidence::new(
        "The audit log, read by somebody who may not",
        Outcome::of(refused),
        format!("a keeper of servers asks for entries: {}", code.as_deref().unwrap_or("given")),
        &[Basis::Release, Basis::Cryptography],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::recorded::tests::records;
    use serde_json::json;

    #[test]
    fn one_record_is_for_one_attempt_only() {
        let refusal = json!({"kind": "refusal", "api": "DrainHost", "code": "token.missing"});
        let other = json!({"kind": "refusal", "api": "DrainHost", "code": "token.expired"});
        let logged = records(&[refusal.clone(), refusal, other]);
        let made = |count| vec![("x".to_owned(), Some(Api::DrainHost), "token.missing".to_owned()); count];
        assert!(missing(&logged, 0, &made(2)).is_empty());
        assert_eq!(missing(&logged, 0, &made(3)).len(), 1);
        assert_eq!(missing(&logged, 1, &made(2)).len(), 1, "an earlier one does not count");
    }

    #[test]
    fn an_outcome_without_an_intent_before_it_breaks_the_order() {
        let intent = json!({"kind": "intent", "api": "DrainHost"});
        let outcome = |of: u64| json!({"kind": "outcome", "api": "DrainHost", "intent": of});
        assert_eq!(order(&records(&[intent.clone(), outcome(1)])).outcome, Outcome::Holds);
        assert_eq!(order(&records(&[outcome(2), intent.clone()])).outcome, Outcome::Broken);
        assert_eq!(order(&records(&[intent])).outcome, Outcome::NotShown);
    }
}
