//! `azote instance verify`: judges a document by which an instance proves what it is. Nothing is asked, and nothing need
//! be up.

use crate::{
    attest::{self, Kept},
    cloud::now,
    failure::{Doing, Failure},
    out::Out,
    place::Place,
    release::hex,
};
use ::attest::{Event, Policy};
use boot_rom::events;
use clap::{Args, ValueHint};
use ids::{HostId, InstanceId};
use nsm::{Chain, MAX_DOCUMENT, PCRS, Question, Register, Statement, extended, of_host};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

/// The root of the documents of this installation's instances.
const ROOT: &str = "pki/attestation-root.pem";
/// Registers of the host: its release, and its boot log.
const RELEASE: u16 = 5;
const LOG: u16 = 6;

/// What `azote instance verify --help` ends with.
pub(crate) const HELP: &str = "\
Exit codes:
  0  the document is good, and what was asked for is in it
  1  refused, with a stable code (document.…; attest.… of policy and evidence) and the entry that fails
  2  wrong usage

Examples:
  azote instance verify document --root attestation-root.pem --nonce 00ff… --instance i-…
  azote instance verify document --root attestation-root.pem --pcr 16=0123… --policy policy.json
  azote instance verify - --policy policy.json --evidence evidence.json   the host too, by its TPM's word
  azote --json instance verify document | jq .registers

The policy is one of `azote attest policy`, the evidence one of `azote attest --save`. With a policy alone the host's
card has said which release the host runs; with evidence the TPM has signed it, and the same boot log is in both.
Without --nonce, the document may be an old one.";

/// What to hold a document to.
#[derive(Args)]
pub(crate) struct Verify {
    /// The document (COSE_Sign1), as the instance got it from its module; `-` is standard input.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    document: PathBuf,
    /// Certificate (PEM) of the root; this installation's without it.
    #[arg(long, value_name = "PEM", value_hint = ValueHint::FilePath)]
    root: Option<PathBuf>,
    /// The nonce that it must answer, in hexadecimal.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    nonce: Option<Bytes>,
    /// A register that must be in it, and its value, in hexadecimal; repeat for more.
    #[arg(long = "pcr", value_name = "N=HEX", value_parser = register)]
    registers: Vec<(u16, Register)>,
    /// The instance that it must be of.
    #[arg(long)]
    instance: Option<InstanceId>,
    /// The host that it must be of.
    #[arg(long)]
    host: Option<HostId>,
    /// What the host must run.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// What the host has shown of itself: it is judged by the policy, and must be of the same host and boot log.
    #[arg(long, value_name = "FILE", requires = "policy", value_hint = ValueHint::FilePath)]
    evidence: Option<PathBuf>,
    /// The authority's revocation list (PEM), for the evidence.
    #[arg(long, value_name = "FILE", requires = "evidence", value_hint = ValueHint::FilePath)]
    revocations: Option<PathBuf>,
    /// Judge as of this time, in Unix seconds; now without it.
    #[arg(long, value_name = "SECONDS")]
    at: Option<u64>,
}

/// Bytes that were given in hexadecimal.
#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn nonce(text: &str) -> Result<Bytes, String> {
    bytes(text).map(Bytes).ok_or_else(|| "want an even number of hexadecimal digits".to_owned())
}

fn register(text: &str) -> Result<(u16, Register), String> {
    let both = text.split_once('=').and_then(|(index, value)| {
        let index = index.parse().ok().filter(|index| *index < PCRS)?;
        Some((index, Register::try_from(bytes(value)?).ok()?))
    });
    both.ok_or_else(|| format!("want a register, 0 to {}, = and 96 hexadecimal digits", PCRS - 1))
}

/// `azote instance verify`.
pub(crate) fn run(out: Out, place: &Place, ask: &Verify) -> Result<(), Failure> {
    let root = root(&ask.root.clone().unwrap_or_else(|| place.path(ROOT)))?;
    let seconds = ask.at.unwrap_or_else(now);
    let policy = ask.policy.as_deref().map(attest::read_policy).transpose()?;
    let mut question = Question {
        root: &root,
        now: Duration::from_secs(seconds),
        nonce: ask.nonce.as_ref().map(|nonce| nonce.0.as_slice()),
        instance: ask.instance.as_ref(),
        host: ask.host.as_ref(),
        registers: BTreeMap::new(),
    };
    for (index, value) in &ask.registers {
        demand(&mut question, *index, &[*value]);
    }
    let appraisal = match (&policy, &ask.evidence) {
        (Some(policy), Some(path)) => {
            let kept = attest::read(path)?;
            let crl = ask.revocations.as_deref().map(attest::revocation_list).transpose()?;
            let appraisal = kept.judge(policy, None, seconds, crl.as_deref())?;
            let host = of_host(Some(&appraisal.manifest.0), &log(&kept)?);
            for index in [RELEASE, LOG] {
                demand(&mut question, index, &[extended(index, &host)]);
            }
            Some(appraisal)
        }
        (Some(policy), None) => {
            demand(&mut question, RELEASE, &releases(policy)?.into_keys().collect::<Vec<_>>());
            None
        }
        _ => None,
    };
    question.host = question.host.or(appraisal.as_ref().map(|appraisal| &appraisal.host));
    let statement = nsm::verify(&document(&ask.document)?, &question)
        .map_err(|refusal| hint(refusal, policy.as_ref().filter(|_| appraisal.is_none())))?;
    if ask.nonce.is_none() {
        out.remark("without --nonce: the document may be an old one");
    }
    let release = match (&policy, &appraisal) {
        (_, Some(appraisal)) => Some(appraisal.release.name.clone()),
        (Some(policy), None) => releases(policy)?
            .into_iter()
            .find(|(value, _)| statement.registers.get(&RELEASE) == Some(value))
            .map(|(_, name)| name),
        _ => None,
    };
    out.result(&text(&statement, release.as_deref()), &value(&statement, release.as_deref()));
    Ok(())
}

