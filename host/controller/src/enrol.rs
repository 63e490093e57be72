//! Enrolment: a host in its first state makes its keys, proves to the authority which TPM it has, learns who it is,
//! and takes its first release into its store. It talks with the authority over standard input and output, a line of
//! JSON each, bytes in base64url:
//!
//! | from | line |
//! |---|---|
//! | host | `ek` and `ak` (`TPM2B_PUBLIC`), `ek_certificate` (X.509, DER), `csr` and `attestation` (PEM): requests for its identity key, and for the key that certifies its instances |
//! | authority | `credential`, `secret` (TPM 2.0 part 1, §24), `nonce` |
//! | host | `proof`: what the credential held; `evidence`: `attest`, `signature` of a quote of registers 8 to 12 for the nonce and the identity key (`attest`), and `events`, the log |
//! | authority | `environment`, `host`, `chain`, `authority` and `attestation_chain` (PEM), `ak_certificate` |
//!
//! The identity record and the authorisation values come last: until then it can be done again.

use crate::{
    boot::{
        Boot,
        compartments::{self, Early},
        custody::Custody,
        known_good::{ALL, KnownGood, Set},
        plan::{Plan, Signer, configuration, put, random, root_key},
        start::{self, is_chained, removable},
        state::{self, State},
    },
    chip::{Chip, Firmware},
};
use attest::qualifying_data;
use boot_rom::{
    events::Events,
    record::{FLOOR_INDEX, RECORD_INDEX, Record},
};
use firmware_store::{Folder, REMOVABLE, Store, StoreKey};
use ids::{Environment, HostId};
use nsm::HostKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::{
    Credentials, Key,
    process::{Failure, Home},
};
use std::{
    io::{BufRead, Read, Write, stdin, stdout},
    path::PathBuf,
};
use token::{
    PublicKey,
    cose::{from_base64, to_base64},
};
use tpm::{Credential, Tpm};
use zeroize::Zeroizing;

/// Longest line from the authority in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// Where TPMs hold the certificate of their P-256 endorsement key (TCG EK Credential Profile, §2.2.1.4).
const EK_CERTIFICATE: u32 = 0x01C0_000A;
/// Longest certificate in bytes.
const MAX_CERTIFICATE: usize = 8 * 1024;

/// How a host is enrolled.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// State and TPM
    #[command(flatten)]
    pub home: Home,
    /// The host that this is to be
    #[arg(long, value_name = "ID")]
    pub host: HostId,
    /// The security chip's control socket
    #[arg(long, value_name = "SOCKET")]
    pub chip: PathBuf,
    /// The folder of the first release
    #[arg(long, value_name = "DIR")]
    pub release: PathBuf,
    /// The signed configuration
    #[arg(long, value_name = "FILE")]
    pub configuration: PathBuf,
    /// The manufacturer's certificate of the TPM's endorsement key (DER), for TPMs that do not hold it themselves
    #[arg(long, value_name = "FILE")]
    pub ek_certificate: Option<PathBuf>,
    /// Where the removable half of the store's key is to be, for hosts that shall have one: made if it is not there
    #[arg(long, value_name = "FILE")]
    pub security_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct Hello {
    ek: String,
    ek_certificate: String,
    ak: String,
    csr: String,
    attestation: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Challenge {
    credential: String,
    secret: String,
    nonce: String,
}

#[derive(Serialize)]
struct Proof {
    proof: String,
    evidence: Quoted,
}

#[derive(Serialize)]
struct Quoted {
    attest: String,
    signature: String,
    events: String,
}

#[derive(Deserialize)]
struct Welcome {
    environment: Environment,
    host: HostId,
    chain: String,
    authority: String,
    ak_certificate: String,
    attestation_chain: Option<String>,
}

/// Enrols the host.
pub fn enrol(options: &Options, handed: &Events) -> Result<(), Failure> {
    let state = State::new(&options.home.state);
    let mut chip = Chip::new(crate::run::connect(&options.chip));
    chip.hold_all()?;
    let flash = chip.measure()?;
    let mut tpm = options.home.connect()?;
    // Nobody is sure yet which TPM this is: the authority is, before anything is sealed.
    let tpm_name = tpm.secure(None)?;
    if tpm.nv_public(RECORD_INDEX)?.is_some_and(|record| record.locked) {
        return Err("this TPM belongs to a host that was enrolled: clear it first".into());
    }
    let root = root_key(&options.release)?;
    let folder = release::Folder::open(&options.release, &root)?;
    folder.verify(&root)?;
    let (configuration, signed_configuration) = configuration(&options.configuration, &root)?;
    let (manifest, signed_manifest) = (folder.manifest.clone(), folder.signed.clone());
    let plan = Plan { root, manifest, signed_manifest, configuration, signed_configuration };
    let environment = plan.environment()?;
    if is_chained(handed) && !plan.events(true)?.bytes().starts_with(handed.bytes()) {
        return Err("this start is not one of the release that is to be installed".into());
    }
    let mut boot = Boot::new(tpm, handed.clone());
    measure(&mut boot, &plan.events(is_chained(handed))?, &flash)?;
    let (mut tpm, events) = boot.finish();
    tpm.make_storage_root(&[])?;
    let base = tpm.nv_define_counter(&[], FLOOR_INDEX)?;
    let early = Early::generate()?;
    let welcome = converse(options, &mut tpm, &early.identity, &events)?;
    if welcome.environment != environment || welcome.host != options.host {
        return Err("the authority means another host, or another environment than the release's".into());
    }
    let credentials = Credentials::new(&welcome.chain, Key::from_seed(early.identity.seed())?)?;
    if credentials.identity()? != ids::Identity::Host(options.host.clone()) {
        return Err("the authority's certificate is not for this host".into());
    }
    let made = Made { plan: &plan, folder: &folder, early, base, custody: Custody::generate()? };
    install(options, &state, &mut tpm, &made, is_chained(handed))?;
    let request = made.early.identity.request()?;
    let ak_certificate = bytes(&welcome.ak_certificate)?;
    for (name, bytes) in [
        ("request.pem", request.as_bytes()),
        ("certificate.pem", welcome.chain.as_bytes()),
        ("authority.pem", welcome.authority.as_bytes()),
        ("ak-certificate", &ak_certificate),
        ("attestation-chain.pem", welcome.attestation_chain.unwrap_or_default().as_bytes()),
    ] {
        service::write_atomic(&state.path(name), bytes)?;
    }
    options.home.remember_tpm(&tpm_name)?;
    remember(options, &mut tpm, environment, base)?;
    made.custody.take(&mut tpm)
}

struct Made<'a> {
    plan: &'a Plan,
    folder: &'a release::Folder,
    early: Early,
    base: u64,
    custody: Custody,
}

