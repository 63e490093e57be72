use crate::{
    AkCertificate, Code, Counters, Event, Evidence, Hash, Policy, Refusal, Version, policy::Checked,
};
use aws_lc_rs::digest::{Context, SHA256, digest};
use ids::{Environment, HostId};
use release::{Configuration, Image, Kind, Manifest};
use serde::Serialize;
use std::ops::RangeInclusive;
use token::PublicKey;
use tpm::{Measurement, PcrValues, Quote, QuoteError, replay};

/// The registers that evidence quotes: 8 and 9 what boots, 10 settings, 11 images, 12 main-board firmware.
pub const PCRS: RangeInclusive<u8> = 8..=12;
/// Bytes of a nonce.
pub const NONCE: usize = 32;
const CONTEXT: &[u8] = b"azote/attest/1";

/// What the TPM signs beside the registers: the nonce, bound to the host's identity key.
pub fn qualifying_data(nonce: &[u8; NONCE], identity: &PublicKey) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    [CONTEXT, nonce, &identity.0].into_iter().for_each(|part| context.update(part));
    let mut data = [0; 32];
    data.copy_from_slice(context.finish().as_ref());
    data
}

/// What was asked, when, and what is known of the host.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The nonce: random, of whoever asks, used once.
    pub nonce: &'a [u8; NONCE],
    /// Unix time in seconds.
    pub now: u64,
    /// The authority's certificate revocation list (RFC 5280 §5, PEM), where one is at hand.
    pub crl: Option<&'a str>,
    /// The TPM's counters when this identity was last seen.
    pub seen: Option<Counters>,
}

/// What evidence shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Appraisal {
    /// Which host.
    pub host: HostId,
    /// What it is for.
    pub environment: Environment,
    /// Its identity key, which certifies its cards' keys.
    pub identity: PublicKey,
    /// SHA-256 of its TPM's endorsement key.
    pub endorsement: Hash,
    /// The key that signed what it runs.
    pub root_key: PublicKey,
    /// What it runs.
    pub release: Version,
    /// SHA-256 of that release's manifest.
    pub manifest: Hash,
    /// The number of its configuration.
    pub configuration: u64,
    /// Its TPM's counters.
    pub counters: Counters,
}

/// Judges evidence. Reads no file and no clock.
pub fn verify(evidence: &Evidence, policy: &Policy, question: &Question<'_>) -> Result<Appraisal, Refusal> {
    let checked = policy.check()?;
    if !evidence.bounded() {
        return Err(Code::Malformed.into());
    }
    let (host, identity) = checked.authority.host(&evidence.certificate, question.crl, question.now)?;
    let key = attestation_key(evidence, policy, &checked, &host, question.now)?;
    let counters = quoted(evidence, question, &identity)?;
    question.seen.map_or(Ok(()), |seen| counters.follow(seen))?;
    let manifest = release(evidence, policy, &checked)?;
    let configuration = configuration(evidence, policy)?;
    compare(&evidence.events, &expected(evidence, policy, &manifest))?;
    Ok(Appraisal {
        host,
        environment: policy.environment,
        identity,
        endorsement: key.endorsement,
        root_key: policy.root_key,
        release: Version::of(&manifest),
        manifest: Hash(sha256(&evidence.manifest.0)),
        configuration,
        counters,
    })
}

/// The certificate of the key that signs quotes, which must be of this host.
fn attestation_key(
    evidence: &Evidence,
    policy: &Policy,
    checked: &Checked,
    host: &HostId,
    now: u64,
) -> Result<AkCertificate, Refusal> {
    let key = AkCertificate::verify(&evidence.attestation_certificate.0, &checked.authority.key, now)?;
    if key.host != *host || key.attestation_key != evidence.attestation_key {
        return Err(Code::Certificate.at("attestation key"));
    }
    if key.environment != policy.environment {
        return Err(Code::Environment.at("attestation key"));
    }
    Ok(key)
}

