//! What hosts were found to be, told to the real program: what it decides by, what survives, what time takes away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

#[allow(dead_code, reason = "not every test needs all of it")]
mod desk;
mod house;

use desk::{ALICE, AS_SHIPPED, AUDIT, CONTROL_PLANE, PIPELINE, ask, host, start};
use house::{House, Running};
use ids::{HostId, VolumeId};
use rights::Attestation;
use service::{CallError, Key};
use std::time::{Duration, Instant, UNIX_EPOCH};
use token::{Api, Resource};
use tokens::{
    Kind, Life, Standing,
    client::{appraised, hosts, issue, issued},
};

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn found(attestation: Attestation) -> Standing {
    let code = (attestation == Attestation::Failed).then(|| "attest.rollback".to_owned());
    let certificate = Some(Life { ends: now() + 100, seconds: 1000 });
    Standing { attestation, at: now(), code, certificate }
}

fn code<T>(answer: Result<T, CallError>) -> String {
    answer.err().map(|error| error.code().to_owned()).unwrap_or_default()
}

/// What a token for an attachment comes to, and what the inventory says of the host.
async fn attach(house: &House, tokens: &Running) -> (String, Attestation) {
    let holder = Key::generate().unwrap();
    let request = ask(&[Api::AttachVolume], &[Resource::Volume(VolumeId::from_random(2))], &holder);
    let asked = issue(&house.client(tokens, CONTROL_PLANE), &request).await;
    let known = hosts(&house.client(tokens, PIPELINE)).await.unwrap();
    let known = known.into_iter().find(|known| known.host == host()).unwrap();
    (code(asked), known.facts.attestation)
}

#[tokio::test]
async fn a_host_that_failed_gets_no_work_until_it_passes_and_an_appraisal_grows_old() {
    let house = House::new();
    let mut tokens = start(&house, AS_SHIPPED, &["--appraised-for", "4"]);
    let pipeline = house.client(&tokens, PIPELINE);
    for by in [ALICE, CONTROL_PLANE, AUDIT, "azote:tenant/acme"] {
        let client = house.client(&tokens, by);
        assert_eq!(
            code(appraised(&client, &host(), found(Attestation::Passed)).await),
            "rights.caller",
            "{by}"
        );
        assert_eq!(code(hosts(&client).await), "rights.caller", "{by}");
    }
    let nobody = HostId::from_random(77);
    assert_eq!(code(appraised(&pipeline, &nobody, found(Attestation::Passed)).await), "rights.host");
    let late = Standing { at: now() + 1000, ..found(Attestation::Passed) };
    assert_eq!(code(appraised(&pipeline, &host(), late).await), "attestation.older");

    let failed = appraised(&pipeline, &host(), found(Attestation::Failed)).await.unwrap();
    assert_eq!(failed.code.as_deref(), Some("attest.rollback"));
    assert_eq!(attach(&house, &tokens).await, ("rights.forbidden".to_owned(), Attestation::Failed));
    tokens.kill_and_restart();
    let pipeline = house.client(&tokens, PIPELINE);
    assert_eq!(attach(&house, &tokens).await, ("rights.forbidden".to_owned(), Attestation::Failed));
    // Who does not answer is no better than before.
    appraised(&pipeline, &host(), found(Attestation::Unknown)).await.unwrap();
    assert_eq!(attach(&house, &tokens).await.1, Attestation::Failed);
    appraised(&pipeline, &host(), found(Attestation::Passed)).await.unwrap();
    assert_eq!(attach(&house, &tokens).await, (String::new(), Attestation::Passed));

    // Nobody looks any more: the journal says so, and that a certificate ends.
    let (deadline, mut codes) = (Instant::now() + Duration::from_secs(15), Vec::new());
    while !codes.contains(&"certificate.ending".to_owned()) {
        assert!(Instant::now() < deadline, "{codes:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let page = issued(&house.client(&tokens, AUDIT), 0).await.unwrap();
        let entries = page.entries.into_iter().filter(|entry| entry.kind == Kind::Appraised);
        codes =
            entries.filter(|entry| entry.audience == Some(host())).filter_map(|entry| entry.code).collect();
    }
    let wanted = [
        "attestation.failed",
        "attestation.unknown",
        "attestation.passed",
        "attestation.stale",
        "certificate.ending",
    ];
    assert_eq!(codes, wanted);
    assert_eq!(attach(&house, &tokens).await, (String::new(), Attestation::Unknown));
}
