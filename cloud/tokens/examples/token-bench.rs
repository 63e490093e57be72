//! What it takes to issue a token and to check one, beside plain Ed25519 of the same library in the same run.
//!
//! `cargo run --release -p tokens --example token-bench [-- --json]`. Times are medians in microseconds on one core
//! where no other number of callers is said.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a service")]

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use ids::{HostId, VolumeId};
use rights::{Attestation, Environment, HostFacts, Rights};
use serde_json::json;
use service::Key;
use std::{
    hint::black_box,
    time::{Duration, Instant, UNIX_EPOCH},
};
use token::{Api, Call, Keys, PublicKey, Resource, Verifier};
use tokens::{Inventory, Issuer, Opened, Prepared, Schedule, client::TokenRequest};
use tokio::task::JoinSet;

const ROUNDS: usize = 400;
const CALLERS: usize = 64;
const EACH: usize = 32;
const CALLER: &str = "azote:service/control-plane";

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let issuer = issuer(folder.path());
    let (holder, service) = (Key::generate().unwrap(), Key::generate().unwrap());
    let request = ask(&holder);
    let caller = CALLER.parse().unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (claims, _) = issuer.decide(&caller, &request, [1; 16], now).unwrap();
    let token = claims.sign(service.pair()).unwrap();
    let mut results = Vec::new();
    let mut measure = |name: &str, work: &mut dyn FnMut(usize)| results.push((name.to_owned(), median(work)));

    let message = vec![7; token.len() * 3 / 4];
    let signature = service.pair().sign(&message);
    let public = ParsedPublicKey::new(&ED25519, service.public()).unwrap();
    measure("plain Ed25519 sign", &mut |_| _ = black_box(service.pair().sign(&message)));
    measure("plain Ed25519 verify", &mut |_| public.verify_sig(&message, signature.as_ref()).unwrap());

    measure("issue: decide", &mut |_| drop(black_box(issuer.decide(&caller, &request, [1; 16], now))));
    measure("issue: encode and sign", &mut |_| drop(black_box(claims.sign(service.pair()))));
    measure("issue, cold, without the disk", &mut |_| {
        let (claims, _) = issuer.decide(&caller, &request, [1; 16], now).unwrap();
        drop(black_box(claims.sign(service.pair())));
    });
    let file = std::fs::File::create(folder.path().join("plain")).unwrap();
    // Into blocks that the file has already, as the store writes.
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; 512 * ROUNDS], 0).unwrap();
    file.sync_all().unwrap();
    measure("plain 512-byte write and fdatasync", &mut |n| {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 512], 512 * n as u64).unwrap();
        file.sync_data().unwrap();
    });
    measure("issue, whole, one caller", &mut |_| {
        let peer = Some(CALLER.parse().unwrap());
        runtime.block_on(issuer.issue(peer, None, &request, [1; 16], now)).unwrap();
    });

    let fresh =
        || Verifier::new(Keys::new(vec![PublicKey(service.public())]).unwrap(), claims.audience.clone());
    let tokens: Vec<String> = (0..ROUNDS)
        .map(|n| {
            let mut claims = claims.clone();
            claims.id = (n as u128).to_be_bytes();
            claims.sign(service.pair()).unwrap()
        })
        .collect();
    let verifier = fresh();
    measure("check a token, cold", &mut |n| drop(verifier.verify(&tokens[n], now).unwrap()));
    measure("check a token verified before", &mut |n| drop(verifier.verify(&tokens[n], now).unwrap()));
    let call = Call { method: "POST", path: "/v1/volumes/detach", body: b"{}", token: &token };
    let proof = call.prove(holder.pair(), now).unwrap();
    let bearer = format!("Bearer {token}");
    measure("check a whole call (token verified before, and its proof)", &mut |_| {
        drop(verifier.check_call(Some(&bearer), Some(&proof), call, now).unwrap());
    });

    let rate = runtime.block_on(together(issuer, request, now));
    print(&results, rate);
}

fn ask(holder: &Key) -> TokenRequest {
    TokenRequest {
        apis: vec![Api::DetachVolume],
        resources: vec![Resource::Volume(VolumeId::from_random(2))],
        audience: HostId::from_random(1),
        lifetime_seconds: None,
        uses: None,
        ticket: None,
        public_key: PublicKey(holder.public()),
    }
}

/// Signed and recorded tokens per second with many callers at once.
async fn together(issuer: Issuer, request: TokenRequest, now: u64) -> f64 {
    let issuer = std::sync::Arc::new(issuer);
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CALLERS {
        let (issuer, request) = (issuer.clone(), request.clone());
        callers.spawn(async move {
            for _ in 0..EACH {
                let peer = Some(CALLER.parse().unwrap());
                issuer.issue(peer, None, &request, [1; 16], now).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    (CALLERS * EACH) as f64 / began.elapsed().as_secs_f64()
}

fn issuer(folder: &std::path::Path) -> Issuer {
    let facts = HostFacts {
        fleet: "lab".parse().unwrap(),
        environment: Environment::Lab,
        attestation: Attestation::Passed,
        drained: false,
    };
    let mut opened = Opened::open(&folder.join("tokens.redb"), 1_000_000).unwrap();
    let prepared = Prepared::open(&mut opened, &[1; tokens::WRAPPING_KEY]).unwrap();
    let recorder = opened.start();
    let schedule = Schedule { overlap: 600, rotate_after: None, life: 4000 };
    Issuer {
        name: "azote:service/tokens".parse().unwrap(),
        rights: Rights::embedded().unwrap(),
        inventory: Inventory::new([(HostId::from_random(1), facts)].into()),
        oidc: None,
        keyring: prepared.start(recorder.clone(), schedule),
        recorder,
    }
}

fn median(work: &mut dyn FnMut(usize)) -> f64 {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|n| {
            let began = Instant::now();
            work(n);
            began.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2].as_secs_f64() * 1e6
}

fn print(results: &[(String, f64)], rate: f64) {
    if std::env::args().any(|word| word == "--json") {
        let times: serde_json::Map<_, _> =
            results.iter().map(|(name, time)| (name.clone(), json!(time))).collect();
        println!("{}", json!({"microseconds": times, "issued_per_second": rate, "callers": CALLERS}));
        return;
    }
    for (name, time) in results {
        println!("{time:>10.1} µs  {name}");
    }
    println!("{rate:>10.0} /s  issue, whole, {CALLERS} callers at once");
}