/// Seals the keys, fills the store, and signs the first set.
fn install(
    options: &Options,
    state: &State,
    tpm: &mut Tpm,
    made: &Made<'_>,
    chained: bool,
) -> Result<(), Failure> {
    let signer = Signer::generate(tpm)?;
    let key = signer.public().to_vec();
    made.early.seal(tpm, &state.early_sealed(), &key)?;
    let secret = random()?;
    compartments::seal(tpm, &state.store_sealed(), &key, compartments::STORE, &secret)?;
    let half = security_key(options)?;
    let store_key = StoreKey::derive(&secret, half.as_deref());
    let mut store = Store::create(Folder::open_to_change(&state.store())?, store_key)?;
    let mut change = store.change();
    let sums = put(&mut change, made.folder)?;
    signer.keep(&mut change);
    made.custody.keep(&mut change);
    change.commit()?;
    let release = made.plan.install(state, Some(made.folder))?;
    let set: Set = made.plan.set(1, half.is_some(), chained, sums)?;
    let sets = vec![signer.sign(tpm, set, made.base)?];
    let file = KnownGood { key, sets }.encode().ok_or("the set is out of bounds")?;
    service::write_atomic(&state.known_good(), &file)?;
    Ok(state.switch_boot(&release)?)
}

/// The identity record, written for good.
fn remember(options: &Options, tpm: &mut Tpm, environment: Environment, base: u64) -> Result<(), Failure> {
    let environment = match environment {
        Environment::Production => boot_rom::Environment::Production,
        Environment::NonProduction => boot_rom::Environment::NonProduction,
    };
    let host = options.host.as_str().as_bytes().try_into()?;
    let record = Record { environment, host, floor_base: base };
    Ok(tpm.nv_write_once(&[], RECORD_INDEX, &record.write())?)
}

/// The removable half, made if it is not there.
fn security_key(options: &Options) -> Result<Option<Zeroizing<[u8; REMOVABLE]>>, Failure> {
    let Some(path) = &options.security_key else { return Ok(None) };
    if !path.exists() {
        service::write_atomic(path, &random()?)?;
    }
    Ok(Some(removable(Some(path))?))
}

/// Measures what a start of this release measures, so that the authority can judge it. Images and configuration were
/// verified before; the main board's firmware is what is in the flash.
fn measure(boot: &mut Boot, expected: &Events, flash: &Firmware) -> Result<(), Failure> {
    expected
        .iter()
        .filter(|event| matches!(event.pcr(), 10 | 11))
        .chain(start::events(flash))
        .try_for_each(|event| boot.measure(event.pcr(), event.name(), event.sha256()))?;
    match boot.events() == expected {
        true => Ok(()),
        false => {
            Err("the main board's firmware is not that of the release: put it into the flash first".into())
        }
    }
}

/// The dialog with the authority.
fn converse(options: &Options, tpm: &mut Tpm, identity: &Key, events: &Events) -> Result<Welcome, Failure> {
    let certificate = match (tpm.nv_read(EK_CERTIFICATE)?, &options.ek_certificate) {
        (None, Some(path)) => state::read(path, MAX_CERTIFICATE)?,
        (held, _) => held.unwrap_or_default(),
    };
    let [ek, ek_certificate, ak] =
        [&tpm.endorsement_key()?, &certificate, &tpm.attestation_key()?].map(|bytes| to_base64(bytes));
    let attestation = HostKey::derive(identity.seed())?.request()?;
    say(&Hello { ek, ek_certificate, ak, csr: identity.request()?, attestation })?;
    let challenge: Challenge = hear()?;
    let credential = Credential { object: bytes(&challenge.credential)?, secret: bytes(&challenge.secret)? };
    let proof = to_base64(&tpm.activate_credential(&credential)?);
    let nonce =
        bytes(&challenge.nonce)?.try_into().map_err(|_| "the authority's nonce has a wrong length")?;
    let data = qualifying_data(&nonce, &PublicKey(identity.public()));
    let quote = tpm.quote(&data, &ALL.collect::<Vec<_>>())?;
    let [attest, signature, events] = [&quote.attest[..], &quote.signature, events.bytes()].map(to_base64);
    say(&Proof { proof, evidence: Quoted { attest, signature, events } })?;
    hear()
}

fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    Ok(from_base64(text).ok_or("the authority sent what is not base64url")?)
}

fn say(line: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = stdout().lock();
    Ok(out.write_all(&text).and_then(|()| out.flush())?)
}

fn hear<T: DeserializeOwned>() -> Result<T, Failure> {
    let mut line = String::new();
    stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    Ok(serde_json::from_str(&line).map_err(|error| format!("the authority: {error}"))?)
}
