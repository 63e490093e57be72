//! The real program, a real software TPM, real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod house;

use house::House;
use ids::{HostId, VolumeId};
use service::Key;
use std::{fs, time::UNIX_EPOCH};
use token::{Api, Call, PublicKey, Refusal, ReplaySet, Resource, Verifier};
use tokens::client::{TokenRequest, issue, keys};

const PROGRAM: &str = env!("CARGO_BIN_EXE_azote-tokens");
const CONTROL_PLANE: &str = "azote:service/control-plane";
const ALICE: &str = "azote:operator/alice";

fn host() -> HostId {
    HostId::from_random(1)
}

fn attach(holder: &Key) -> TokenRequest {
    TokenRequest {
        apis: vec![Api::AttachVolume],
        resources: vec![Resource::Host(host()), Resource::Volume(VolumeId::from_random(2))],
        audience: host(),
        lifetime_seconds: None,
        uses: None,
        ticket: None,
        public_key: PublicKey(holder.public()),
    }
}

#[tokio::test]
async fn a_host_takes_what_the_service_signs_and_keys_survive_a_kill() {
    let house = House::new();
    let mut tokens = house.start(PROGRAM, "tokens", &[]);
    let holder = Key::generate().unwrap();
    let control_plane = house.client(&tokens, CONTROL_PLANE);
    let answer = issue(&control_plane, &attach(&holder)).await.unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now + 895..=now + 900).contains(&answer.expires), "the configured default");
    let first = keys(&control_plane).await.unwrap();

    tokens.kill_and_restart();
    let second = keys(&house.client(&tokens, ALICE)).await.unwrap();
    assert_eq!(first, second, "the signing key comes back from the TPM");

    let verifier = Verifier::new(second, host());
    let body = b"{}";
    let call = Call { method: "POST", path: "/v1/volumes/attach", body, token: &answer.token };
    let proof = call.prove(holder.pair(), now).unwrap();
    let authorization = format!("Bearer {}", answer.token);
    let mut replay = ReplaySet::new(8, now);
    let claims = verifier.verify_call(Some(&authorization), Some(&proof), call, &mut replay, now).unwrap();
    assert_eq!(claims.subject.to_string(), CONTROL_PLANE);
    claims.authorize(Api::AttachVolume, &attach(&holder).resources).unwrap();
    assert_eq!(claims.authorize(Api::StopInstance, &[]), Err(Refusal::TokenApi));

    let log = tokens.log();
    assert!(log.contains(&claims.id_text()), "what was signed is in the log");
    assert!(!log.contains(&answer.token), "the token itself is not");
    assert_eq!(tokens.stop(), Some(0), "{}", tokens.log());
}

#[tokio::test]
async fn what_the_rights_do_not_give_is_refused_and_logged() {
    let house = House::new();
    let rights = house.path("rights.toml");
    let text = include_str!("../../../policies/rights.toml").replace("maximum = 3600", "maximum = 1000");
    fs::write(&rights, text).unwrap();
    let tokens = house.start(PROGRAM, "tokens", &["--rights", rights.to_str().unwrap()]);
    let holder = Key::generate().unwrap();
    let good = attach(&holder);
    let table = [
        ("rights.subject", "azote:tenant/acme", good.clone()),
        ("rights.api", ALICE, good.clone()),
        ("rights.resource", ALICE, TokenRequest { apis: vec![Api::ReadLog], ..good.clone() }),
        ("rights.resource", CONTROL_PLANE, TokenRequest { audience: HostId::from_random(9), ..good.clone() }),
        ("rights.lifetime", CONTROL_PLANE, TokenRequest { lifetime_seconds: Some(1001), ..good.clone() }),
        ("rights.lifetime", CONTROL_PLANE, TokenRequest { lifetime_seconds: Some(0), ..good.clone() }),
        ("rights.malformed", CONTROL_PLANE, TokenRequest { apis: vec![], ..good.clone() }),
        (
            "rights.malformed",
            CONTROL_PLANE,
            TokenRequest { resources: vec![good.resources[0].clone(); 2], ..good },
        ),
    ];
    for (code, caller, request) in table {
        let refused = issue(&house.client(&tokens, caller), &request).await.err().unwrap();
        assert_eq!(refused.code(), code, "{caller} {request:?}");
    }
    let log = tokens.log();
    assert_eq!(log.lines().filter(|line| line.contains("\"code\":\"rights.")).count(), 8, "{log}");
    let client = house.client(&tokens, ALICE);
    let refused = client.post::<_, ()>("/v1/tokens", &["ReadMemory"]).await.unwrap_err();
    assert_eq!(refused.code(), "request.malformed");
}

#[test]
fn neither_key_is_in_a_file_and_a_second_enrolment_keeps_them() {
    let house = House::new();
    let state = house.path("tokens");
    fs::create_dir(&state).unwrap();
    let enrol =
        || String::from_utf8(house.command(PROGRAM, "enrol", &state).output().unwrap().stdout).unwrap();
    let first = enrol();
    assert!(first.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    let mut tpm = tpm::Tpm::connect(&house.path("tpm.sock")).unwrap();
    let mut seeds = Vec::new();
    for name in ["identity.sealed", "signing.sealed"] {
        let seed = service::unseal_from(&state.join(name), &mut tpm).unwrap();
        assert_eq!(seed.len(), 32);
        seeds.push(seed);
    }
    drop(tpm);
    assert_ne!(*seeds[0], *seeds[1]);
    let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(seeds.iter().all(|seed| !bytes.windows(seed.len()).any(|window| window == seed.as_slice())));
    }
    assert_eq!(enrol().len(), first.len());
    let mut tpm = tpm::Tpm::connect(&house.path("tpm.sock")).unwrap();
    assert_eq!(*service::unseal_from(&state.join("signing.sealed"), &mut tpm).unwrap(), *seeds[1]);
}
