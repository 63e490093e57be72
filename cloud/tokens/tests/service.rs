//! The real program, a real software TPM, real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod desk;
mod house;

use desk::{
    ALICE, AS_SHIPPED, AUDIT, AUTHOR, CONTROL_PLANE, PROGRAM, ask, host, review, reviewed, sources, start,
};
use house::{House, Running};
use ids::{HostId, VolumeId};
use rights::{Review, SetHash};
use service::{Client, Key};
use std::{fs, io::Write, net::TcpStream, time::UNIX_EPOCH};
use token::{Api, Call, Refusal, ReplaySet, Resource, Verifier};
use tokens::{
    By, Kind, Page,
    client::{TokenRequest, acknowledge, issue, issued, keys},
};

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn detach(holder: &Key) -> TokenRequest {
    ask(&[Api::DetachVolume], &[Resource::Volume(VolumeId::from_random(2))], holder)
}

#[tokio::test]
async fn a_host_takes_what_the_service_signs_and_keys_survive_a_kill() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &[]);
    let holder = Key::generate().unwrap();
    let control_plane = house.client(&tokens, CONTROL_PLANE);
    let request = TokenRequest { uses: Some(3), ..detach(&holder) };
    let answer = issue(&control_plane, &request).await.unwrap();
    assert!((now() + 3595..=now() + 3600).contains(&answer.expires), "the configured default");
    let first = keys(&control_plane).await.unwrap();

    tokens.kill_and_restart();
    let second = keys(&house.client(&tokens, ALICE)).await.unwrap();
    assert_eq!(first, second, "the signing key comes back");

    let verifier = Verifier::new(second, host());
    let body = b"{}";
    let call = Call { method: "POST", path: "/v1/volumes/detach", body, token: &answer.token };
    let proof = call.prove(holder.pair(), now()).unwrap();
    let authorization = format!("Bearer {}", answer.token);
    let mut replay = ReplaySet::new(8, now());
    let claims = verifier.verify_call(Some(&authorization), Some(&proof), call, &mut replay, now()).unwrap();
    assert_eq!((claims.subject.to_string().as_str(), claims.uses), (CONTROL_PLANE, 3));
    claims.authorize(Api::DetachVolume, &request.resources).unwrap();
    assert_eq!(claims.authorize(Api::StopInstance, &[]), Err(Refusal::TokenApi));

    let page = issued(&house.client(&tokens, AUDIT), 0).await.unwrap();
    let entry = page.entries.iter().find(|entry| entry.kind == Kind::Issued).unwrap();
    assert_eq!(entry.token, Some(claims.id_text()), "what was signed is in the journal");
    assert_eq!((entry.uses, entry.expires), (Some(3), Some(answer.expires)));
    assert_eq!((entry.by, entry.operations.as_slice()), (Some(By::Certificate), &[Api::DetachVolume][..]));
    for text in [tokens.log(), serde_json::to_string(&page).unwrap()] {
        assert!(text.contains(&claims.id_text()) && !text.contains(&answer.token), "the token itself is not");
    }
    assert_eq!(tokens.stop(), Some(0), "{}", tokens.log());
}

