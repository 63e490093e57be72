//! The real program, a real software TPM, real connections; killed, and read by others' code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]
#![allow(clippy::print_stderr, reason = "which verifiers ran")]

mod hosts;
#[path = "../../tokens/tests/house/mod.rs"]
mod house;

use audit::{
    client::{self, Page},
    entry::{Attempt, Entry, Record},
    note::{Checkpoint, Note, Purpose, Signer, VerifierKey},
    tree::{check_consistency, check_inclusion},
    verify::{self, Reader},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use host_api::{Api, RequestId};
use hosts::{Hosts, Log};
use house::{House, Running};
use ids::HostId;
use rights::{Review, SetHash};
use service::{CallError, Client, Key};
use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    io::Write,
    net::TcpListener,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-audit");
const ALICE: &str = "azote:operator/alice";
const OLGA: &str = "azote:operator/olga";

fn attempt(request: u64, caller: &str) -> Attempt {
    Attempt {
        request: format!("{request:032x}").parse().unwrap(),
        token: None,
        api: Api::HostStatus,
        host: HostId::from_random(1),
        resources: vec![host_api::Resource::Host(HostId::from_random(1))],
        time: request,
        caller: caller.parse().unwrap(),
        code: None,
    }
}

fn key(audit: &Running) -> VerifierKey {
    fs::read_to_string(audit.state.join("log.vkey")).unwrap().trim().parse().unwrap()
}

async fn checkpoint(reader: &Client, key: &VerifierKey) -> Checkpoint {
    let note = String::from_utf8(client::checkpoint(reader).await.unwrap()).unwrap();
    Checkpoint::open(&note, key).unwrap()
}

async fn all(reader: &Client) -> Vec<Entry> {
    let (mut after, mut entries) = (0, Vec::new());
    loop {
        let Page { entries: page, .. } = client::entries(reader, after, 0).await.unwrap();
        let Some(last) = page.last() else { return entries };
        after = last.index + 1;
        entries.extend(page.iter().map(|numbered| Entry::parse(numbered.entry.get().as_bytes()).unwrap()));
        if page.len() < client::MAX_PAGE {
            return entries;
        }
    }
}

fn verify_files(audit: &Running) -> verify::Report {
    let mut read =
        |name: &str| fs::read(audit.state.join("log").join(name)).map_err(|e| format!("{name}: {e}"));
    let mut reader = Reader::open(&key(audit), &mut read).unwrap();
    verify::whole(&mut reader, &mut |_| ()).unwrap()
}

#[track_caller]
fn code<T>(answer: Result<T, CallError>) -> String {
    answer.err().unwrap().code().to_owned()
}

#[tokio::test]
async fn who_may_read_reads_and_every_read_and_refusal_is_an_entry() {
    let house = House::new();
    let audit = house.start(PROGRAM, "audit", &[]);
    let [olga, alice] = [OLGA, ALICE].map(|name| house.client(&audit, name));
    assert_eq!(client::status(&olga).await.unwrap().key, key(&audit).to_string());
    assert_eq!(code(client::entries(&alice, 0, 0).await), "rights.api");
    assert_eq!(code(client::checkpoint(&alice).await), "rights.api");
    assert_eq!(code(client::checkpoint(&house.client(&audit, "azote:tenant/acme")).await), "rights.subject");
    assert_eq!(code(olga.bytes("/tile/0/000").await), "audit.no-tile");
    assert_eq!(code(olga.bytes("/tile/0/000.p/0").await), "audit.no-tile");
    assert_eq!(code(olga.get::<Page>("/v1/entries?after=x").await), "request.malformed");
    assert_eq!(code(olga.get::<Page>("/v1/entries?after=1&after=2").await), "request.malformed");
    assert_eq!(code(client::inclusion(&olga, 9, 9).await), "request.malformed");
    assert_eq!(code(client::attempts(&alice, &[attempt(1, OLGA)]).await), "attempts.caller");
    let acme = "azote:tenant/acme";
    let tenant = house.client(&audit, acme);
    assert_eq!(code(client::attempts(&tenant, &[attempt(1, acme)]).await), "attempts.caller");
    assert_eq!(code(alice.post::<_, client::Taken>("/v1/attempts", &["x"]).await), "request.malformed");
    let as_host = Attempt { code: "sandbox.killed".parse().ok(), ..attempt(2, ALICE) };
    assert_eq!(code(client::attempts(&alice, &[as_host]).await), "request.malformed");
    assert_eq!(client::attempts(&alice, &[attempt(1, ALICE)]).await.unwrap().taken, 1);
    let told: Vec<_> = all(&olga).await.into_iter().map(|entry| entry.record).collect();
    let said = |subject: &str, code: &str| {
        told.iter().any(|record| {
            matches!(record, Record::Audit(observed)
                if observed.subject.as_ref().is_some_and(|who| who.to_string() == subject)
                && observed.code.as_ref().map_or("", |said| said.as_str()) == code)
        })
    };
    for (subject, code) in [
        (OLGA, ""),
        (ALICE, "rights.api"),
        (acme, "rights.subject"),
        (acme, "attempts.caller"),
        (ALICE, "attempts.caller"),
        (ALICE, "request.malformed"),
    ] {
        assert!(said(subject, code), "{subject} {code}: {told:?}");
    }
    assert!(told.contains(&Record::Attempt(Box::new(attempt(1, ALICE)))));
    assert!(!told.contains(&Record::Attempt(Box::new(attempt(1, OLGA)))));
}

#[tokio::test]
async fn who_waits_for_news_is_not_woken_by_reading() {
    let house = House::new();
    let audit = house.start(PROGRAM, "audit", &[]);
    let [olga, alice] = [OLGA, ALICE].map(|name| house.client(&audit, name));
    let after = client::status(&olga).await.unwrap().size;
    let start = Instant::now();
    let page = client::entries(&olga, after, 1).await.unwrap();
    assert!(
        start.elapsed() >= Duration::from_secs(1) && page.size > after,
        "its own read is there, but no news"
    );
    let (after, start) = (page.size, Instant::now());
    let told = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client::attempts(&alice, &[attempt(1, ALICE)]).await.unwrap();
    };
    let (page, ()) = tokio::join!(client::entries(&olga, after, 20), told);
    assert!(start.elapsed() < Duration::from_secs(10) && page.unwrap().size > after);
}

