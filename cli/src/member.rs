//! How a host becomes and ceases to be one of an environment: `azote host enroll`, `renew`, `retire`, `reset`. It stands
//! in for the environment's authority and for those who bring its revocation lists to the services.

use crate::{
    args::Up,
    attest::POLICY,
    boot,
    cloud::{Cloud, Who},
    failure::{Doing, Failure},
    out::Out,
    place::{INSTALLATION, Place},
    rack::Unit,
    up::{self, Installation, SERVICES},
    verbs::told,
};
use ::attest::{Erasure, Policy, Statement};
use host_api::{AttestationKey, Erased, OfferCertificate, ResetHost};
use ids::HostId;
use pki::Authority;
use serde_json::json;
use service::{Client, Credentials, Known, REVOCATIONS, Revocations};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Certificates of erasure.
const ERASURES: &str = "erasures";
/// How long a host that was reset may take to end.
const END: Duration = Duration::from_secs(15);

/// Takes a host in that is in its first state, or is brought there by the `jumper`, and starts it.
pub(crate) fn enroll(out: Out, place: &Place, ask: &Up, jumper: bool) -> Result<(), Failure> {
    if jumper {
        if up::ended(place).len() < up::UNITS.len() {
            let message = "the machine is switched on: `azote down` first".to_owned();
            return Err(Failure::Advice("host.already-up", message));
        }
        let installation = Installation::read(place)?;
        match installation.authority(place)?.retire(&installation.host) {
            Ok(()) | Err(pki::Error::Unknown(_)) => forget(place, installation)?,
            Err(error) => return Err(error.into()),
        }
    } else if boot::is_enrolled(place) {
        let message = "the host is enrolled: `azote host reset` takes it back to its first state".to_owned();
        return Err(Failure::Advice("host.enrolled", message));
    }
    up::up(out, place, ask, jumper)?;
    let Installation { host, environment, .. } = Installation::read(place)?;
    let text = format!("{host} is one of this {environment} environment");
    out.result(&text, &json!({"host": host, "done": "enrolled", "environment": environment}));
    Ok(())
}

/// Offers the host certificates for another day.
pub(crate) fn renew(out: Out, place: &Place) -> Result<(), Failure> {
    let cloud = Cloud::open(place)?;
    let host = &cloud.installation.host;
    let authority = cloud.installation.authority(place)?;
    let ends = offer(&cloud, &authority, host).map_err(|error| told(place, error))?;
    out.result(
        "renewed: the host shows certificates of another day",
        &json!({"host": host, "done": "renewed", "ends": ends}),
    );
    Ok(())
}

/// Offers a host the next certificates; gives until when they live, Unix time in seconds.
pub(crate) fn offer(cloud: &Cloud, authority: &Authority, host: &HostId) -> Result<u64, Failure> {
    let next = authority.renew(host)?;
    let ends =
        service::ends(&next.chain).ok_or_else(|| Failure::state("the authority issued no certificate"))?;
    let pem =
        |text: String| text.parse().map_err(|_| Failure::state("the authority's certificates are too long"));
    let offer = OfferCertificate {
        chain: pem(next.chain)?,
        attestation_certificate: AttestationKey::from_bytes(&next.ak_certificate.0)
            .map_err(Failure::state)?,
        instances_chain: next.attestation_chain.map(pem).transpose()?,
    };
    cloud.call(Who::Pipeline, &offer)?;
    Ok(ends)
}

/// Revokes the certificates of a host; nobody talks to it any more.
pub(crate) fn retire(out: Out, place: &Place, host: Option<&HostId>) -> Result<(), Failure> {
    let installation = Installation::read(place)?;
    let host = host.unwrap_or(&installation.host);
    let authority = installation.authority(place)?;
    authority.retire(host)?;
    let told = publish(place, &authority);
    let all = SERVICES.len();
    let text =
        format!("{host} is retired: its certificates are revoked ({told} of {all} running services know)");
    out.result(&text, &json!({"host": host, "done": "retired", "services_told": told}));
    Ok(())
}

