//! Who the host is, and what it shows for it: the TPM's record, certificates and keys must agree.

use super::{MAX_CERTIFICATE, Options};
use crate::{
    attest::{Attester, Papers, SharedTpm},
    attestation,
    boot::{
        self, Halt,
        compartments::Early,
        start::Start,
        state::{State, need},
    },
    host::Identity,
    settings::{Settings, SettingsError},
};
use boot_rom::events::Events;
use nsm::{Chain, HostKey};
use service::{Credentials, Served, process::Failure};
use std::sync::Arc;

/// Who the host is: the TPM's record, the certificate and the sealed key must agree.
pub(super) fn identify(
    options: &Options,
    state: &State,
    start: &Start,
    early: Early,
) -> Result<(Identity, Arc<Served>), Failure> {
    let halt = |message: &str| Halt::new("boot.identity", "certificate", message);
    let certificate = need(&options.certificate, MAX_CERTIFICATE, "boot.identity", "certificate")?;
    let certificate = String::from_utf8(certificate).map_err(|_| halt("it is no PEM text"))?;
    let key = service::Key::from_seed(early.identity.seed())?;
    let credentials = Credentials::new(&certificate, key).map_err(|error| halt(&error.to_string()))?;
    let named = credentials.identity().map_err(|error| halt(&error.to_string()))?;
    let ids::Identity::Host(host) = named else {
        return Err(halt("it is not a host's: ask the authority for one that names this host").into());
    };
    let expected = options.host.as_ref().unwrap_or(&host);
    if *expected != host || start.host()? != host {
        return Err(halt(&format!("it is for {host}, another host: enrol this one")).into());
    }
    // One that has ended is no obstacle: a host that was off for long is offered another once it is up.
    let authority = authority(state)?;
    let ends = service::ends(&certificate).ok_or_else(|| halt("it cannot be read"))?;
    service::certified_by(&authority, &certificate, ends).map_err(|error| halt(&error.to_string()))?;
    let served = Served::new(&credentials)?;
    let certificate = certificate.parse().map_err(|_| halt("it is too long for this API"))?;
    Ok((Identity { host, certificate, key: early.identity }, served))
}

/// The certificate (PEM) of the environment's authority.
pub(super) fn authority(state: &State) -> Result<String, Halt> {
    let pem = need(&state.path("authority.pem"), MAX_CERTIFICATE, "boot.identity", "authority")?;
    String::from_utf8(pem).map_err(|_| Halt::new("boot.identity", "authority", "it is no PEM text"))
}

/// What the host remembers; the token service's keys in it follow those of the configuration.
pub(super) fn settings(state: &State, start: &Start, identity: &Identity) -> Result<Settings, Failure> {
    let key = service::Key::from_seed(identity.key.seed())?;
    let installed = start.configured.token_keys.clone();
    Settings::open(&state.path("settings"), key, identity.host.clone(), installed).map_err(
        |error| match error {
            SettingsError::Broken(_) => Halt::new("boot.token-keys", "token keys", &error.to_string()).into(),
            SettingsError::File { .. } => error.into(),
        },
    )
}

/// Who gives evidence of this start.
pub(super) fn attester(state: &State, start: &Start, tpm: &SharedTpm) -> Result<Attester, Failure> {
    let certificate = boot::state::read(&state.path("ak-certificate"), MAX_CERTIFICATE).unwrap_or_default();
    let papers = Papers {
        attestation_certificate: certificate,
        manifest: start.signed.set.manifest.clone(),
        configuration: start.configuration.clone(),
    };
    Attester::new(tpm, &papers)
}

/// By what instances are certified. A host that has no certificate for that yet is offered one later.
pub(super) fn instances_papers(
    state: &State,
    identity: &Identity,
    events: &Events,
) -> Result<attestation::Papers, Failure> {
    let key = HostKey::derive(identity.key.seed())?;
    let pem = boot::state::read(&state.path("attestation-chain.pem"), MAX_CERTIFICATE).unwrap_or_default();
    let chain = String::from_utf8(pem).ok().and_then(|pem| Chain::from_pem(&pem).ok());
    let release = events.iter().find(|event| event.pcr() == 9 && event.name() == "release");
    let host = nsm::of_host(release.map(|event| event.sha256()).as_ref(), events.bytes());
    Ok(attestation::Papers { chain: chain.filter(|chain| key.is_certified_by(chain)), key, host })
}
