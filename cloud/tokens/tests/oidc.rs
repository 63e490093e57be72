//! Operators without certificates: ID tokens of a real OpenID provider, which runs on loopback.
//!
//! The provider is `oidc-provider` under node (`tests/provider`). Where node, npm or the registry is missing, the test
//! says so and proves nothing; with `AZOTE_REQUIRE_PROVIDER` set it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::print_stderr, reason = "a test that proves nothing says so")]

mod desk;
mod house;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use desk::{ALICE, AS_SHIPPED, AUDIT, ask, host, start};
use house::House;
use serde_json::{Value, json};
use service::Key;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::UNIX_EPOCH,
};
use token::{Api, PublicKey, Resource, Verifier};
use tokens::{
    By, Kind, Oidc, OidcRefused,
    client::{TokenRequest, issue, issue_by_id_token, issued, keys},
    oidc::nonce,
};

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A running provider.
struct Provider {
    process: Child,
    lines: BufReader<ChildStdout>,
    input: ChildStdin,
    issuer: String,
    jwks: Value,
}

impl Provider {
    fn start(algorithm: &str) -> Option<Self> {
        let mut command = Command::new("node");
        command.arg("provider.mjs").arg(algorithm).current_dir(installed()?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut lines = BufReader::new(output);
        let hello = line(&mut lines);
        let issuer = hello["issuer"].as_str().unwrap().to_owned();
        Some(Self { process, lines, input, issuer, jwks: hello["jwks"].clone() })
    }

    /// Signs somebody in as a browser does; gives the ID token.
    fn sign_in(&mut self, login: &str, nonce: &str, client: &str) -> String {
        writeln!(self.input, "{}", json!({"login": login, "nonce": nonce, "client": client})).unwrap();
        line(&mut self.lines)["id_token"].as_str().unwrap().to_owned()
    }

    /// The configuration of the token service for it.
    fn settings(&self, folder: &Path, more: &str) -> PathBuf {
        fs::write(folder.join("jwks.json"), self.jwks.to_string()).unwrap();
        let text = format!(
            "issuer = \"{}\"\naudience = \"azote\"\njwks = \"jwks.json\"\nclaim = \"email\"\n{more}\n\
             [operators]\n\"alice@example.org\" = \"alice\"\n",
            self.issuer
        );
        let path = folder.join("oidc.toml");
        fs::write(&path, text).unwrap();
        path
    }

    fn oidc(&self, more: &str) -> Oidc {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(self.settings(folder.path(), more)).unwrap();
        Oidc::parse(&text, |path| fs::read_to_string(folder.path().join(path))).unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(lines: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    assert!(lines.read_line(&mut line).unwrap() > 0, "the provider ended");
    serde_json::from_str(&line).unwrap()
}

/// The folder with the provider, installed once beside the build.
fn installed() -> Option<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("provider");
    fs::create_dir_all(&folder).unwrap();
    let lock = fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    for name in ["package.json", "package-lock.json", "provider.mjs"] {
        fs::copy(from.join(name), folder.join(name)).unwrap();
    }
    if !folder.join("node_modules/.package-lock.json").exists() {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder);
        if !npm.output().is_ok_and(|output| output.status.success()) {
            assert!(std::env::var_os("AZOTE_REQUIRE_PROVIDER").is_none(), "no OpenID provider");
            eprintln!("NOTHING PROVEN: node and npm with a registry are needed to run an OpenID provider");
            return None;
        }
    }
    Some(folder)
}

#[test]
fn id_tokens_of_a_real_provider_are_taken_by_every_algorithm_and_only_for_their_key() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let Some(mut provider) = Provider::start(algorithm) else { return };
        let oidc = provider.oidc("");
        let [mine, thiefs] = [1, 2].map(|n| PublicKey([n; 32]));
        let good = provider.sign_in("alice", &nonce(&mine), "azote");
        assert_eq!(oidc.verify(&good, &mine, now()).unwrap().to_string(), ALICE, "{algorithm}");
        assert_eq!(oidc.verify(&good, &thiefs, now()), Err(OidcRefused::Nonce), "stolen");
        assert_eq!(oidc.verify(&good, &mine, now() + 700), Err(OidcRefused::Stale));
        assert_eq!(oidc.verify(&good, &mine, now() + 8000), Err(OidcRefused::Expired));
        assert_eq!(oidc.verify(&good, &mine, now() - 100), Err(OidcRefused::NotYetValid));
        let mallory = provider.sign_in("mallory", &nonce(&mine), "azote");
        assert_eq!(oidc.verify(&mallory, &mine, now()), Err(OidcRefused::Subject));
        let elsewhere = provider.sign_in("alice", &nonce(&mine), "another");
        assert_eq!(oidc.verify(&elsewhere, &mine, now()), Err(OidcRefused::Audience));

