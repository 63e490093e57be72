use super::*;
use proptest::prelude::*;
use std::path::Path;

const HEAD: &str = "[limits]\ngroups = 100\n";
const RULE: &str = "[[rule]]\nid = \"a\"\nwatches = \"seen\"\nseverity = \"notice\"\nagain_after_seconds = 60\n\
                    summary = \"s\"\nrunbook = \"r\"\n";

fn wrong(more: &str) -> String {
    Rules::parse(&format!("{HEAD}{RULE}{more}")).unwrap_err().to_string()
}

#[test]
fn the_rules_of_this_release_cover_what_is_to_be_watched() {
    let rules = Rules::embedded().unwrap();
    let ids: Vec<_> = rules.ids().collect();
    for id in [
        "sensitive-operation",
        "unusual-rate",
        "unusual-operation",
        "refusals",
        "quota-nearly-spent",
        "log-gap",
        "outbound",
        "sandbox-killed",
        "clock",
        "clock-jumped",
        "never-issued",
        "silent",
        "log-tampered",
        "host-key",
        "proof-overload",
        "policy-changed",
        "reader-unusual",
        "reader-refused",
        "attestation-failed",
        "certificate-ending",
        "alarm-undelivered",
    ] {
        assert!(ids.contains(&id), "{id}");
    }
}

#[test]
fn every_rule_has_its_paragraph_in_the_runbook_and_no_paragraph_is_left_over() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/runbook.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rules = Rules::embedded().unwrap();
    let paragraphs: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert_eq!(paragraphs, rules.ids().collect::<Vec<_>>());
}

#[test]
fn sensitive_means_what_the_table_of_operations_says() {
    let rules = Rules::parse(&format!("{HEAD}{RULE}sensitive = true\n")).unwrap();
    let filter = &rules.rules[0].common.filter;
    for operation in Operation::ALL {
        assert_eq!(filter.takes_operation(operation.name()), operation.sensitive(), "{operation:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    assert!(Rules::parse(&format!("{HEAD}{RULE}")).is_ok());
    for (more, says) in [
        ("surprise = 1\n", "surprise"),
        ("percent = 5\n", "percent"),
        ("count = 0\n", "count is 0"),
        ("count = 101\n", "count is 101"),
        ("count = -1\n", "`a`"),
        ("within_seconds = 604801\n", "within_seconds"),
        ("sources = [\"moon\"]\n", "moon"),
        ("subjects = [\"root\"]\n", "root"),
        ("kinds = [\"rumour\"]\n", "rumour"),
        ("operations = [\"OpenShell\"]\n", "OpenShell"),
        ("codes = [\"UPPER\"]\n", "UPPER"),
        ("codes = [\"*\"]\n", "codes"),
        ("per = [\"weather\"]\n", "weather"),
        ("[[rule]]\n", "missing"),
        (RULE, "twice"),
    ] {
        assert!(wrong(more).contains(says), "{more}: {}", wrong(more));
    }
    for (from, to) in [
        ("id = \"a\"", "id = \"A\""),
        ("summary = \"s\"", "summary = \"{shell}\""),
        ("summary = \"s\"", "summary = \"\""),
        ("runbook = \"r\"", "runbook = \"two\\nlines\""),
        ("again_after_seconds = 60", "again_after_seconds = 0"),
        ("watches = \"seen\"", "watches = \"weather\""),
        ("groups = 100", "groups = 1000000000"),
        ("severity = \"notice\"", ""),
    ] {
        let text = format!("{HEAD}{RULE}").replace(from, to);
        assert_eq!(Rules::parse(&text).unwrap_err().code(), "alarms.rules", "{to}");
    }
    assert!(Rules::parse(HEAD).is_err());
    assert_eq!(Rules::parse(&" ".repeat(MAX_FILE + 1)).unwrap_err(), RulesError::TooLong);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,400}") {
        let _ = Rules::parse(&text);
        let _ = Rules::parse(&format!("{HEAD}{RULE}{text}"));
    }
}