/// One more demand on a register: what is asked for twice must be both.
fn demand(question: &mut Question<'_>, index: u16, good: &[Register]) {
    let known = question.registers.entry(index).or_insert_with(|| good.to_vec());
    known.retain(|value| good.contains(value));
}

/// What register 5 is with each release of a policy, and the release's name.
fn releases(policy: &Policy) -> Result<BTreeMap<Register, String>, Failure> {
    let named = |release: ::attest::Release| {
        (extended(RELEASE, &of_host(Some(&release.manifest.0), &[])), release.version.name)
    };
    Ok(policy.launch()?.releases.into_iter().map(named).collect())
}

/// The boot log of kept evidence, as the host's stages wrote it.
fn log(kept: &Kept) -> Result<Vec<u8>, Failure> {
    let entry = |event: &Event| events::Event::new(event.pcr, &event.what, &event.sha256.0);
    let entries = kept.evidence.events.iter().map(entry).collect::<Option<Vec<_>>>();
    let entries = entries.ok_or_else(|| Failure::from(::attest::Refusal::from(::attest::Code::Malformed)))?;
    Ok(entries.iter().flat_map(events::Event::bytes).copied().collect())
}

/// A policy that takes later releases says nothing of which these are.
fn hint(refusal: nsm::Refusal, policy: Option<&Policy>) -> Failure {
    let release = refusal.code == nsm::Code::Register && refusal.entry == format!("register {RELEASE}");
    if release && policy.is_some_and(|policy| policy.or_later) {
        let message =
            format!("{refusal}; whether it is a later release than those of the policy, --evidence shows");
        return Failure::Advice(refusal.code.as_str(), message);
    }
    refusal.into()
}

fn document(path: &Path) -> Result<Vec<u8>, Failure> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).doing(path.display())?)
    };
    let mut document = Vec::new();
    source.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut document).doing(path.display())?;
    Ok(document)
}

fn root(path: &Path) -> Result<Vec<u8>, Failure> {
    let chain = Chain::from_pem(&attest::bounded(path, 16 * 1024)?);
    match chain.as_ref().map(Chain::certificates) {
        Ok([root]) => Ok(root.clone()),
        _ => {
            let message = format!("{}: not one certificate in PEM: give the root's", path.display());
            Err(Failure::Advice("document.root", message))
        }
    }
}

/// For programs.
fn value(statement: &Statement, release: Option<&str>) -> Value {
    let Statement { instance, host, module, signed, registers, user_data, nonce, public_key } = statement;
    let field = |field: &Option<Vec<u8>>| field.as_deref().map(hex);
    let registers: BTreeMap<_, _> = registers.iter().map(|(index, value)| (index, hex(value))).collect();
    json!({
        "instance": instance,
        "host": host,
        "module": module,
        "signed": signed.as_secs(),
        "release": release,
        "registers": registers,
        "nonce": field(nonce),
        "user_data": field(user_data),
        "public_key": field(public_key),
    })
}

/// For people: registers that were never extended are left out.
fn text(statement: &Statement, release: Option<&str>) -> String {
    let Statement { instance, host, module, signed, registers, user_data, nonce, public_key } = statement;
    let mut lines = vec![
        format!("{instance} on {host}"),
        format!("module       {module}"),
        format!("signed       {} (Unix seconds, the host's clock)", signed.as_secs()),
    ];
    lines.extend(release.map(|release| format!("release      {release}")));
    let fields = [("nonce", nonce), ("user data", user_data), ("public key", public_key)];
    let given = fields.into_iter().filter_map(|(name, field)| Some((name, field.as_deref()?)));
    lines.extend(given.map(|(name, field)| format!("{name:<12} {}", hex(field))));
    let extended = registers.iter().filter(|(_, value)| **value != [0; 48]);
    lines.extend(extended.map(|(index, value)| format!("register {index:<3} {}", hex(value))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_nonces_are_hexadecimal() {
        assert_eq!(register(&format!("16={}", "0f".repeat(48))), Ok((16, [15; 48])));
        for wrong in ["", "16", "16=", "32=00", "x=00", "16=zz"].map(str::to_owned) {
            assert!(register(&wrong).is_err() && register(&format!("{wrong}{}", "00".repeat(47))).is_err());
        }
        assert_eq!(nonce("00fF").unwrap().0, [0, 255]);
        assert!(nonce("").unwrap().0.is_empty() && nonce("0").is_err() && nonce("+1").is_err());
    }

    #[test]
    fn what_is_demanded_twice_must_be_both() {
        let mut question = Question::default();
        demand(&mut question, 5, &[[1; 48], [2; 48]]);
        demand(&mut question, 5, &[[2; 48], [3; 48]]);
        assert_eq!(question.registers[&5], [[2; 48]]);
        demand(&mut question, 5, &[[1; 48]]);
        assert!(question.registers[&5].is_empty(), "nothing is good");
    }
}
