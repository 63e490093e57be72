//! The golden matrix: every group, every operation, every kind of resource that a token may name, every state of a
//! credential, against the running door over TLS. What is expected comes from the table of operations and the
//! rights configuration; what came is also kept in `tests/golden/matrix.txt`, to be read.

use super::*;
use host_api::{
    AcknowledgeLog, AttestHost, AttestationKey, DrainHost, Nonce, OfferCertificate, PowerCycleHost,
    ReadConsole, ReadStatistics, ResetHost, ResumeHost, SealedConsole, Sha256, SignedKeys, UpdateTokenKeys,
    WriteConsole,
};
use ids::Identity;
use operations::{Kind, Operation};
use rights::{Ask, Attestation, HostFacts, Rights};
use service::{CallError, Callers, Credentials};
use std::{collections::BTreeSet, fmt::Write, net::TcpListener};
use token::{KeySet, Keys};
use tokio::sync::oneshot;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/matrix.txt");
const DAY: Duration = Duration::from_secs(86_400);

/// The running door, and one who knows where it is.
pub(super) struct Served {
    pub(super) rig: Rig,
    holder: Ed25519KeyPair,
    pub(super) client: service::Client,
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    /// A host that is ready for the operation.
    pub(super) async fn start(ca: &pki::Ca, operation: Operation) -> Self {
        let rig = Rig::new();
        prepare(&rig, operation).await;
        let host = Identity::Host(rig::host_id());
        let chain = ca.issue(&rig.key.request().unwrap(), &host, true, DAY).unwrap();
        let own = service::Key::from_seed(rig.key.seed()).unwrap();
        let credentials = Credentials::new(&chain, own).unwrap();
        let tls = service::server_config(&credentials, Callers::Anyone).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let client = service::Client::new(ca.certificate(), host, address, None).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = service::serve(listener, service(Arc::clone(&rig.door), tls), async {
            let _ = stopped.await;
        });
        let holder = Ed25519KeyPair::generate().unwrap();
        Self { rig, holder, client, address, stop, serving: tokio::spawn(running) }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        drop(self.client);
        self.serving.await.unwrap().unwrap();
    }

