//! Hosts that become and cease to be of an environment, with a real software TPM each.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use attest::{Code, PCRS, lab::Lab, qualifying_data};
use axum::{Router, routing::get};
use boot_rom::events::Event;
use ids::{Environment, HostId};
use parts::{Parts, Tool};
use pki::{
    Answer, Authority, Challenge, Encoded, Error, Identity, Manufacturer, Measured, Release, Request, State,
};
use service::{
    Callers, Client, Credentials, Json, Key, Limits, Served, Service, Trust, serve, server_config_of,
};
use std::{
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use token::PublicKey;
use tpm::{Credential, Tpm};

/// A machine with a TPM that a manufacturer made, which has started a release.
struct Machine {
    swtpm: Child,
    folder: TempDir,
    key: Key,
    events: Vec<u8>,
    certificate: Vec<u8>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.swtpm.kill().unwrap();
        self.swtpm.wait().unwrap();
    }
}

impl Machine {
    fn start(parts: &Parts, manufacturer: &Manufacturer, lab: &Lab) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("tpm.sock");
        let mut swtpm = parts.command(Tool::Swtpm);
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        swtpm.arg(format!("dir={}", folder.path().display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={},mode=0600", socket.display()));
        let swtpm = swtpm.stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut tpm = Tpm::connect(&socket).unwrap();
        let certificate = manufacturer.certify(&tpm.endorsement_key().unwrap()).unwrap();
        let mut events = Vec::new();
        for event in lab.events() {
            tpm.pcr_extend(event.pcr, &event.sha256.0).unwrap();
            events.extend(Event::new(event.pcr, &event.what, &event.sha256.0).unwrap().bytes());
        }
        Self { swtpm, folder, key: Key::generate().unwrap(), events, certificate }
    }

    fn tpm(&self) -> Tpm {
        let mut tpm = Tpm::connect(&self.folder.path().join("tpm.sock")).unwrap();
        tpm.secure(None).unwrap();
        tpm
    }

    fn request(&self) -> Request {
        let mut tpm = self.tpm();
        Request {
            ek: Encoded(tpm.endorsement_key().unwrap()),
            ek_certificate: Encoded(self.certificate.clone()),
            ak: Encoded(tpm.attestation_key().unwrap()),
            csr: self.key.request().unwrap(),
            attestation: None,
        }
    }

    fn answer(&self, challenge: &Challenge) -> Answer {
        let mut tpm = self.tpm();
        let credential =
            Credential { object: challenge.credential.0.clone(), secret: challenge.secret.0.clone() };
        let proof = tpm.activate_credential(&credential).map_or(vec![0; 32], |secret| secret.to_vec());
        let nonce = challenge.nonce.0.as_slice().try_into().unwrap();
        let data = qualifying_data(&nonce, &PublicKey(self.key.public()));
        let quote = tpm.quote(&data, &PCRS.collect::<Vec<_>>()).unwrap();
        let evidence = Measured {
            attest: Encoded(quote.attest),
            signature: Encoded(quote.signature),
            events: Encoded(self.events.clone()),
        };
        Answer { proof: Encoded(proof), evidence }
    }
}

struct Scene {
    parts: Parts,
    folder: TempDir,
    authority: Authority,
    manufacturer: Manufacturer,
    lab: Lab,
}

impl Scene {
    fn new() -> Option<Self> {
        let Ok(parts) = Parts::locate(&parts::default_dir()) else {
            println!("skipped: no lab parts");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path(), Environment::NonProduction).unwrap();
        let manufacturer = Manufacturer::open_or_create(folder.path()).unwrap();
        let lab = Lab::new(Environment::NonProduction);
        Some(Self { parts, folder, authority, manufacturer, lab })
    }

    fn machine(&self) -> Machine {
        Machine::start(&self.parts, &self.manufacturer, &self.lab)
    }

    fn release(&self) -> Release {
        Release {
            root_key: PublicKey::of(&self.lab.root),
            manifest: self.lab.manifest.sign(&self.lab.root).unwrap(),
            configuration: self.lab.configuration.sign(&self.lab.root).unwrap(),
        }
    }

    fn enrol(&self, host: &HostId, machine: &Machine) -> Result<Identity, Error> {
        let manufacturer = self.manufacturer.certificate();
        let (challenge, pending) = self.authority.begin(host, manufacturer, machine.request())?;
        self.authority.finish(pending, &machine.answer(&challenge), &self.release())
    }