#[tokio::test]
async fn witnesses_sign_what_the_log_signed_and_nobody_else_does() {
    let house = House::new();
    let witness =
        |name: &str, seed| Signer::new(name, Purpose::Witness, Key::from_seed(&[seed; 32]).unwrap()).unwrap();
    let (first, second, stranger) = (witness("first", 1), witness("second", 2), witness("second", 3));
    let keys = [&first, &second].map(|witness| witness.public().to_string());
    let mut audit = house.start(PROGRAM, "audit", &["--witness", &keys[0], "--witness", &keys[1]]);
    let olga = house.client(&audit, OLGA);
    assert_eq!(code(client::cosigned(&olga).await), "audit.not-cosigned");
    let note = String::from_utf8(client::checkpoint(&olga).await.unwrap()).unwrap();
    let text = Note::parse(&note).unwrap().text;
    let by = |witness: &Signer| format!("{note}{}", witness.line(text, 1_800_000_000));
    assert_eq!(code(client::cosign(&olga, &by(&stranger)).await), "cosignature.witness");
    assert_eq!(
        code(client::cosign(&olga, &by(&first).replacen("\n\n", "0\n\n", 1)).await),
        "cosignature.checkpoint"
    );
    assert_eq!(client::cosign(&olga, &by(&first)).await.unwrap().taken, 1);
    assert_eq!(client::cosign(&olga, &by(&first)).await.unwrap().taken, 0, "known");
    audit.kill_and_restart();
    let olga = house.client(&audit, OLGA);
    assert_eq!(client::cosign(&olga, &by(&second)).await.unwrap().taken, 1);
    let cosigned = String::from_utf8(client::cosigned(&olga).await.unwrap()).unwrap();
    let parsed = Note::parse(&cosigned).unwrap();
    for witness in [&first, &second] {
        assert_eq!(witness.public().signed(&parsed), Some(1_800_000_000));
    }
    assert_eq!(stranger.public().signed(&parsed), None);
    let note = house.path("cosigned");
    fs::write(&note, &cosigned).unwrap();
    drop(olga);
    audit.stop();
    by_others(&audit, "", &[&keys[1], note.to_str().unwrap()]);
}