/// Replays the event log and checks that the TPM signed what comes out.
fn quoted(evidence: &Evidence, question: &Question<'_>, identity: &PublicKey) -> Result<Counters, Refusal> {
    if let Some(event) = evidence.events.iter().find(|event| !PCRS.contains(&event.pcr)) {
        return Err(Code::Log.at(&event.what));
    }
    let measured =
        |event: &Event| Measurement { pcr: event.pcr, digest: event.sha256.0, description: String::new() };
    let log: Vec<_> = evidence.events.iter().map(measured).collect();
    let mut values: PcrValues = replay(&log).map_err(|_| Code::Log)?;
    PCRS.for_each(|pcr| {
        values.entry(pcr).or_default();
    });
    let quote = Quote { attest: evidence.quote.0.clone(), signature: evidence.signature.0.clone() };
    let data = qualifying_data(question.nonce, identity);
    let clock = quote.verify(&evidence.attestation_key.0, &data, &values).map_err(|error| match error {
        QuoteError::Nonce => Code::Nonce,
        QuoteError::Pcrs => Code::Log,
        QuoteError::Malformed | QuoteError::Key | QuoteError::Signature => Code::Signature,
    })?;
    match values.iter().find(|(_, value)| **value == [0; 32]) {
        Some((pcr, _)) => Err(Code::PcrZero.at(format_args!("register {pcr}"))),
        None => Ok(Counters {
            reset_count: clock.resets,
            restart_count: clock.restarts,
            clock: clock.milliseconds,
        }),
    }
}

/// The manifest of a release that the policy takes.
fn release(evidence: &Evidence, policy: &Policy, checked: &Checked) -> Result<Manifest, Refusal> {
    const NAME: &str = "release manifest";
    let manifest =
        Manifest::open(&evidence.manifest.0, &policy.root_key).map_err(|_| Code::Release.at(NAME))?;
    if manifest.environment != policy.environment {
        return Err(Code::Environment.at(NAME));
    }
    // A release without these would let a host pass on which nobody measured the others.
    if [Kind::Stage1, Kind::Controller].iter().any(|kind| manifest.image(*kind).is_none()) {
        return Err(Code::Release.at(NAME));
    }
    checked.launch.takes(&Hash(sha256(&evidence.manifest.0)), &Version::of(&manifest))?;
    Ok(manifest)
}

/// The number of the host's configuration.
fn configuration(evidence: &Evidence, policy: &Policy) -> Result<u64, Refusal> {
    const NAME: &str = "configuration";
    let configuration = Configuration::open(&evidence.configuration.0, &policy.root_key)
        .map_err(|_| Code::Release.at(NAME))?;
    if configuration.environment != policy.environment {
        Err(Code::Environment.at(NAME))
    } else if configuration.sequence < policy.configuration {
        Err(Code::Rollback.at(NAME))
    } else {
        Ok(configuration.sequence)
    }
}

/// An entry that the event log must have, or may.
struct Expected {
    pcr: u8,
    what: &'static str,
    /// Any, where the programs before it vouch for what it is.
    sha256: Option<[u8; 32]>,
}

/// The entries that a host with this release and configuration measures, in order for each register.
fn expected(evidence: &Evidence, policy: &Policy, manifest: &Manifest) -> Vec<Expected> {
    let of = |pcr, what, bytes: &[u8]| Expected { pcr, what, sha256: Some(sha256(bytes)) };
    let image = |image: &Image| {
        let (pcr, what) = image.kind.event();
        Expected { pcr, what, sha256: Some(image.sha256) }
    };
    let mut expected = vec![
        of(8, "root key", &policy.root_key.0),
        of(9, "release", &evidence.manifest.0),
        of(10, "configuration", &evidence.configuration.0),
    ];
    expected.extend(manifest.images.iter().map(image));
    // Keys that followed the configured ones: the controller takes only those that the ones before have signed.
    expected.push(Expected { pcr: 10, what: "token keys", sha256: None });
    expected
}

/// Compares entry by entry and names the first that differs.
fn compare(events: &[Event], expected: &[Expected]) -> Result<(), Refusal> {
    for pcr in PCRS {
        let mut measured = events.iter().filter(|event| event.pcr == pcr).peekable();
        for entry in expected.iter().filter(|entry| entry.pcr == pcr) {
            match (measured.next_if(|event| event.what == entry.what), entry.sha256) {
                (Some(event), Some(hash)) if event.sha256.0 != hash => return Err(Code::Entry.at(entry.what)),
                (None, Some(_)) => return Err(Code::Entry.at(format_args!("{} (missing)", entry.what))),
                _ => {}
            }
        }
        if let Some(event) = measured.next() {
            return Err(Code::Entry.at(format_args!("{} (unexpected)", event.what)));
        }
    }
    Ok(())
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