    /// What whoever talks to the host thinks of its certificate.
    fn judge(&self, identity: &Identity) -> Result<HostId, String> {
        let trusted = std::fs::read_to_string(self.authority.trusted()).unwrap();
        let certified = service::certified_by(&trusted, &identity.chain, now());
        match certified.map_err(|error| error.to_string())?.identity {
            ids::Identity::Host(host) => Ok(host),
            other => panic!("{other}"),
        }
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn host(number: u128) -> HostId {
    HostId::from_random(number)
}

#[test]
fn a_host_is_taken_in_renewed_and_retired() {
    let Some(scene) = Scene::new() else { return };
    let machine = scene.machine();
    let first = scene.enrol(&host(1), &machine).unwrap();
    assert_eq!((first.environment, &first.host), (Environment::NonProduction, &host(1)));
    let renewed = scene.authority.renew(&host(1)).unwrap();
    assert_ne!(renewed.chain, first.chain);
    assert_eq!(scene.judge(&first).unwrap(), host(1));
    assert_eq!(scene.judge(&renewed).unwrap(), host(1));
    let ak = attest::AkCertificate::verify(&renewed.ak_certificate.0, &authority_key(&scene), now()).unwrap();
    assert_eq!((ak.host, ak.attestation_key.0), (host(1), machine.request().ak.0));

    assert!(matches!(scene.authority.renew(&host(2)), Err(Error::Unknown(_))));
    scene.authority.retire(&host(1)).unwrap();
    for identity in [&first, &renewed] {
        let refused = scene.judge(identity).unwrap_err();
        assert!(refused.contains("Revoked"), "{refused}");
    }
    assert!(matches!(scene.authority.renew(&host(1)), Err(Error::Unknown(_))));
    assert!(matches!(scene.authority.retire(&host(1)), Err(Error::Unknown(_))));
    let again = scene.enrol(&host(1), &machine).unwrap();
    assert_eq!(scene.judge(&again).unwrap(), host(1));
    assert!(scene.judge(&first).is_err(), "what was revoked stays revoked");
    let states: Vec<_> = scene.authority.hosts().unwrap().iter().map(|member| member.state).collect();
    assert_eq!(states, [State::Retired, State::Enrolled]);
}

/// The key of the environment's authority.
fn authority_key(scene: &Scene) -> PublicKey {
    let pem = scene.authority.ca().certificate().to_owned();
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = pem.parse_x509().unwrap();
    PublicKey(certificate.public_key().subject_public_key.data.as_ref().try_into().unwrap())
}

#[test]
fn names_and_tpms_belong_together_until_one_is_given_up() {
    let Some(scene) = Scene::new() else { return };
    let (one, other) = (scene.machine(), scene.machine());
    let first = scene.enrol(&host(1), &one).unwrap();
    assert!(matches!(scene.enrol(&host(1), &other), Err(Error::Taken(_))));
    assert!(matches!(scene.enrol(&host(2), &one), Err(Error::OtherHost(_))));
    // A host that lost its answer before it wrote it down asks again; what it got first counts no more.
    let second = scene.enrol(&host(1), &one).unwrap();
    assert!(scene.judge(&first).is_err());
    assert!(scene.judge(&second).is_ok());
    scene.authority.erased(&host(1)).unwrap();
    assert!(scene.judge(&second).is_err());
    assert!(scene.enrol(&host(2), &one).is_ok() && scene.enrol(&host(1), &other).is_ok());
    let opened = Authority::open_or_create(scene.folder.path(), Environment::Production);
    assert!(matches!(opened, Err(Error::Environment)), "an authority is of one environment");
}

#[test]
fn who_cannot_prove_where_its_keys_lie_is_not_taken_in() {
    let Some(scene) = Scene::new() else { return };
    let (machine, other) = (scene.machine(), scene.machine());
    let ours = scene.manufacturer.certificate();
    let begin = |request| scene.authority.begin(&host(1), ours, request);
    let refused = |request| begin(request).map(drop).unwrap_err();

    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Manufacturer::open_or_create(elsewhere.path()).unwrap();
    let mut request = machine.request();
    request.ek_certificate = Encoded(stranger.certify(&request.ek.0).unwrap());
    assert!(matches!(refused(request), Error::EndorsementKey), "another maker's");
    let mut request = machine.request();
    request.ek_certificate = other.request().ek_certificate;
    assert!(matches!(refused(request), Error::EndorsementKey), "another TPM's");
    let mut request = machine.request();
    request.ek = request.ak.clone();
    assert!(matches!(refused(request), Error::EndorsementKey), "no endorsement key");
    let mut request = machine.request();
    request.ak = request.ek.clone();
    assert!(matches!(refused(request), Error::Credential(_)), "no attestation key");
    let mut request = machine.request();
    request.csr = String::new();
    assert!(matches!(refused(request), Error::Request));

    // The attestation key of another TPM beside an endorsement key that is certified.
    let mut request = machine.request();
    request.ak = other.request().ak;
    let (challenge, pending) = begin(request).unwrap();
    let finish = |pending, answer: &Answer| scene.authority.finish(pending, answer, &scene.release());
    assert!(matches!(finish(pending, &machine.answer(&challenge)), Err(Error::Proof)));
    // An answer to another challenge.
    let (challenge, _) = begin(machine.request()).unwrap();
    let (_, pending) = begin(machine.request()).unwrap();
    assert!(matches!(finish(pending, &machine.answer(&challenge)), Err(Error::Proof)));
    assert!(scene.authority.hosts().unwrap().is_empty());
}

#[test]
fn who_runs_anything_else_is_not_taken_in() {
    let Some(scene) = Scene::new() else { return };
    let refusal = |machine: &Machine, change: &dyn Fn(&mut Answer), release: &Release| {
        let ours = scene.manufacturer.certificate();
        let (challenge, pending) = scene.authority.begin(&host(1), ours, machine.request()).unwrap();
        let mut answer = machine.answer(&challenge);
        change(&mut answer);
        match scene.authority.finish(pending, &answer, release) {
            Err(Error::Evidence(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let (good, machine) = (scene.release(), scene.machine());
    // The log says something else than the registers, or leaves out what they hold.
    let cut = |answer: &mut Answer| answer.evidence.events.0.truncate(72);
    assert_eq!(refusal(&machine, &cut, &good), Code::Log);
    let empty = |answer: &mut Answer| answer.evidence.events.0.clear();
    assert_eq!(refusal(&machine, &empty, &good), Code::Log);
    // Another release, and one of the other environment.
    let mut lab = Lab::new(Environment::NonProduction);
    lab.manifest.images[3].sha256[0] ^= 1;
    let another = Machine::start(&scene.parts, &scene.manufacturer, &lab);
    assert_eq!(refusal(&another, &|_| (), &good), Code::Entry);
    let production = Lab::new(Environment::Production);
    let release = Release {
        root_key: PublicKey::of(&production.root),
        manifest: production.manifest.sign(&production.root).unwrap(),
        configuration: production.configuration.sign(&production.root).unwrap(),
    };
    assert_eq!(refusal(&machine, &|_| (), &release), Code::Environment);
    // The quote is of another identity key.
    let mut swapped = scene.machine();
    let ours = scene.manufacturer.certificate();
    let (challenge, pending) = scene.authority.begin(&host(1), ours, swapped.request()).unwrap();
    swapped.key = Key::generate().unwrap();
    match scene.authority.finish(pending, &swapped.answer(&challenge), &good) {
        Err(Error::Evidence(refusal)) => assert_eq!(refusal.code, Code::Nonce),
        other => panic!("{other:?}"),
    }
    assert!(scene.authority.hosts().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_shows_what_it_is_offered_and_nobody_talks_to_a_retired_one() {
    let Some(scene) = Scene::new() else { return };
    let machine = scene.machine();
    let first = scene.enrol(&host(1), &machine).unwrap();
    let credentials =
        |identity: &Identity| Credentials::new(&identity.chain, Key::from_seed(machine.key.seed()).unwrap());
    let served = Served::new(&credentials(&first).unwrap()).unwrap();
    let trust = Arc::new(Trust::new(&std::fs::read_to_string(scene.authority.trusted()).unwrap()).unwrap());
    let service = Service {
        router: Router::new().route("/v1/here", get(async || Json(true))),
        tls: server_config_of(Arc::clone(&served), Callers::Anyone).unwrap(),
        limits: Limits::default(),
        observer: Arc::new(|_| ()),
    };
    let file = scene.folder.path().join("address");
    let listener = service::bind("127.0.0.1:0".parse().unwrap(), Some(&file)).unwrap();
    let address = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let serving = tokio::spawn(serve(listener, service, std::future::pending()));
    let call = async || {
        let client = Client::new(&trust.pem(), ids::Identity::Host(host(1)), address, None).unwrap();
        client.get::<bool>("/v1/here").await.map_err(|error| error.to_string())
    };
    assert_eq!(call().await, Ok(true));
    // Somebody else's certificate is no replacement, and leaves the present one in place.
    let stranger = Credentials::new(&first.chain, Key::generate().unwrap()).unwrap();
    assert!(served.replace(&stranger).is_err());
    assert_eq!(call().await, Ok(true));

    // What was lost or is stolen is replaced in the registry: the host must show its new certificate.
    let second = scene.enrol(&host(1), &machine).unwrap();
    let list = std::fs::read_to_string(scene.authority.list()).unwrap();
    let number = trust.offer(&list).unwrap();
    assert!(call().await.unwrap_err().contains("Revoked"));
    served.replace(&credentials(&second).unwrap()).unwrap();
    assert_eq!(call().await, Ok(true));

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(elsewhere.path(), Environment::NonProduction).unwrap();
    let foreign = std::fs::read_to_string(other.list()).unwrap();
    for wrong in [&foreign[..], "", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", &first.chain]
    {
        assert!(trust.offer(wrong).is_err(), "{wrong}");
    }
    scene.authority.retire(&host(1)).unwrap();
    let newest = scene.authority.refresh_list().unwrap();
    assert!(trust.offer(&newest).unwrap() > number);
    assert_eq!(trust.offer(&list).unwrap(), trust.offer(&newest).unwrap(), "an old list changes nothing");
    assert!(call().await.unwrap_err().contains("Revoked"));
    serving.abort();
}