/// Runs verifiers that share no code with the service: our reading of the RFC in Python (`AZOTE_PYTHON` may name one
/// that has sigstore-python), and, where `AZOTE_GO_VERIFIER` names `verify.go` as a program, the Go project's packages.
fn by_others(audit: &Running, proofs: &str, more: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py");
    let python = std::env::var_os("AZOTE_PYTHON").unwrap_or_else(|| "python3".into());
    let mut verifiers = vec![Command::new(python)];
    verifiers[0].arg(script);
    match std::env::var_os("AZOTE_GO_VERIFIER") {
        Some(program) => verifiers.push(Command::new(program)),
        None => eprintln!("not verified by Go's packages: build tests/verify.go, set AZOTE_GO_VERIFIER"),
    }
    for mut verifier in verifiers {
        verifier.arg(audit.state.join("log")).arg(key(audit).to_string()).args(more);
        let verifier = verifier.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = verifier.spawn().expect("a verifier, python3 with openssl, is needed");
        running.stdin.take().unwrap().write_all(proofs.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        let [said, why] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(output.status.success() && said.starts_with("verified"), "{said}{why}");
        eprint!("{said}");
    }
}

/// Has the service prove that it continues what it published, and that entries are in it; gives its size, and the proofs
/// as the verifiers of others take them.
async fn proofs(olga: &Client, key: &VerifierKey, seen: &[Checkpoint], entries: &[Entry]) -> (u64, String) {
    let now = checkpoint(olga, key).await;
    let (mut proofs, text) = (String::new(), |hash: &[u8; 32]| STANDARD.encode(hash));
    for old in seen {
        let proof = client::consistency(olga, old.size, now.size).await.unwrap();
        check_consistency((old.size, &old.root), (now.size, &now.root), &proof.read().unwrap()).unwrap();
        let (a, b, hashes) = (text(&old.root), text(&now.root), proof.hashes.join(" "));
        writeln!(proofs, "consistency {} {} {a} {b} {hashes}", old.size, now.size).unwrap();
    }
    for index in [0, 1, 255, 256, now.size / 2, entries.len() as u64 - 1] {
        let proof = client::inclusion(olga, index, now.size).await.unwrap();
        let line = entries[usize::try_from(index).unwrap()].line().unwrap();
        check_inclusion(&line, index, now.size, &now.root, &proof.read().unwrap()).unwrap();
        let (root, hashes) = (text(&now.root), proof.hashes.join(" "));
        writeln!(proofs, "inclusion {index} {} {root} {hashes}", now.size).unwrap();
    }
    (now.size, proofs)
}

/// The shipped rights with Alice in Olga's place or not, and a review of them as a change; the flags, and the set.
fn reviewed(
    house: &House,
    folder: &str,
    alice: bool,
    (previous, number): (Option<SetHash>, u64),
    sign: usize,
) -> (Vec<String>, SetHash) {
    let mut sources = rights::sources();
    if alice {
        let other = "azote:operator/x";
        sources.groups = sources.groups.replace(OLGA, other).replace(ALICE, OLGA).replace(other, ALICE);
    }
    let at = house.path(folder);
    fs::create_dir_all(&at).unwrap();
    let people = [(1, "azote:operator/rita"), (2, "azote:operator/ravi")]
        .map(|(seed, name)| (name.parse().unwrap(), Key::from_seed(&[seed; 32]).unwrap()));
    let author = "azote:operator/author".parse().unwrap();
    let mut review = Review::new(sources.hash(), previous, number, author);
    for (name, key) in people.iter().take(sign) {
        review.sign(name, key.pair()).unwrap();
    }
    let list = people.iter().map(|(name, key): &(ids::Identity, Key)| {
        let key = String::from(token::PublicKey(key.public()));
        format!("[[reviewer]]\nidentity = \"{name}\"\nkey = \"{key}\"\n")
    });
    for (name, text) in [
        ("groups.toml", &sources.groups),
        ("quotas.toml", &sources.quotas),
        ("rights.cedar", &sources.policies),
        ("schema.cedarschema", &sources.schema),
        ("review.json", &serde_json::to_string(&review).unwrap()),
        ("reviewers.toml", &list.collect()),
    ] {
        fs::write(at.join(name), text).unwrap();
    }
    let flags = [
        ("--rights", at.clone()),
        ("--review", at.join("review.json")),
        ("--reviewers", at.join("reviewers.toml")),
    ];
    let flags = flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]);
    (flags.collect(), sources.hash())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_rights_are_those_that_were_reviewed_and_no_older_set_comes_back() {
    let house = House::new();
    let start = |flags: &[String]| {
        house.start(PROGRAM, "audit", &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (old, first) = reviewed(&house, "old", false, (None, 0), 2);
    let (new, second) = reviewed(&house, "new", true, (Some(first), 1), 2);
    let (unsigned, _) = reviewed(&house, "unsigned", true, (Some(first), 1), 1);
    let (back, _) = reviewed(&house, "back", false, (Some(second), 2), 2);
    let run = |flags: &[String], exit| {
        let mut command = house.command(PROGRAM, "run", &house.path("audit"));
        command.arg("--ca").arg(house.path("ca.pem")).arg("--certificate").arg(house.path("audit.pem"));
        let output = command.args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(exit));
        String::from_utf8(output.stderr).unwrap()
    };
    let reads = async |audit: &Running, who| client::status(&house.client(audit, who)).await.is_ok();
    let mut audit = start(&old);
    assert!(reads(&audit, OLGA).await && !reads(&audit, ALICE).await);
    assert_eq!(audit.stop(), Some(0));
    let said = run(&unsigned, 1);
    assert!(said.contains("review.signatures"), "{said}");
    let began = Instant::now();
    let mut audit = start(&new);
    assert!(!reads(&audit, OLGA).await && reads(&audit, ALICE).await, "the new set counts");
    for rule in ["policy-refused", "policy-changed"] {
        alarm(&house.client(&audit, ALICE), rule, began).await;
    }
    audit.kill_and_restart();
    assert!(reads(&audit, ALICE).await, "it starts again as it was");
    assert_eq!(audit.stop(), Some(0));
    let said = run(&old, 1);
    assert!(said.contains("review.previous"), "the first, by its old review: {said}");
    let mut audit = start(&back);
    assert!(reads(&audit, OLGA).await && !reads(&audit, ALICE).await, "taken back, by a review");
    let told = all(&house.client(&audit, OLGA)).await;
    let codes = told.iter().filter_map(|entry| match &entry.record {
        Record::Audit(it) => it.code.as_ref().map(ToString::to_string),
        _ => None,
    });
    let codes: Vec<_> =
        codes.filter(|code| code.starts_with("review.") || code.starts_with("policy.")).collect();
    assert_eq!(codes, ["review.signatures", "policy.changed", "review.previous", "policy.changed"]);
    assert_eq!(audit.stop(), Some(0));
    let said = run(&old[..2], 2);
    assert!(said.contains("--review <FILE>"), "a set without a review: {said}");
}

/// Tells of attempts until the service is gone; gives those that were answered.
async fn tell(client: Client, from: u64) -> Vec<RequestId> {
    let mut answered = Vec::new();
    for first in (from..from + 10_000).step_by(20) {
        let attempts: Vec<_> = (first..first + 20).map(|n| attempt(n, ALICE)).collect();
        match client::attempts(&client, &attempts).await {
            Ok(_) => answered.extend(attempts.into_iter().map(|attempt| attempt.request)),
            Err(_) => break,
        }
    }
    answered
}

/// Killed at any moment, over and over, while callers tell of attempts: what was answered is in the log, once; what
/// was published stays; and other people's code finds every byte right.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_that_it_answered_and_takes_nothing_back() {
    let house = House::new();
    let mut audit = house.start(PROGRAM, "audit", &[]);
    let key = key(&audit);
    let (mut answered, mut next) = (HashSet::new(), 1_u64);
    let mut seen: Vec<Checkpoint> = Vec::new();
    for round in 0..12_u64 {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let client = house.client(&audit, ALICE);
                tokio::spawn(tell(client, next + caller * 10_000))
            })
            .collect();
        next += 40_000;
        tokio::time::sleep(Duration::from_millis(40 + 37 * round)).await;
        seen.push(checkpoint(&house.client(&audit, OLGA), &key).await);
        audit.kill_and_restart();
        for caller in callers {
            answered.extend(caller.await.unwrap());
        }
        let after = checkpoint(&house.client(&audit, OLGA), &key).await;
        assert!(after.size >= seen.last().unwrap().size, "round {round}");
    }
    let olga = house.client(&audit, OLGA);
    let entries = all(&olga).await;
    let (size, proofs) = proofs(&olga, &key, &seen, &entries).await;
    let mut told = HashSet::new();
    for entry in &entries {
        if let Record::Attempt(attempt) = &entry.record {
            assert!(told.insert(attempt.request.clone()), "{} is there twice", attempt.request);
        }
    }
    assert!(
        answered.is_subset(&told) && answered.len() > 200,
        "{} answered, {} told",
        answered.len(),
        told.len()
    );
    drop(olga);
    assert_eq!(audit.stop(), Some(0), "{}", audit.log());
    assert!(verify_files(&audit).size >= size);
    by_others(&audit, &proofs, &[]);
    // A copy of the log from before is not taken for the log.
    fs::remove_dir_all(audit.state.join("log/tile")).unwrap();
    fs::remove_file(audit.state.join("log/checkpoint")).unwrap();
    let run = house
        .command(PROGRAM, "run", &audit.state)
        .arg("--ca")
        .arg(house.path("ca.pem"))
        .arg("--certificate")
        .arg(house.path("audit.pem"))
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&run.stderr).contains("rolled back"),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

