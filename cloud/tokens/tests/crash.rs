//! The process is killed again and again while it works; its keys change while it works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod desk;
mod house;

use desk::{ALICE, AS_SHIPPED, AUDIT, CONTROL_PLANE, PIPELINE, PROGRAM, ask, host, review, start};
use house::{House, Running};
use ids::VolumeId;
use service::{CallError, Client, Key};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};
use token::{Api, Claims, Keys, Refusal, Resource, Verifier, cose};
use tokens::{
    Entry, Kind,
    client::{TokenAnswer, TokenRequest, issue, issued, key_sets, keys, rotate},
};
use tokio::task::JoinSet;

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn detach(holder: &Key) -> TokenRequest {
    ask(&[Api::DetachVolume], &[Resource::Volume(VolumeId::from_random(2))], holder)
}

/// Asks until the service is gone or says no; gives what it got.
async fn ask_on(client: Client, request: TokenRequest) -> (Vec<TokenAnswer>, Option<CallError>) {
    let mut got = Vec::new();
    loop {
        match issue(&client, &request).await {
            Ok(answer) => got.push(answer),
            Err(CallError::Unreachable { .. }) => return (got, None),
            Err(error) => return (got, Some(error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_give_no_quota_back_and_leave_no_token_unrecorded() {
    const LIMIT: usize = 400;
    const KILLS: u64 = 12;
    let house = House::new();
    let small = (
        "together = 10000\nfleet = 10000\n\n[[quota]]\nname = \"pipeline",
        "together = 10000\nfleet = 400\n\n[[quota]]\nname = \"pipeline",
    );
    let mut tokens = start(&house, small, &[]);
    let holder = Arc::new(Key::generate().unwrap());
    let (mut got, mut spent, mut kills) = (Vec::new(), 0, 0);
    for round in 0.. {
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            asking.spawn(ask_on(house.client(&tokens, CONTROL_PLANE), detach(&holder)));
        }
        // Another moment each time, from the first request on.
        tokio::time::sleep(Duration::from_millis(5 + 7 * round)).await;
        tokens.kill();
        kills += 1;
        for (answers, refused) in asking.join_all().await {
            got.extend(answers);
            spent += usize::from(refused.is_some_and(|error| error.code() == "quota.spent"));
        }
        tokens.restart();
        if kills >= KILLS && spent > 0 {
            break;
        }
        assert!(round < 100, "{} tokens, {spent} refusals", got.len());
    }
    assert!(got.len() <= LIMIT, "{} tokens of {LIMIT}", got.len());
    let refused = issue(&house.client(&tokens, CONTROL_PLANE), &detach(&holder)).await.err().unwrap();
    assert_eq!(refused.code(), "quota.spent", "nothing came back");

    let recorded = recorded(&house.client(&tokens, AUDIT)).await;
    assert_eq!(recorded.len(), LIMIT, "the quota is what the journal says");
    let verifier = Verifier::new(keys(&house.client(&tokens, ALICE)).await.unwrap(), host());
    for answer in &got {
        let id = verifier.verify(&answer.token, now()).unwrap().id_text();
        assert!(recorded.contains(&id), "{id} was signed and not recorded");
    }
    println!("{kills} kills: {} tokens received, {} recorded, limit {LIMIT}", got.len(), recorded.len());
}

/// Ids of all tokens in the journal.
async fn recorded(audit: &Client) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for entry in journal(audit).await.into_iter().filter(|entry| entry.kind == Kind::Issued) {
        assert!(ids.insert(entry.token.unwrap()), "one id, one entry");
    }
    ids
}

/// The whole journal, whose numbers have no gaps.
async fn journal(audit: &Client) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let page = issued(audit, entries.len() as u64).await.unwrap();
        entries.extend(page.entries);
        if entries.len() as u64 == page.last {
            assert!(entries.iter().zip(1..).all(|(entry, seq)| entry.seq == seq));
            return entries;
        }
    }
}

/// What a host knows of keys, and how it follows them.
struct Host {
    keys: Keys,
    sequence: u64,
}

impl Host {
    fn check(&self, token: &str) -> Result<Claims, Refusal> {
        Verifier::new(self.keys.clone(), host()).verify(token, now())
    }

    /// Takes the sets that it does not have yet; gives how many.
    fn follow(&mut self, sets: &[String]) -> usize {
        let mut taken = 0;
        for set in sets {
            match self.keys.follow(&cose::from_base64(set).unwrap(), self.sequence) {
                Ok(next) => (self.keys, self.sequence, taken) = (next.keys, next.sequence, taken + 1),
                // Long gone by: signed by a key that is not trusted any more.
                Err(Refusal::KeysStale | Refusal::KeysSignature) => {}
                Err(error) => panic!("{error}"),
            }
        }
        taken
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_while_every_call_goes_on_and_old_tokens_live_to_their_end() {
    let house = House::new();
    let short = ("longest_seconds = 14400", "longest_seconds = 3600");
    let mut tokens = start(&house, short, &["--overlap", "2"]);
    let holder = Key::generate().unwrap();
    let clients = |tokens: &Running| {
        (house.client(tokens, CONTROL_PLANE), house.client(tokens, PIPELINE), house.client(tokens, AUDIT))
    };
    let (control_plane, pipeline, _) = clients(&tokens);
    let mut at_host = Host { keys: keys(&pipeline).await.unwrap(), sequence: 0 };
    let first = key_sets(&pipeline).await.unwrap();
    assert_eq!((first.sequence, first.until, first.sets.len()), (0, None, 0));
    let old = issue(&control_plane, &detach(&holder)).await.unwrap().token;

    let announced = rotate(&pipeline).await.unwrap();
    assert_eq!((announced.sequence, announced.signing), (1, first.signing), "the present key still signs");
    assert_eq!(rotate(&pipeline).await.unwrap_err().code(), "keys.under-way");
    tokens.kill_and_restart();
    let (control_plane, pipeline, audit) = clients(&tokens);
    assert_eq!(key_sets(&pipeline).await.unwrap(), announced, "a kill changes nothing of it");
    assert_eq!(at_host.follow(&announced.sets), 1);

    // Every call, before and after the moment of the switch, is good at a host that heard of the announcement.
    let (mut calls, deadline) = (0, Instant::now() + Duration::from_secs(20));
    loop {
        let answer = issue(&control_plane, &detach(&holder)).await.unwrap();
        at_host.check(&answer.token).unwrap_or_else(|error| panic!("call {calls}: {error}"));
        calls += 1;
        if key_sets(&pipeline).await.unwrap().signing != first.signing {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    let new = issue(&control_plane, &detach(&holder)).await.unwrap().token;
    at_host.check(&new).unwrap();
    at_host.check(&old).expect("the old key's token works until it expires");
    let only_old = Host { keys: Keys::new(vec![first.signing]).unwrap(), sequence: 0 };
    assert_eq!(only_old.check(&new).err(), Some(Refusal::TokenSignature), "the new key signs indeed");
    assert_eq!(rotate(&pipeline).await.unwrap_err().code(), "keys.under-way", "old tokens are still alive");
    tokens.kill_and_restart();
    let (control_plane, _, _) = clients(&tokens);
    at_host.check(&issue(&control_plane, &detach(&holder)).await.unwrap().token).unwrap();
    drop(audit);

    let journal = journal(&house.client(&tokens, AUDIT)).await;
    let steps = journal.iter().filter(|entry| entry.kind == Kind::Keys);
    let codes: Vec<_> = steps.map(|entry| entry.code.as_deref().unwrap()).collect();
    assert_eq!(codes, ["keys.first", "keys.announced", "keys.switched"]);
    println!("{calls} calls through the overlap, none failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_key_is_retired_and_a_host_that_missed_sets_follows_them_all() {
    let house = House::new();
    // Tokens live for a second here, so that an old key ends within the minute that clocks may be apart.
    let tokens = start(
        &house,
        (
            "default_seconds = 3600   # long enough to outlive an outage of the token service\nlongest_seconds = 14400",
            "default_seconds = 1\nlongest_seconds = 1",
        ),
        &["--overlap", "1", "--rotate-after", "1", "--skew", "0"],
    );
    let pipeline = house.client(&tokens, PIPELINE);
    let mut at_host = Host { keys: keys(&pipeline).await.unwrap(), sequence: 0 };
    let deadline = Instant::now() + Duration::from_secs(40);
    let sets = loop {
        let sets = key_sets(&pipeline).await.unwrap();
        if sets.sequence >= 4 {
            break sets;
        }
        assert!(Instant::now() < deadline, "{sets:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(at_host.follow(&sets.sets), sets.sets.len(), "announced, retired, announced, retired");
    let holder = Key::generate().unwrap();
    let token = issue(&house.client(&tokens, CONTROL_PLANE), &detach(&holder)).await.unwrap().token;
    at_host.check(&token).unwrap();
}

#[tokio::test]
async fn a_store_of_another_tpm_is_refused() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &[]);
    assert_eq!(tokens.stop(), Some(0));
    let other = House::new();
    let state = other.path("tokens");
    std::fs::create_dir(&state).unwrap();
    std::fs::copy(house.path("tokens/tokens.redb"), state.join("tokens.redb")).unwrap();
    assert!(other.command(PROGRAM, "enrol", &state).output().unwrap().status.success());
    let mut command = other.command(PROGRAM, "run", &state);
    command.arg("--ca").arg(other.path("ca.pem")).arg("--certificate").arg(other.path("none.pem"));
    let by = ["azote:operator/rita", "azote:operator/ravi"];
    let output = command.args(review(&other, rights::sources().hash(), &by)).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("a signing key does not open"), "{said}");
}
