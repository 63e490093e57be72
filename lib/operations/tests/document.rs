//! `docs/operations.md` is made from the table.

use operations::{AUDIT_FIELDS, Effect, Operation};
use std::fmt::{Display, Write};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn document() -> Result<String, std::fmt::Error> {
    let mut text = String::from(
        "# Operations on a host\n\n\
         Everything that anyone can ask of a host. There is nothing else: no operation runs a command, reads a path,\n\
         opens a shell, copies content or weakens a protection, and no request or answer has a place for customer\n\
         content; what a console prints and takes passes sealed between instance and tenant. Made from `lib/operations/src/table.rs`; the wire form is `api/controller-v1.json`, and who has which\n\
         operation is in `policies/`.\n\n\
         | operation | request | on | for | effect |\n|---|---|---|---|---|\n",
    );
    for o in Operation::ALL {
        let effect = match (o.effect(), o.sensitive()) {
            (Effect::Observe, _) => "observes",
            (Effect::Change, false) => "changes",
            (Effect::Change, true) => "changes, sensitive",
        };
        let (method, path, on, callers) = (o.method(), o.path(), list(o.kinds()), list(o.callers()));
        writeln!(text, "| {o} | `{method} {path}` | {on} | {callers} | {effect} |")?;
    }
    text.push_str(
        "\nA token for a sensitive operation is good for one call, and a host does few of them in an hour\n\
         (`policies/quotas.toml`). Each use is an alarm.\n\n\
         ## What each is for, and what it carries\n\n\
         | operation | purpose | data in the request | data in the answer | noted in the log's `detail` |\n\
         |---|---|---|---|---|\n",
    );
    for o in Operation::ALL {
        let (asks, answers) = (list(o.request_classes()), list(o.answer_classes()));
        writeln!(text, "| {o} | {} | {asks} | {answers} | {} |", o.purpose(), list(o.notes()))?;
    }
    write!(
        text,
        "\nFor every attempt, refused ones included, the host's log holds: {}. Times, sequence numbers and hashes are\n\
         the log's own; `request` is the id that the caller's proof of possession carries, so that both sides' records\n\
         can be matched.\n",
        list(AUDIT_FIELDS.iter().map(|field| format!("`{field}`")))
    )?;
    Ok(text)
}

#[test]
fn the_document_is_the_generated_one() {
    let document = document().unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PATH, &document).unwrap();
    }
    let frozen = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(frozen == document, "the operations changed: UPDATE=1 cargo test -p operations");
}