/// Waits until an alarm of this rule is there, and gives how long that took.
async fn alarm(reader: &Client, rule: &str, since: Instant) -> Duration {
    loop {
        let page = client::alarms(reader, 0).await.unwrap();
        let raised = page.entries.iter().any(|numbered| {
            matches!(Entry::parse(numbered.entry.get().as_bytes()).unwrap().record, Record::Alarm(alarm) if alarm.rule == rule)
        });
        if raised {
            return since.elapsed();
        }
        assert!(since.elapsed() < Duration::from_secs(10), "no alarm of {rule}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_rewrites_its_log_or_hides_a_call_raises_an_alarm_within_seconds() {
    let house = House::new();
    let hosts = Hosts::start(&house).await;
    let audit = house.start(PROGRAM, "audit", &["--every", "200", "--grace", "1000", "--silence", "2000"]);
    let [olga, alice] = [OLGA, ALICE].map(|name| house.client(&audit, name));
    let request = |n: u64| format!("{n:032x}");
    {
        let mut log = hosts.log.lock().unwrap();
        (0..600).for_each(|_| log.push("host.started", None));
        log.push("volume.busy", Some(&request(1)));
    }
    let known = Attempt { host: hosts.host.clone(), ..attempt(1, ALICE) };
    client::attempts(&alice, &[known]).await.unwrap();
    fs::write(audit.state.join("sources"), &hosts.sources).unwrap();
    let started = Instant::now();
    while client::status(&olga).await.unwrap().sources.iter().all(|source| source.seq < 601) {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A call that nobody told of.
    hosts.log.lock().unwrap().push("volume.busy", Some(&request(2)));
    let limit = Duration::from_secs(5);
    assert!(alarm(&olga, "log-gap", Instant::now()).await < limit);
    // Another history, of the same length and one longer.
    let mut other = Log::new();
    (0..603).for_each(|_| other.push("host.stopped", None));
    *hosts.log.lock().unwrap() = other;
    assert!(alarm(&olga, "log-tampered", Instant::now()).await < limit);
    let report = {
        drop((olga, alice));
        verify_files(&audit)
    };
    assert_eq!(
        report.hosts[&hosts.host].records, 602,
        "nothing of the other history is taken for the host's"
    );
    let found: Vec<_> = report.found.keys().map(String::as_str).collect();
    assert!(found.contains(&"audit.gap.unclaimed") && found.contains(&"audit.chain"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_answer_keep_nobody_waiting() {
    let house = House::new();
    let hosts = Hosts::start(&house).await;
    let audit = house.start(PROGRAM, "audit", &["--every", "200", "--silence", "60000"]);
    let olga = house.client(&audit, OLGA);
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = hosts.sources.trim().rsplit(' ').next().unwrap();
    let mut sources = hosts.sources.clone();
    for n in 2..300 {
        let host = HostId::from_random(n);
        writeln!(sources, "host/{host} {} {key}", mute.local_addr().unwrap()).unwrap();
    }
    fs::write(audit.state.join("sources"), sources).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    for seq in 1..=8 {
        hosts.log.lock().unwrap().push("host.started", None);
        let since = Instant::now();
        let name = format!("host/{}", hosts.host);
        while client::status(&olga).await.unwrap().sources.iter().all(|s| s.source != name || s.seq < seq) {
            assert!(since.elapsed() < Duration::from_secs(5), "record {seq}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_cannot_fill_the_log_with_refusals_and_is_told_of_all_the_same() {
    const EACH: u64 = 200;
    let house = House::new();
    let mut audit = house.start(PROGRAM, "audit", &[]);
    let [olga, alice] = [OLGA, ALICE].map(|name| house.client(&audit, name));
    let stolen = [attempt(1, OLGA)];
    let began = Instant::now();
    for _ in 0..EACH {
        assert_eq!(code(client::status(&alice).await), "rights.api");
        assert_eq!(code(client::attempts(&alice, &stolen).await), "attempts.caller");
        assert_eq!(code(client::cosign(&alice, "x").await), "cosignature.checkpoint");
        assert_eq!(code(alice.post::<_, client::Taken>("/v1/attempts", &["x"]).await), "request.malformed");
    }
    for rule in ["reader-refused", "audit-forged", "refusals", "malformed-requests"] {
        alarm(&olga, rule, began).await;
    }
    drop((olga, alice));
    assert_eq!(audit.stop(), Some(0), "{}", audit.log());
    audit.restart();
    let entries = all(&house.client(&audit, OLGA)).await;
    for refused in ["rights.api", "attempts.caller", "cosignature.checkpoint", "request.malformed"] {
        let of = |entry: &Entry| match &entry.record {
            Record::Audit(it) if it.code.as_ref().is_some_and(|code| code.as_str() == refused) => {
                assert_eq!(it.subject.as_ref().unwrap().to_string(), ALICE);
                let words = it.detail.as_ref().unwrap().to_string();
                Some(words.strip_suffix(" more are not listed one by one").map_or(1, |n| n.parse().unwrap()))
            }
            _ => None,
        };
        let told: Vec<u64> = entries.iter().filter_map(of).collect();
        assert_eq!(told.iter().sum::<u64>(), EACH, "{refused}: {told:?}");
        assert!(told.len() < 40, "{refused}: {told:?}");
    }
}
