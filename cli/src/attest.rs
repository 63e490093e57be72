//! `azote attest`: asks a host what it is and judges the answer, or judges one that was kept; and makes the policies by
//! which that is done.

use crate::{
    boot,
    cloud::{Cloud, Who, now},
    failure::{Doing, Failure},
    guests::Guests,
    out::Out,
    place::Place,
    up::Rack,
    verbs::told,
};
use attest::{Appraisal, Evidence, LaunchPolicy, MAX_EVIDENCE, MAX_POLICY, NONCE, Policy, Question};
use clap::{Args, Subcommand, ValueHint};
use host_api::Nonce;
use ids::{Environment, HostId};
use release::{MANIFEST, Manifest, RootKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};
use token::PublicKey;

/// What this installation's key service demands of hosts.
pub(crate) const POLICY: &str = "pki/attestation-policy.json";
/// The authority's certificate and its newest revocation list.
const TRUSTED: &str = "pki/public/trusted.pem";
const AUTHORITY: &str = "pki/ca.pem";
const FORMAT: &str = "azote-evidence/1";
/// Longest revocation list in bytes.
const MAX_LIST: u64 = 16 * 1024 * 1024;

/// What `azote attest --help` ends with.
pub(crate) const HELP: &str = "\
Exit codes:
  0  the host is what the policy takes
  1  refused, with a stable code (attest.…) and the entry that fails; or the host could not be asked
  2  wrong usage

Examples:
  azote attest policy --out policy.json                    from the release that this installation runs
  azote attest policy --release r/manifest --root-key root.pub --authority ca.pem --or-later --out policy.json
  azote attest h-… --policy policy.json --save evidence.json
  azote attest --evidence evidence.json --policy policy.json
  azote --json attest h-… --policy policy.json | jq .release

A nonce that lies beside kept evidence shows nothing about its age: say --nonce with the one that you gave.";

/// What to judge.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Attest {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// The host to ask; this installation's without it.
    host: Option<HostId>,
    /// What the host must be.
    #[arg(long, value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    policy: Option<PathBuf>,
    /// Judge this kept evidence; nothing is asked, and nothing need be up.
    #[arg(long, value_name = "FILE", conflicts_with = "host", value_hint = ValueHint::FilePath)]
    evidence: Option<PathBuf>,
    /// The nonce that the evidence must answer (base64url); without it, the one that was kept with it.
    #[arg(long, requires = "evidence")]
    nonce: Option<Nonce>,
    /// Judge as of this time, in Unix seconds; now without it.
    #[arg(long, value_name = "SECONDS", requires = "evidence")]
    at: Option<u64>,
    /// Keep the evidence and its nonce in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "evidence", value_hint = ValueHint::FilePath)]
    save: Option<PathBuf>,
    /// The authority's revocation list (PEM); when a host is asked, this installation's without it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    revocations: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a policy from signed release manifests.
    Policy(Make),
}

/// A policy to be made. What is not given is this installation's.
#[derive(Args)]
struct Make {
    /// A release folder, or its manifest; repeat for more.
    #[arg(long = "release", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    releases: Vec<PathBuf>,
    /// The root key's public half, or the folder that it is in.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    root_key: Option<PathBuf>,
    /// Certificate (PEM) of the environment's authority.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    authority: Option<PathBuf>,
    /// production or non-production; what the first release says without it.
    #[arg(long)]
    environment: Option<Environment>,
    /// Take every later release of the same root key too.
    #[arg(long)]
    or_later: bool,
    /// The least number of the host's configuration.
    #[arg(long, default_value_t = 0)]
    configuration: u64,
    /// Write it here; on standard output without it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

/// Evidence as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    format: String,
    nonce: Nonce,
    /// Unix seconds.
    taken: u64,
    pub(crate) evidence: Evidence,
}

impl Kept {
    /// Judges it as of `now`, in Unix seconds, for the nonce that was kept with it or another one.
    pub(crate) fn judge(
        &self,
        policy: &Policy,
        nonce: Option<&Nonce>,
        now: u64,
        crl: Option<&str>,
    ) -> Result<Appraisal, Failure> {
        let nonce = nonce.unwrap_or(&self.nonce).to_bytes();
        let question = Question { nonce: &nonce, now, crl, seen: None };
        Ok(attest::verify(&self.evidence, policy, &question)?)
    }
}