/// Brings the revocation list to the services that run; how many took it. Others read it when they start.
fn publish(place: &Place, authority: &Authority) -> usize {
    let tell = |name: &str| {
        let list = fs::read_to_string(authority.list()).doing("revocation list")?;
        let me = Credentials::read(&place.path("identities/pipeline.pem")).map_err(Failure::state)?;
        let server = format!("azote:service/{name}").parse().map_err(Failure::state)?;
        let address = up::address(place, name)?;
        let client = Client::new(authority.ca().certificate(), server, address, Some(&me));
        let client = client.map_err(Failure::state)?;
        let list = Revocations { list };
        Ok::<Known, Failure>(up::runtime()?.block_on(client.post(REVOCATIONS, &list))?)
    };
    SERVICES.into_iter().filter(|name| tell(name).is_ok()).count()
}

/// Resets the host: keeps its certificate of erasure, ends what runs, and forgets it.
pub(crate) fn reset(out: Out, place: &Place, ticket: &str) -> Result<(), Failure> {
    let cloud = Cloud::open(place)?;
    let host = cloud.installation.host.clone();
    let policy = fs::read(place.path(POLICY)).doing(POLICY)?;
    let policy = Policy::parse(&policy).map_err(Failure::state)?;
    let erased: Erased =
        cloud.call_for(Who::Operator, Some(ticket), &ResetHost {}).map_err(|error| told(place, error))?;
    let document = serde_json::to_string_pretty(&erased).map_err(Failure::state)?;
    let folder = place.folder(ERASURES).doing(ERASURES)?;
    let path = folder.join(format!("{host}.json"));
    service::write_atomic(&path, document.as_bytes()).doing(path.display())?;
    let statement = check(&document, &policy)?;
    let authority = cloud.installation.authority(place)?;
    authority.erased(&host)?;
    publish(place, &authority);
    forget(place, cloud.installation)?;
    out.result(
        &format!(
            "{host} is reset; its certificate of erasure is in {}. `azote host enroll` takes the machine in anew",
            path.display()
        ),
        &json!({"host": host, "done": "reset", "certificate": path, "statement": statement}),
    );
    Ok(())
}

/// Judges a certificate of erasure.
fn check(document: &str, policy: &Policy) -> Result<Statement, Failure> {
    let erasure: Erasure = serde_json::from_str(document).map_err(Failure::state)?;
    let judged = erasure.verify(policy);
    let (statement, _) = judged.map_err(|refusal| {
        Failure::Advice(refusal.code.as_str(), format!("the erasure is not proven: {refusal}"))
    })?;
    Ok(statement)
}

/// Judges a kept certificate of erasure.
pub(crate) fn erasure(
    out: Out,
    place: &Place,
    file: &PathBuf,
    policy: Option<&PathBuf>,
) -> Result<(), Failure> {
    let policy = policy.cloned().unwrap_or_else(|| place.path(POLICY));
    let read = |path: &PathBuf| fs::read(path).doing(path.display());
    let policy = Policy::parse(&read(&policy)?).map_err(Failure::state)?;
    let document = String::from_utf8(read(file)?).map_err(Failure::state)?;
    let statement = check(&document, &policy)?;
    let text = serde_json::to_string_pretty(&statement).map_err(Failure::state)?;
    out.result(&text, &statement);
    Ok(())
}

/// Takes away what the host has left: ciphertext without a key, and its papers. The machine gets another name.
fn forget(place: &Place, installation: Installation) -> Result<(), Failure> {
    let (controller, begun) = (Unit::new(place, "controller"), Instant::now());
    while controller.is_running() && begun.elapsed() < END {
        std::thread::sleep(Duration::from_millis(50));
    }
    up::down(place)?;
    for name in ["host", "functions"] {
        match fs::remove_dir_all(place.path(name)) {
            Err(error) if place.path(name).exists() => return Err(Failure::Io(name.to_owned(), error)),
            _ => {}
        }
    }
    let next = Installation { host: HostId::from_random(up::random()?), ..installation };
    let path = place.path(INSTALLATION);
    let text = serde_json::to_vec_pretty(&next).map_err(Failure::state)?;
    service::write_atomic(&path, &text).doing(path.display())
}