        let (head, rest) = good.split_once('.').unwrap();
        let (body, signature) = rest.split_once('.').unwrap();
        let swapped = format!("{head}.{}.{signature}", mallory.split('.').nth(1).unwrap());
        assert_eq!(oidc.verify(&swapped, &mine, now()), Err(OidcRefused::Signature));
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
        let with = |change: &dyn Fn(&mut Value)| {
            let mut header = header.clone();
            change(&mut header);
            let header = URL_SAFE_NO_PAD.encode(header.to_string());
            oidc.verify(&format!("{header}.{body}.{signature}"), &mine, now())
        };
        assert_eq!(with(&|h| h["alg"] = json!("none")), Err(OidcRefused::Algorithm));
        assert_eq!(with(&|h| h["alg"] = json!("HS256")), Err(OidcRefused::Algorithm));
        let another = if algorithm == "ES256" { "EdDSA" } else { "ES256" };
        assert_eq!(with(&|h| h["alg"] = json!(another)), Err(OidcRefused::Algorithm), "not the key's");
        assert_eq!(with(&|h| h["kid"] = json!("another")), Err(OidcRefused::Key));
        assert_eq!(with(&|h| h["crit"] = json!(["b64"])), Err(OidcRefused::Malformed));
        let unnamed = with(&|h| drop(h.as_object_mut().unwrap().remove("kid")));
        let wanted = if algorithm == "RS256" { OidcRefused::Signature } else { OidcRefused::Key };
        assert_eq!(unnamed, Err(wanted), "the only key, or one of several");
        if algorithm != "RS256" {
            let picky = provider.oidc("algorithms = [\"RS256\"]").verify(&good, &mine, now());
            assert_eq!(picky, Err(OidcRefused::Algorithm), "not on the list");
        }
    }
}

#[tokio::test]
async fn an_operator_signs_in_without_a_certificate_and_gets_a_token_for_her_key_only() {
    let Some(mut provider) = Provider::start("RS256") else { return };
    let house = House::new();
    let settings = provider.settings(&house.path("."), "");
    let tokens = start(&house, AS_SHIPPED, &["--oidc", settings.to_str().unwrap()]);
    let [holder, thief] = [1, 2].map(|_| Key::generate().unwrap());
    let request = |holder: &Key| ask(&[Api::HostStatus], &[Resource::Host(host())], holder);
    let id_token = provider.sign_in("alice", &nonce(&PublicKey(holder.public())), "azote");
    let stranger = house.stranger(&tokens);
    let answer = issue_by_id_token(&stranger, &id_token, &request(&holder)).await.unwrap();
    let known = keys(&house.client(&tokens, ALICE)).await.unwrap();
    let claims = Verifier::new(known, host()).verify(&answer.token, now()).unwrap();
    assert_eq!((claims.subject.to_string().as_str(), claims.holder.0), (ALICE, holder.public()));

    let refused = async |id_token: &str, request: &TokenRequest| {
        issue_by_id_token(&stranger, id_token, request).await.err().unwrap().code().to_owned()
    };
    assert_eq!(refused(&id_token, &request(&thief)).await, "oidc.nonce");
    assert_eq!(refused("", &request(&holder)).await, "oidc.malformed");
    let (good, body) = (format!("Bearer {id_token}"), serde_json::to_vec(&request(&holder)).unwrap());
    let twice = [("authorization", good.as_str()), ("authorization", "Bearer e30.e30.")];
    let twice = stranger.call::<Value>("POST", "/v1/tokens", body, &twice).await;
    assert_eq!(twice.err().unwrap().code(), "oidc.malformed");
    let more = TokenRequest { apis: vec![Api::StopInstance], ..request(&holder) };
    assert_eq!(refused(&id_token, &more).await, "rights.resource");
    assert_eq!(issue(&stranger, &request(&holder)).await.err().unwrap().code(), "peer.missing");
    let both = issue_by_id_token(&house.client(&tokens, ALICE), &id_token, &request(&holder)).await;
    assert_eq!(both.err().unwrap().code(), "oidc.both");
    assert_eq!(keys(&stranger).await.unwrap_err().code(), "peer.missing", "nothing else is for strangers");

    let entries = issued(&house.client(&tokens, AUDIT), 0).await.unwrap().entries;
    let told: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::Issued | Kind::Refused))
        .map(|entry| (entry.by, entry.subject.as_ref().map(ToString::to_string), entry.code.as_deref()))
        .collect();
    let alice = || Some(ALICE.to_owned());
    assert_eq!(
        told,
        [
            (Some(By::Oidc), alice(), None),
            (None, None, Some("oidc.nonce")),
            (None, None, Some("oidc.malformed")),
            (None, None, Some("oidc.malformed")),
            (Some(By::Oidc), alice(), Some("rights.resource")),
            (None, None, Some("peer.missing")),
            (None, alice(), Some("oidc.both")),
        ]
    );
    assert!(
        !tokens.log().contains(&id_token) && !serde_json::to_string(&entries).unwrap().contains(&id_token)
    );

    let certificates_only = House::new();
    let tokens = start(&certificates_only, AS_SHIPPED, &[]);
    let stranger = certificates_only.stranger(&tokens);
    let refused = issue_by_id_token(&stranger, &id_token, &request(&holder)).await.err().unwrap();
    assert_eq!(
        refused.code(),
        "call.unreachable",
        "without a provider nobody comes in without a certificate"
    );
}