/// `azote attest`.
pub(crate) fn run(out: Out, place: &Place, ask: &Attest) -> Result<(), Failure> {
    if let Some(Verb::Policy(make)) = &ask.verb {
        return policy(out, place, make);
    }
    let path =
        ask.policy.as_ref().ok_or_else(|| Failure::from(attest::Refusal::from(attest::Code::PolicyEmpty)))?;
    let policy = read_policy(path)?;
    let (kept, crl) = match &ask.evidence {
        Some(path) => (read(path)?, None),
        None => {
            let asked = Cloud::open(place).and_then(|cloud| asked(&cloud, ask.host.as_ref(), Who::Auditor));
            (asked.map_err(|error| told(place, error))?, revocations(place)?)
        }
    };
    if let Some(path) = &ask.save {
        let text = serde_json::to_vec(&kept).map_err(Failure::state)?;
        service::write_atomic(path, &text).doing(path.display())?;
    }
    let crl = ask.revocations.as_deref().map(revocation_list).transpose()?.or(crl);
    let now = ask.at.unwrap_or_else(now);
    let appraisal = kept.judge(&policy, ask.nonce.as_ref(), now, crl.as_deref())?;
    if crl.is_none() {
        out.remark("without a revocation list: nobody has looked whether the host was retired");
    }
    if ask.evidence.is_some() && ask.nonce.is_none() {
        out.remark("the nonce is the one that lies with the evidence: its age is not shown");
    }
    out.result(&text(&appraisal), &appraisal);
    Ok(())
}

/// Asks the host, with a nonce of our own.
fn asked(cloud: &Cloud, host: Option<&HostId>, who: Who) -> Result<Kept, Failure> {
    let here = &cloud.installation.host;
    if host.is_some_and(|host| host != here) {
        let message = format!("this installation has {here} alone: ask that one");
        return Err(Failure::Advice("host.unknown", message));
    }
    let mut nonce = [0; NONCE];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Failure::state("the system gives no random numbers"))?;
    let evidence = cloud.evidence(who, &nonce)?;
    Ok(Kept { format: FORMAT.to_owned(), nonce: Nonce::from_bytes(&nonce), taken: now(), evidence })
}

/// Asks this installation's host and judges it.
pub(crate) fn appraise(
    place: &Place,
    cloud: &Cloud,
    policy: &Policy,
    who: Who,
) -> Result<Appraisal, Failure> {
    let (kept, crl) = (asked(cloud, None, who)?, revocations(place)?);
    kept.judge(policy, None, now(), crl.as_deref())
}

/// What a tenant demands of the host before anything starts there: the host is asked at once, and the grant that is
/// made for it carries the demand to the key service.
pub(crate) fn demand(place: &Place, cloud: &Cloud, path: &Path) -> Result<LaunchPolicy, Failure> {
    let policy = read_policy(path)?;
    appraise(place, cloud, &policy, Who::ControlPlane)?;
    Ok(policy.launch()?)
}

/// A policy file. One that is not there is as good as an empty one: no permission.
pub(crate) fn read_policy(path: &Path) -> Result<Policy, Failure> {
    if !path.exists() {
        return Err(attest::Refusal::from(attest::Code::PolicyEmpty).into());
    }
    Ok(Policy::parse(bounded(path, MAX_POLICY as u64)?.as_bytes())?)
}

/// Evidence that was kept.
pub(crate) fn read(path: &Path) -> Result<Kept, Failure> {
    let text = bounded(path, 2 * MAX_EVIDENCE as u64)?;
    let kept: Option<Kept> = serde_json::from_str(&text).ok();
    kept.filter(|kept| kept.format == FORMAT)
        .ok_or_else(|| Failure::from(attest::Refusal::from(attest::Code::Malformed)))
}

/// A text of at most so many bytes.
pub(crate) fn bounded(path: &Path, most: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let file = File::open(path).doing(path.display())?;
    file.take(most + 1).read_to_string(&mut text).doing(path.display())?;
    if text.len() as u64 > most {
        return Err(Failure::State(format!("{}: longer than {most} bytes", path.display())));
    }
    Ok(text)
}

/// The authority's revocation list.
pub(crate) fn revocation_list(path: &Path) -> Result<String, Failure> {
    bounded(path, MAX_LIST)
}

fn revocations(place: &Place) -> Result<Option<String>, Failure> {
    let path = place.path(TRUSTED);
    if path.exists() { revocation_list(&path).map(Some) } else { Ok(None) }
}