    /// Calls, and gives the code of what came.
    async fn call(&self, http: &HttpCall, claims: Option<&Claims>, prover: &Ed25519KeyPair) -> String {
        let token = claims.map(|claims| claims.sign(&self.rig.issuer).unwrap());
        let method = http.method.as_str();
        let headers = token.as_ref().map(|token| {
            let call = Call { method, path: &http.target, body: &http.body, token };
            (format!("Bearer {token}"), call.prove(prover, NOW).unwrap())
        });
        let headers: Vec<_> = headers
            .iter()
            .flat_map(|(token, proof)| [(TOKEN_HEADER, token.as_str()), (PROOF_HEADER, proof.as_str())])
            .collect();
        let sent = self.client.call::<serde_json::Value>(method, &http.target, http.body.clone(), &headers);
        match sent.await {
            Ok(_) => "done".to_owned(),
            Err(CallError::Refused { code, .. }) => code,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Whether it asks for what only an instance with a hypervisor has.
fn asks_hypervisor(operation: Operation) -> bool {
    use Operation::{InstanceStatistics, ReadConsole, WriteConsole};
    matches!(operation, InstanceStatistics | ReadConsole | WriteConsole)
}

/// What comes of a call that the door lets through: the prepared host has no hypervisors and no TPM.
fn reached(operation: Operation) -> &'static str {
    match operation {
        Operation::AttestHost | Operation::ResetHost => "tpm.gone",
        Operation::OfferCertificate => "certificate.refused",
        _ if asks_hypervisor(operation) => "hypervisor.absent",
        _ => "done",
    }
}

async fn prepare(rig: &Rig, operation: Operation) {
    let client = Client::new(rig);
    rig.make_storage(&volume(1));
    let started = operation == Operation::StopInstance || asks_hypervisor(operation);
    if started || matches!(operation, Operation::DetachVolume | Operation::StartInstance) {
        client.call(attach(1, 1)).await.unwrap();
    }
    if started {
        client.call(start(1, 1)).await.unwrap();
    }
}

/// The request of an operation that the prepared host can do.
fn request(operation: Operation, rig: &Rig) -> (HttpCall, Request) {
    fn both<C: host_api::Call>(call: C) -> (HttpCall, Request) {
        (call.http(), call.into())
    }
    match operation {
        Operation::HostStatus => both(ReadStatus {}),
        Operation::AttestHost => both(AttestHost { nonce: Nonce::from_bytes(&[7; 32]) }),
        Operation::ListFirmware => both(host_api::ListFirmware {}),
        Operation::VerifyFirmware => both(host_api::VerifyFirmware {}),
        Operation::ReadLog => both(ReadLog { after: 0 }),
        Operation::AcknowledgeLog => {
            both(AcknowledgeLog { up_to: 0, checkpoint: Sha256::from_digest(&[1; 32]) })
        }
        Operation::DrainHost => both(DrainHost {}),
        Operation::ResumeHost => both(ResumeHost {}),
        Operation::PowerCycleHost => both(PowerCycleHost {}),
        Operation::ResetHost => both(ResetHost {}),
        Operation::OfferCertificate => both(OfferCertificate {
            chain: "-".parse().unwrap(),
            attestation_certificate: AttestationKey::from_bytes(&[1]).unwrap(),
            instances_chain: None,
        }),
        Operation::UpdateTokenKeys => {
            let keys = Keys::new(vec![PublicKey::of(&rig.issuer)]).unwrap();
            let signed = KeySet { sequence: 1, keys }.sign(&rig.issuer).unwrap();
            both(UpdateTokenKeys { key_set: SignedKeys::from_bytes(&signed).unwrap() })
        }
        Operation::AttachVolume => both(attach(1, 1)),
        Operation::DetachVolume => both(detach(1, false)),
        Operation::StartInstance => both(start(1, 1)),
        Operation::StopInstance => both(stop(1, true)),
        Operation::InstanceStatistics => both(ReadStatistics { instance: instance(1) }),
        Operation::ReadConsole => both(ReadConsole { instance: instance(1), after: 0 }),
        Operation::WriteConsole => {
            both(WriteConsole { instance: instance(1), sealed: SealedConsole::from_bytes(&[1; 90]).unwrap() })
        }
    }
}

/// What the rights configuration gives: how many calls a token would be good for.
fn granted(rights: &Rights, who: &Identity, operation: Operation, resources: &[Resource]) -> Option<u32> {
    let fleet = &rights.groups().fleets[0];
    let host = HostFacts {
        fleet: fleet.name.clone(),
        environment: fleet.environment,
        attestation: Attestation::Passed,
        drained: false,
    };
    let ask = Ask {
        subject: who,
        operations: &[operation],
        resources,
        audience: &rig::host_id(),
        host: &host,
        now: NOW,
        ticket: Some("OPS-1"),
    };
    rights.decide(&ask).ok().map(|grant| grant.uses)
}

/// The resources of a kind that a token names beside the point, or exactly what the request touches.
fn named(kind: Option<Kind>, touched: &[Resource]) -> Vec<Resource> {
    match kind {
        None => touched.to_vec(),
        Some(kind) => {
            let other = match kind {
                Kind::Host => Resource::Host(rig::host_id()),
                Kind::Volume => Resource::Volume(volume(9)),
                Kind::Instance => Resource::Instance(instance(9)),
            };
            touched.iter().find(|resource| resource.kind() == kind).cloned().into_iter().chain([other]).fold(
                Vec::new(),
                |mut list, resource| {
                    if !list.contains(&resource) {
                        list.push(resource);
                    }
                    list
                },
            )
        }
    }
}

const STATES: [&str; 5] = ["no token", "expired", "wrong key", "wrong host", "right"];

struct Row<'a> {
    who: Option<&'a Identity>,
    operation: Operation,
    kind: Option<Kind>,
}

/// One row of the matrix: what came, and what should have.
async fn row(served: &Served, rights: &Rights, row: &Row<'_>) -> ([String; 5], [String; 5]) {
    let (http, request) = request(row.operation, &served.rig);
    let touched = request.resources(&rig::host_id());
    let resources = named(row.kind, &touched);
    let outsider: Identity = "azote:tenant/acme".parse().unwrap();
    let who = row.who.unwrap_or(&outsider);
    let right = granted(rights, who, row.operation, &touched);
    // Who has no right to the operation shows a token for one that it has; all have the status, or nothing.
    let shown = if right.is_some() { row.operation } else { Operation::HostStatus };
    let status = granted(rights, who, Operation::HostStatus, &[Resource::Host(rig::host_id())]);
    let mut claims = Client { rig: &served.rig, key: Ed25519KeyPair::generate().unwrap() }
        .claims(shown, resources.clone());
    claims.subject = who.clone();
    claims.holder = PublicKey::of(&served.holder);
    claims.uses = right.or(status).unwrap_or(1);
    let expired = Claims { expires: NOW, id: [1; 16], ..claims.clone() };
    let elsewhere = Claims { audience: HostId::from_random(9), id: [2; 16], ..claims.clone() };
    let thief = Ed25519KeyPair::generate().unwrap();
    let has_token = right.or(status).is_some();
    let (mut came, mut expected) = ([const { String::new() }; 5], [const { String::new() }; 5]);
    let named_all = touched.iter().all(|resource| resources.contains(resource));
    let right = match (has_token, right, named_all) {
        (false, ..) => "token.missing",
        (_, None, _) if row.operation != Operation::HostStatus => "token.api",
        (_, _, false) => "token.resource",
        _ => reached(row.operation),
    };
    let states = [
        (None, &served.holder, "token.missing"),
        (Some(&expired), &served.holder, "token.expired"),
        (Some(&claims), &thief, "proof.signature"),
        (Some(&elsewhere), &served.holder, "token.audience"),
        (Some(&claims), &served.holder, right),
    ];
    for (at, (claims, prover, code)) in states.into_iter().enumerate() {
        came[at] = served.call(&http, claims.filter(|_| has_token), prover).await;
        expected[at] = if has_token { code.to_owned() } else { "token.missing".to_owned() };
    }
    (came, expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_door_gives_every_group_exactly_what_the_rights_give_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, rights) = (pki::Ca::create(dir.path()).unwrap(), Rights::embedded().unwrap());
    let mut groups: Vec<(&str, Option<&Identity>)> =
        rights.groups().groups.iter().map(|group| (group.name.as_str(), group.members.first())).collect();
    assert!(groups.iter().all(|(_, member)| member.is_some()), "a group without members is not covered");
    groups.push(("everybody else", None));
    let kinds: Vec<_> = std::iter::once(None).chain(Kind::ALL.iter().copied().map(Some)).collect();
    let mut text = format!(
        "{:<15} {:<16} {:<9} {}\n",
        "group",
        "operation",
        "named",
        STATES.map(|state| format!("{state:<15}")).join(" ").trim_end()
    );
    let mut covered = BTreeSet::new();
    for (group, who) in groups {
        for operation in Operation::ALL.iter().copied() {
            let mut served = Served::start(&ca, operation).await;
            for kind in kinds.iter().copied() {
                let (came, expected) = row(&served, &rights, &Row { who, operation, kind }).await;
                let kind = kind.map_or("exact", Kind::name);
                assert_eq!(came, expected, "{group} {operation} {kind}");
                if came[4] == reached(operation) {
                    covered.insert(operation);
                    served.end().await;
                    served = Served::start(&ca, operation).await;
                }
                let came = came.map(|code| format!("{code:<15}")).join(" ");
                writeln!(text, "{group:<15} {:<16} {kind:<9} {}", operation.name(), came.trim_end()).unwrap();
            }
            served.end().await;
        }
    }
    let all: BTreeSet<_> = Operation::ALL.iter().copied().collect();
    assert_eq!(covered, all, "an operation that no group of the configuration ever did");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    assert!(text == golden, "rights or operations changed: UPDATE=1 cargo test -p controller matrix\n{text}");
}
