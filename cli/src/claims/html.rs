//! The report as a page that needs nothing else: no script, no font, no picture from elsewhere.

use super::{Basis, Claim, Evidence, Outcome, Report, counted, harmless};
use crate::failure::Failure;
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");

/// The page. The report itself is in it too, as JSON, for programs.
pub(super) fn page(report: &Report) -> Result<String, Failure> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Azote: the seven claims, {host}</title>\n<style>\n{STYLE}</style>\n\
         <header>\n<h1>The seven claims</h1>\n\
         <p>Host <code>{host}</code>, evidence gathered <time>{made}</time> as <code>{by}</code>.</p>\n\
         <p><b>{counted}.</b></p>\n\
         <p class=\"note\">Each claim is as good as the weakest of its evidence. <b>Not shown</b> means what it says: \
         nothing speaks against the claim, and not everything speaks for it. The attempts were made for this report; \
         they are in the logs and raise alarms like anybody's. The signature of this page is in the file beside it: \
         <code>azote claims --verify</code> checks it.</p>\n</header>\n<main>\n",
        host = escape(&report.host.to_string()),
        made = escape(&report.made),
        by = escape(&report.by.to_string()),
        counted = counted(report),
    );
    overview(&mut page, report);
    report.claims.iter().for_each(|claim| section(&mut page, claim));
    page.push_str("<section>\n<h2>What results rest on</h2>\n<table>\n");
    for (name, meaning) in Basis::ALL.map(Basis::words) {
        let _ = writeln!(page, "<tr><td><b>{name}</b><p>{meaning}</p></td></tr>");
    }
    page.push_str("</table>\n</section>\n");
    // `<` is the one character that could end the element.
    let json = serde_json::to_string_pretty(report).map_err(Failure::state)?.replace('<', "\\u003c");
    let _ = write!(
        page,
        "</main>\n<footer><details><summary>For programs</summary><pre id=\"report\">{}</pre></details></footer>\n</html>\n",
        escape(&json)
    );
    Ok(page)
}

fn overview(page: &mut String, report: &Report) {
    page.push_str("<table class=\"overview\">\n");
    for claim in &report.claims {
        let held = claim.evidence.iter().filter(|it| it.outcome == Outcome::Holds).count();
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td><a href=\"#claim-{0}\">{}</a></td><td>{}</td><td>{held} of {} rows</td></tr>",
            claim.number,
            escape(claim.claim),
            badge(claim.outcome),
            claim.evidence.len()
        );
    }
    page.push_str("</table>\n");
}

fn section(page: &mut String, claim: &Claim) {
    let _ = writeln!(
        page,
        "<section id=\"claim-{0}\">\n<h2>{0}. {1} {2}</h2>\n<table>\n\
         <tr><th>Evidence</th><th>Result</th><th>Rests on</th></tr>",
        claim.number,
        escape(claim.claim),
        badge(claim.outcome)
    );
    for Evidence { what, outcome, found, rests_on } in &claim.evidence {
        let basis: Vec<String> =
            rests_on.iter().map(|basis| format!("<li>{}</li>", basis.words().0)).collect();
        let _ = writeln!(
            page,
            "<tr><td><b>{}</b><p>{}</p></td><td>{}</td><td><ul>{}</ul></td></tr>",
            escape(what),
            escape(found),
            badge(*outcome),
            basis.concat()
        );
    }
    page.push_str("</table>\n</section>\n");
}

fn badge(outcome: Outcome) -> String {
    let class = match outcome {
        Outcome::Holds => "holds",
        Outcome::NotShown => "not-shown",
        Outcome::Broken => "broken",
    };
    format!("<span class=\"badge {class}\">{}</span>", outcome.words().to_lowercase())
}

/// What was found may hold anything that somebody chose.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' => safe.push(c),
            c => safe.push(harmless(c)),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Basis, FORMAT};

    #[test]
    fn what_was_found_cannot_become_part_of_the_page() {
        let evil = "</pre><script>alert('x')</script>\u{1b}[2J\u{202e}\" onload=\"x";
        let evidence = Evidence::new(evil, Outcome::Broken, evil, &[Basis::Kernel]);
        let report = Report {
            format: FORMAT,
            made: "2026-01-02T03:04:05Z".to_owned(),
            host: ids::HostId::from_random(1),
            by: "azote:operator/ada".parse().unwrap(),
            claims: vec![Claim { number: 1, claim: "c", outcome: Outcome::Broken, evidence: vec![evidence] }],
        };
        let page = page(&report).unwrap();
        for bad in ["<script", "</pre><s", "\u{1b}", "\u{202e}", "\" onload"] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("badge broken"));
        for elsewhere in ["http://", "https://", "src=", "url("] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
    }
}
