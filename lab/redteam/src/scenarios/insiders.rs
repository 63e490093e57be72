//! People inside who change what decides, and the token service itself: gone, or with keys that are no longer good.

use crate::{
    Outcome,
    crew::{ALICE, Ask, PIPELINE, Who, refused},
    play::{Act, Scenario},
    rack::Unit,
    stage::Stage,
};
use host_api::{Api, ReadStatus, SignedKeys, UpdateTokenKeys};
use ids::Identity;
use rights::{Review, Sources};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use token::cose;

/// What a reviewer's signature is for (`docs/specification.md`).
const REVIEW: &[u8] = b"azote/rights-review/1";
const REVIEWERS: [Who; 2] = ["reviewer-1", "reviewer-2"];
/// A policy that lets one group do anything when somebody says that it is an emergency.
const BREAK_GLASS: &str = r#"
@id("break-glass")
@why("Emergencies.")
permit (principal in Group::"host-keepers", action, resource);
"#;
const UNREVIEWED: &str = "\"ResetHost\", \"PowerCycleHost\"]";
/// How long the rule on forged tokens keeps another alarm of its kind back.
const FORGED_AGAIN: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    let refused = |name, act, code| Scenario::new(name, act, code, "policy-refused").alone();
    vec![
        Scenario::new(
            "token service down: no new token, valid ones go on",
            down,
            "call.unreachable",
            "silent",
        )
        .waits(crate::stage::SILENCE)
        .alone(),
        refused("insider changes the policies without a review", unreviewed, "review.set")
            .says(&["review.set"]),
        refused("insider reviews their own change", own_review, "review.author").says(&["review.author"]),
        refused("insider finds one reviewer only", one_reviewer, "review.signatures")
            .says(&["review.signatures"]),
        refused("break-glass policy that two people signed", break_glass, "rights.policy")
            .says(&["rights.policy"]),
        refused("insider brings back an older reviewed policy set", older, "review.previous")
            .says(&["review.previous"]),
        Scenario::new("token of a key that was rotated out", rotated_out, "token.signature", "forged-token")
            .says(&["token.signature"])
            .waits(FORGED_AGAIN)
            .alone(),
    ]
}

/// Work goes on with the tokens that are out.
fn down(stage: &mut Stage) -> Outcome<Act> {
    let token = stage.crew.given(ALICE, &Ask::new(Api::HostStatus, stage.crew.here()))?;
    let unit = stage.rack.unit("tokens")?;
    stage.rack.end("tokens", Signal::KILL)?;
    let at = Instant::now();
    let code = stage.crew.token(ALICE, &Ask::new(Api::HostStatus, stage.crew.here()));
    let goes_on = stage.crew.call(ALICE, &token, &ReadStatus {});
    let told = stage.told("silent", at);
    stage.rack.start(&unit)?;
    goes_on??;
    told?;
    Ok(Act { codes: vec![refused(code?)], at })
}

/// A copy of this release's policies, changed.
fn policies(stage: &Stage, file: &str, change: impl FnOnce(String) -> String) -> Outcome<PathBuf> {
    let failed = |e: std::io::Error| e.to_string();
    let folder = stage.rack.state.join("policies");
    fs::create_dir_all(&folder).map_err(failed)?;
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::copy(entry.path(), folder.join(entry.file_name())).map_err(failed)?;
    }
    let path = folder.join(file);
    let changed = change(fs::read_to_string(&path).map_err(failed)?);
    fs::write(path, changed).map_err(failed)?;
    Ok(folder)
}