#[tokio::test]
async fn what_the_rights_do_not_give_is_refused_and_in_the_journal() {
    let house = House::new();
    let tokens = start(&house, ("longest_seconds = 14400", "longest_seconds = 4000"), &[]);
    let holder = Key::generate().unwrap();
    let good = detach(&holder);
    let volume = &good.resources;
    let table = [
        ("rights.subject", "azote:tenant/acme", good.clone()),
        ("rights.api", ALICE, good.clone()),
        ("rights.resource", ALICE, ask(&[Api::HostStatus], volume, &holder)),
        ("rights.host", CONTROL_PLANE, TokenRequest { audience: HostId::from_random(3), ..good.clone() }),
        ("rights.lifetime", CONTROL_PLANE, TokenRequest { lifetime_seconds: Some(4001), ..good.clone() }),
        ("rights.lifetime", CONTROL_PLANE, TokenRequest { lifetime_seconds: Some(0), ..good.clone() }),
        ("rights.uses", CONTROL_PLANE, TokenRequest { uses: Some(1001), ..good.clone() }),
        ("rights.uses", CONTROL_PLANE, TokenRequest { uses: Some(0), ..good.clone() }),
        ("rights.condition", ALICE, ask(&[Api::PowerCycleHost], &[Resource::Host(host())], &holder)),
        ("rights.malformed", CONTROL_PLANE, TokenRequest { apis: vec![], ..good.clone() }),
        (
            "rights.malformed",
            CONTROL_PLANE,
            TokenRequest { ticket: Some("a\u{1b}[2J\n".to_owned()), ..good.clone() },
        ),
        (
            "rights.malformed",
            CONTROL_PLANE,
            TokenRequest { resources: vec![volume[0].clone(); 2], ..good.clone() },
        ),
    ];
    for (code, caller, request) in &table {
        let refused = issue(&house.client(&tokens, caller), request).await.err().unwrap();
        assert_eq!(refused.code(), *code, "{caller} {request:?}");
    }
    let ticket = TokenRequest {
        ticket: Some("WO-4711".to_owned()),
        ..ask(&[Api::PowerCycleHost], &[Resource::Host(host())], &holder)
    };
    let answer = issue(&house.client(&tokens, ALICE), &ticket).await.unwrap();
    assert_eq!(answer.uses, 1, "a sensitive operation is for one call");

    let alice = house.client(&tokens, ALICE);
    let malformed = alice.post::<_, ()>("/v1/tokens", &["ReadMemory"]).await.unwrap_err();
    assert_eq!(malformed.code(), "request.malformed");
    let mut stranger = TcpStream::connect(tokens.address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(stranger);
    assert_eq!(issued(&alice, 0).await.unwrap_err().code(), "rights.caller");
    assert_eq!(acknowledge(&alice, 9).await.unwrap_err().code(), "rights.caller");
    assert_eq!(alice.post::<_, ()>("/v1/keys/rotate", &()).await.unwrap_err().code(), "rights.caller");

    let audit = house.client(&tokens, AUDIT);
    let page =
        journal(&audit, |page| page.entries.iter().any(|e| e.code.as_deref() == Some("tls.handshake"))).await;
    let refused: Vec<_> = page.entries.iter().filter(|entry| entry.kind == Kind::Refused).collect();
    let codes: Vec<&str> = refused.iter().map(|entry| entry.code.as_deref().unwrap()).collect();
    let wanted: Vec<&str> = table.iter().map(|(code, ..)| *code).chain(["rights.caller"; 3]).collect();
    assert_eq!(codes, wanted);
    assert_eq!(refused[0].subject.as_ref().unwrap().to_string(), "azote:tenant/acme");
    assert!(refused.iter().any(|entry| entry.ticket.as_deref() == Some("a?[2J?")), "one line");
    let granted = page.entries.iter().find(|entry| entry.kind == Kind::Issued).unwrap();
    assert_eq!(granted.ticket.as_deref(), Some("WO-4711"));
    let incidents: Vec<_> = page.entries.iter().filter(|entry| entry.kind == Kind::Incident).collect();
    assert!(incidents.iter().any(|e| e.code.as_deref() == Some("request.malformed") && e.subject.is_some()));
    assert!(page.entries.iter().zip(1..).all(|(entry, seq)| entry.seq == seq), "numbers without gaps");
}

/// The journal, as soon as it is as wanted.
async fn journal(audit: &Client, wanted: impl Fn(&Page) -> bool) -> Page {
    for _ in 0..100 {
        let page = issued(audit, 0).await.unwrap();
        if wanted(&page) {
            return page;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("not in the journal: {:?}", issued(audit, 0).await.unwrap());
}

#[tokio::test]
async fn a_full_journal_signs_nothing_until_it_is_taken_over() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &["--journal", "16"]);
    let holder = Key::generate().unwrap();
    let (control_plane, audit) = (house.client(&tokens, CONTROL_PLANE), house.client(&tokens, AUDIT));
    let nothing = TokenRequest { apis: vec![], ..detach(&holder) };
    let mut refused = Vec::new();
    for _ in 0..14 {
        refused.push(issue(&control_plane, &nothing).await.err().unwrap().code().to_owned());
    }
    // The first key is the first entry; refusals get three quarters.
    assert_eq!(refused.iter().filter(|code| *code == "rights.malformed").count(), 11, "{refused:?}");
    assert_eq!(refused.last().unwrap(), "journal.full");
    for n in 0..4 {
        issue(&control_plane, &detach(&holder)).await.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    assert_eq!(issue(&control_plane, &detach(&holder)).await.err().unwrap().code(), "journal.full");
    tokens.kill_and_restart();
    let (control_plane, audit_again) = (house.client(&tokens, CONTROL_PLANE), house.client(&tokens, AUDIT));
    drop(audit);
    assert_eq!(issue(&control_plane, &detach(&holder)).await.err().unwrap().code(), "journal.full");

    let page = issued(&audit_again, 3).await.unwrap();
    assert_eq!((page.entries.len(), page.entries[0].seq, page.last), (13, 4, 16));
    assert_eq!(acknowledge(&audit_again, 10).await.unwrap().up_to, 10);
    assert_eq!(acknowledge(&audit_again, 99).await.unwrap().up_to, 16, "no more than there is");
    assert_eq!(issued(&audit_again, 0).await.unwrap().entries, []);
    issue(&control_plane, &detach(&holder)).await.unwrap();
    tokens.kill_and_restart();
    let page = issued(&house.client(&tokens, AUDIT), 0).await.unwrap();
    assert_eq!((page.entries.len(), page.entries[0].seq), (1, 17), "numbers go on");
}

#[tokio::test]
async fn a_used_up_quota_stays_used_up() {
    let house = House::new();
    let small = (
        "together = 10000\nfleet = 10000\n\n[[quota]]\nname = \"pipeline",
        "together = 10000\nfleet = 3\n\n[[quota]]\nname = \"pipeline",
    );
    let mut tokens = start(&house, small, &[]);
    let holder = Key::generate().unwrap();
    let two = TokenRequest {
        resources: vec![
            Resource::Volume(VolumeId::from_random(2)),
            Resource::Volume(VolumeId::from_random(3)),
        ],
        ..detach(&holder)
    };
    issue(&house.client(&tokens, CONTROL_PLANE), &two).await.unwrap();
    let page = issued(&house.client(&tokens, AUDIT), 0).await.unwrap();
    let quota = page.entries.iter().find_map(|entry| entry.quota.as_ref()).unwrap();
    assert_eq!((quota.quota.as_str(), quota.used, quota.limit), ("tenants-work/fleet/lab", 2, 3));
    let refused = issue(&house.client(&tokens, CONTROL_PLANE), &two).await.err().unwrap();
    assert_eq!(refused.code(), "quota.spent");
    assert!(refused.to_string().contains("tenants-work/fleet/lab has 1 left"), "{refused}");
    issue(&house.client(&tokens, CONTROL_PLANE), &detach(&holder)).await.unwrap();
    for _ in 0..2 {
        tokens.kill_and_restart();
        let refused = issue(&house.client(&tokens, CONTROL_PLANE), &detach(&holder)).await.err().unwrap();
        assert_eq!(refused.code(), "quota.spent");
    }
}

#[test]
fn no_rights_count_without_the_review_of_two_others() {
    let house = House::new();
    let state = house.path("tokens");
    fs::create_dir(&state).unwrap();
    assert!(house.command(PROGRAM, "enrol", &state).output().unwrap().status.success());
    let (folder, changed) = sources(&house, "why", "why");
    let both = ["azote:operator/rita", "azote:operator/ravi"];
    let run = |set, by: &[&str]| {
        let mut command = house.command(PROGRAM, "run", &state);
        command.arg("--ca").arg(house.path("ca.pem")).arg("--certificate").arg(house.path("none.pem"));
        command.arg("--rights").arg(&folder).args(review(&house, set, by));
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let shipped = changed.hash();
    for (code, by) in [
        ("review.signatures", &[][..]),
        ("review.signatures", &both[..1]),
        ("review.author", &[AUTHOR, both[0], both[1]]),
    ] {
        let said = run(shipped, by);
        assert!(said.contains(code), "{code}: {said}");
    }
    let said = run(shipped, &both);
    assert!(said.contains("none.pem"), "reviewed, it goes on to what comes next: {said}");
    let file = folder.join("groups.toml");
    let more = fs::read_to_string(&file).unwrap().replace("azote:operator/olga", "azote:operator/oscar");
    fs::write(&file, more).unwrap();
    let said = run(shipped, &both);
    assert!(said.contains("review.set"), "{said}");
}

#[test]
fn a_configuration_that_was_replaced_does_not_come_back_by_its_old_review() {
    let house = House::new();
    let state = house.path("tokens");
    fs::create_dir(&state).unwrap();
    assert!(house.command(PROGRAM, "enrol", &state).output().unwrap().status.success());
    let [old, new] = ["default_seconds = 3600", "default_seconds = 3601"];
    let set = |text| sources(&house, old, text).1.hash();
    let [first, second] = [old, new].map(set);
    let run = |text, previous: Option<SetHash>, number| {
        let (folder, sources) = sources(&house, old, text);
        let review = Review::new(sources.hash(), previous, number, AUTHOR.parse().unwrap());
        let mut command = house.command(PROGRAM, "run", &state);
        command.arg("--ca").arg(house.path("ca.pem")).arg("--certificate").arg(house.path("none.pem"));
        command.arg("--rights").arg(folder);
        command.args(reviewed(&house, review, &["azote:operator/rita", "azote:operator/ravi"]));
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains("none.pem") != said.contains("review.previous"), "{said}");
        said.contains("none.pem")
    };
    assert!(run(old, None, 0), "the first");
    assert!(!run(new, None, 9), "not a change of the first");
    assert!(run(new, Some(first), 1));
    assert!(!run(old, None, 0), "the first, by its old review");
    assert!(run(new, Some(first), 1), "the service starts again as it was");
    assert!(run(old, Some(second), 2), "taken back, by a review");
    assert!(!run(new, Some(first), 1), "what was taken back, by its old review");
    assert!(run(new, Some(first), 3), "and by a new one");
}

#[tokio::test]
async fn another_list_of_reviewers_is_told_of() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &[]);
    let told = async |tokens: &Running| {
        let page = issued(&house.client(tokens, AUDIT), 0).await.unwrap();
        page.entries.iter().filter(|entry| entry.code.as_deref() == Some("policy.reviewers")).count()
    };
    tokens.kill_and_restart();
    assert_eq!(told(&tokens).await, 0);
    // The same names, with other keys.
    review(&house, rights::sources().hash(), &["azote:operator/rita", "azote:operator/ravi"]);
    tokens.kill_and_restart();
    assert_eq!(told(&tokens).await, 1);
    tokens.kill_and_restart();
    assert_eq!(told(&tokens).await, 1, "once");
}

#[test]
fn no_key_is_in_a_file_and_a_second_enrolment_keeps_them() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &[]);
    assert_eq!(tokens.stop(), Some(0));
    let state = house.path("tokens");
    let tpm = || {
        let mut tpm = tpm::Tpm::connect(&house.path("tpm.sock")).unwrap();
        tpm.secure(None).unwrap();
        tpm
    };
    let mut secrets = Vec::new();
    for name in ["identity.sealed", "wrapping.sealed"] {
        let secret = service::unseal_from(&state.join(name), &mut tpm()).unwrap();
        assert_eq!(secret.len(), 32);
        secrets.push(secret);
    }
    assert_ne!(*secrets[0], *secrets[1]);
    let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(
            secrets.iter().all(|seed| !bytes.windows(seed.len()).any(|window| window == seed.as_slice()))
        );
    }
    assert!(house.command(PROGRAM, "enrol", &state).output().unwrap().status.success());
    assert_eq!(*service::unseal_from(&state.join("wrapping.sealed"), &mut tpm()).unwrap(), *secrets[1]);
}