/// `azote attest policy`.
fn policy(out: Out, place: &Place, make: &Make) -> Result<(), Failure> {
    let root_key = RootKey::read_public(make.root_key.as_ref().unwrap_or(&place.path(boot::ROOT)))?;
    let authority = make.authority.clone().unwrap_or_else(|| place.path(AUTHORITY));
    let authority = bounded(&authority, MAX_POLICY as u64)?;
    let manifest = |path: &PathBuf| {
        let path = if path.is_dir() { path.join(MANIFEST) } else { path.clone() };
        fs::read(&path).doing(path.display())
    };
    let manifests = if make.releases.is_empty() {
        vec![boot::running(place)?.signed]
    } else {
        make.releases.iter().map(manifest).collect::<Result<_, _>>()?
    };
    let policy = new(make.environment, authority, root_key, manifests, make.or_later, make.configuration)?;
    let text = policy.to_json();
    match &make.out {
        Some(path) => {
            service::write_atomic(path, text.as_bytes()).doing(path.display())?;
            let launch = policy.launch()?;
            out.result(&path.display().to_string(), &json!({"policy": path, "launch": launch}));
        }
        None => out.result(&text, &policy),
    }
    Ok(())
}

fn new(
    environment: Option<Environment>,
    authority: String,
    root_key: PublicKey,
    manifests: Vec<Vec<u8>>,
    or_later: bool,
    configuration: u64,
) -> Result<Policy, Failure> {
    let says = manifests.first().map(|first| Manifest::open(first, &root_key)).transpose()?;
    let environment = environment.or(says.map(|first| first.environment));
    let environment = environment.unwrap_or(Environment::Production);
    Ok(Policy::new(environment, authority, root_key, manifests, or_later, configuration)?)
}

impl Rack<'_> {
    /// What the key service demands of hosts: that they run the release that is here, or a later one.
    pub(crate) fn attestation_policy(&self, guests: &Guests) -> Result<PathBuf, Failure> {
        let key = self.root_key()?;
        let manifests = vec![self.release(&key, guests)?.signed];
        let authority = self.authority.ca().certificate().to_owned();
        let policy = new(Some(self.installation.environment), authority, key.public(), manifests, true, 0)?;
        let path = self.place.path(POLICY);
        service::write_atomic(&path, policy.to_json().as_bytes()).doing(path.display())?;
        Ok(path)
    }
}

/// For people.
pub(crate) fn text(appraisal: &Appraisal) -> String {
    let Appraisal { host, environment, release, manifest, configuration, counters, endorsement, .. } =
        appraisal;
    format!(
        "{host} is what the policy takes\n\
         release        {}, security version {}, {environment}\n\
         manifest       sha256 {manifest}\n\
         configuration  number {configuration}\n\
         TPM            endorsement key {endorsement}, reset {} times",
        release.name, release.svn, counters.reset_count
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args as Line;
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<Attest, clap::Error> {
        let line = Line::try_parse_from(["azote", "attest"].iter().chain(words))?;
        let crate::args::Verb::Attest(ask) = line.verb else { panic!("another verb") };
        Ok(ask)
    }

    #[test]
    fn a_host_is_judged_by_a_policy_and_kept_evidence_too() {
        let host = "h-0123456789abcdef0";
        assert!(parse(&[host, "--policy", "p"]).is_ok_and(|ask| ask.host.is_some()));
        assert!(parse(&["--policy", "p", "--evidence", "e", "--at", "7"]).is_ok());
        assert!(parse(&["policy", "--or-later"]).is_ok_and(|ask| ask.verb.is_some()));
        for wrong in [
            &[][..],
            &[host],
            &[host, "--policy", "p", "--evidence", "e"],
            &["--policy", "p", "--at", "7"],
            &["--policy", "p", "--evidence", "e", "--save", "s"],
            &["--policy", "p", "--evidence", "e", "--nonce", "short"],
        ] {
            assert_eq!(parse(wrong).err().map(|error| error.exit_code()), Some(2), "{wrong:?}");
        }
    }

    #[test]
    fn a_policy_that_is_not_there_is_no_permission() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy");
        assert_eq!(read_policy(&path).unwrap_err().code(), "attest.policy-empty");
        fs::write(&path, "").unwrap();
        assert_eq!(read_policy(&path).unwrap_err().code(), "attest.policy-empty");
        fs::write(&path, "{}").unwrap();
        assert_eq!(read_policy(&path).unwrap_err().code(), "attest.policy");
    }
}