/// Signs a review of the policies in a folder, as people who have the reviewers' keys can; the file with it.
fn review(stage: &Stage, folder: &Path, author: &Identity, by: &[Who]) -> Outcome<PathBuf> {
    let unit = stage.rack.unit("tokens")?;
    let present = fs::read_to_string(unit.get("--review").ok_or("no review")?).map_err(|e| e.to_string())?;
    let present = Review::parse(&present).map_err(|e| e.to_string())?;
    let set = Sources::read(folder).map_err(|e| e.to_string())?.hash();
    let mut review = Review::new(set, Some(present.set), present.number + 1, author.clone());
    for who in by {
        let credentials = stage.crew.credentials(who)?;
        let identity = credentials.identity().map_err(|e| e.to_string())?;
        let statement = review.statement(&identity).into_bytes();
        let signed = cose::sign(credentials.key().pair(), statement, REVIEW).ok_or("cannot sign")?;
        review.signatures.push(cose::to_base64(&signed));
    }
    let path = stage.rack.state.join("review.json");
    fs::write(&path, serde_json::to_vec(&review).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    Ok(path)
}

/// Starts the token service with changed policies.
fn attempt(stage: &mut Stage, folder: &Path, review: Option<&Path>) -> Outcome<Act> {
    let unit = stage.rack.unit("tokens")?;
    let mut changed = unit.set("--rights", &folder.display().to_string());
    if let Some(review) = review {
        changed = changed.set("--review", &review.display().to_string());
    }
    refusal(stage, &changed)
}

/// Starts the token service otherwise: it must end and say why. Then it runs as before.
fn refusal(stage: &mut Stage, changed: &Unit) -> Outcome<Act> {
    let unit = stage.rack.unit("tokens")?;
    stage.rack.end("tokens", Signal::TERM)?;
    let at = Instant::now();
    let said = stage.rack.start(changed).err();
    if said.is_none() {
        stage.rack.end("tokens", Signal::TERM)?;
    }
    stage.rack.start(&unit)?;
    let said = said.unwrap_or_else(|| "not refused".to_owned());
    let codes = ["review.set", "review.author", "review.signatures", "review.previous", "rights.policy"];
    let code = codes.into_iter().find(|code| said.contains(&format!("{code}:"))).unwrap_or(&said);
    Ok(Act { codes: vec![code.to_owned()], at })
}

fn identity(text: &str) -> Outcome<Identity> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

fn unreviewed(stage: &mut Stage) -> Outcome<Act> {
    let more = UNREVIEWED.replace(']', ", \"UpdateTokenKeys\"]");
    let folder = policies(stage, "groups.toml", |text| text.replace(UNREVIEWED, &more))?;
    attempt(stage, &folder, None)
}

fn own_review(stage: &mut Stage) -> Outcome<Act> {
    let folder = policies(stage, "quotas.toml", |text| text.replace("member = 20", "member = 2000"))?;
    let [first, _] = REVIEWERS;
    let author = stage.crew.credentials(first)?.identity().map_err(|e| e.to_string())?;
    let review = review(stage, &folder, &author, &REVIEWERS)?;
    attempt(stage, &folder, Some(&review))
}

fn one_reviewer(stage: &mut Stage) -> Outcome<Act> {
    let folder = policies(stage, "quotas.toml", |text| text.replace("member = 20", "member = 2000"))?;
    let [first, _] = REVIEWERS;
    let review = review(stage, &folder, &identity("azote:operator/mallory")?, &[first, first])?;
    attempt(stage, &folder, Some(&review))
}

fn break_glass(stage: &mut Stage) -> Outcome<Act> {
    let folder = policies(stage, "rights.cedar", |text| text + BREAK_GLASS)?;
    let review = review(stage, &folder, &identity("azote:operator/mallory")?, &REVIEWERS)?;
    attempt(stage, &folder, Some(&review))
}

/// First the set that was replaced, then the one that two people took back. Each has the review that it had then.
fn older(stage: &mut Stage) -> Outcome<Act> {
    let keep = |stage: &Stage, review: PathBuf, name: &str| {
        let kept = stage.rack.state.join(name);
        fs::rename(review, &kept).map_err(|e| e.to_string())?;
        Ok::<_, String>(kept.display().to_string())
    };
    let author = identity("azote:operator/mallory")?;
    let old = stage.rack.unit("tokens")?;
    let folder = policies(stage, "quotas.toml", |text| text + "# Newer.\n")?;
    let newer = keep(stage, review(stage, &folder, &author, &REVIEWERS)?, "newer.json")?;
    let newer = old.clone().set("--rights", &keep(stage, folder, "newer")?).set("--review", &newer);
    stage.rack.again("tokens", Signal::TERM, |_| newer.clone())?;
    let replaced = refusal(stage, &old)?;
    let folder = policies(stage, "quotas.toml", |text| text)?;
    let again = keep(stage, review(stage, &folder, &author, &REVIEWERS)?, "again.json")?;
    stage.rack.again("tokens", Signal::TERM, |_| old.set("--review", &again))?;
    let taken_back = refusal(stage, &newer)?;
    Ok(Act { codes: [replaced.codes, taken_back.codes].concat(), at: replaced.at })
}

/// With policies whose tokens live for seconds, so that a whole rotation fits into a run: the key is announced, signs,
/// the old one goes; the host follows each step.
fn rotated_out(stage: &mut Stage) -> Outcome<Act> {
    const LIFE: [(&str, &str); 2] = [
        ("default_seconds = 3600", "default_seconds = 2"),
        ("longest_seconds = 14400", "longest_seconds = 2"),
    ];
    let short = |text: String| LIFE.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let folder = policies(stage, "quotas.toml", short)?;
    let review = review(stage, &folder, &identity("azote:operator/mallory")?, &REVIEWERS)?;
    let unit = stage.rack.unit("tokens")?.set("--rights", &folder.display().to_string());
    let unit = unit.set("--review", &review.display().to_string()).set("--overlap", "1").set("--skew", "0");
    stage.rack.end("tokens", Signal::TERM)?;
    stage.rack.start(&unit)?;
    let brief = Ask { life: Duration::from_secs(2), ..Ask::new(Api::HostStatus, stage.crew.here()) };
    let token = stage.crew.given(ALICE, &brief)?;
    let client = stage.crew.service("tokens", PIPELINE)?;
    let before = stage.crew.wait(tokens::client::rotate(&client))?;
    let goal = before.sequence + 1;
    push(stage, before.sequence)?;
    stage.until("the old key goes", Duration::from_secs(20), |stage| {
        stage.crew.wait(tokens::client::key_sets(&client)).is_ok_and(|sets| sets.sequence >= goal)
    })?;
    push(stage, goal)?;
    Act::once(|| stage.crew.call(ALICE, &token, &ReadStatus {}).map(refused))
}

/// Tells the host of the token service's sets up to a number, in order, as the pipeline does.
fn push(stage: &Stage, goal: u64) -> Outcome<()> {
    let (crew, client) = (&stage.crew, stage.crew.service("tokens", PIPELINE)?);
    let sets = crew.wait(tokens::client::key_sets(&client))?;
    for set in &sets.sets {
        let bytes = cose::from_base64(set).ok_or("the token service gave no key set")?;
        let call = UpdateTokenKeys { key_set: SignedKeys::from_bytes(&bytes).map_err(|e| e.to_string())? };
        let life = Duration::from_secs(2);
        match crew.does(PIPELINE, &Ask { life, ..Ask::new(Api::UpdateTokenKeys, crew.here()) }, &call)? {
            Ok(_) => {}
            Err(code) if code == "keys.stale" => {}
            Err(code) => return Err(format!("the host refused key set {goal}: {code}")),
        }
    }
    Ok(())
}
