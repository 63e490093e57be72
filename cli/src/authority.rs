//! `azote authority`: the environment's authority at work. It asks hosts what they are, tells the token service, and
//! offers certificates and revocation lists before those that are out there end. Nobody calls it, and it serves nobody.

mod report;

pub(crate) use report::{Holder, REPORT, Report};

use crate::{
    attest::{POLICY, read_policy},
    cloud::{Cloud, Who, now},
    failure::{Doing, Failure},
    interrupt, member,
    out::Out,
    place::Place,
    up::{ACTORS, Installation, PERSON_LIFE, SERVICES},
};
use ::attest::{NONCE, Question};
use clap::{Args, Subcommand};
use ids::{HostId, Identity};
use pki::{Act, Authority, Care, Found, State, Terms};
use rights::Attestation;
use service::{CERTIFICATE, Credentials, Offered, REVOCATIONS, Revocations, Shown};
use std::{collections::BTreeMap, fs, thread, time::Duration};
use token::PublicKey;
use tokens::{Life, Standing};

/// How often everything is looked at.
pub(crate) const EVERY: Duration = Duration::from_secs(15 * 60);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(200);
/// When the round is tried again that could not even begin, in seconds.
const AGAIN: u64 = 5;
/// Steps for one holder in one round: look, offer, and rest.
const STEPS: usize = 3;

/// The authority's verbs.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Look after the certificates of hosts and services, and after the revocation list, until it is stopped: what
    /// `azote up` leaves running.
    #[command(after_help = HELP)]
    Run(Run),
}

const HELP: &str = "\
In each round every host is asked what it is (AttestHost, with a nonce of our own) and judged by the installation's
attestation policy; the token service is told the result. A host that passed and has less than half of its
certificates' life left is offered the next ones; one that failed is offered none. Services are offered theirs, and the
next revocation list comes out when half of the present one's life is over. What fails is tried again, less and less
often, and at least once in a round. `azote status` shows the last round.

Exit codes with --once: 0 all is well; 1 something could not be reached or is not what it should be; 2 wrong usage.

Examples:
  azote authority run --once            one round now, and what it came to
  azote --json authority run --once | jq '.holders[] | select(.code)'";

/// How to run.
#[derive(Args)]
pub(crate) struct Run {
    /// How often: a number with s, m or h. Certificates that live less than eight times as long are looked at more
    /// often.
    #[arg(long, default_value = "15m", value_parser = period)]
    every: Duration,
    /// One round, and what it came to.
    #[arg(long)]
    once: bool,
}

fn period(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=86_400).contains(seconds)).map(Duration::from_secs);
    seconds.ok_or_else(|| "want a time such as 90s, 15m or 1h, at most 24h".to_owned())
}

/// `azote authority …`
pub(crate) fn run(out: Out, place: &Place, Verb::Run(ask): &Verb) -> Result<(), Failure> {
    let mut caretaker = Caretaker::open(place, ask.every)?;
    if ask.once {
        let report = caretaker.round().map_err(|error| crate::verbs::told(place, error))?;
        out.result(&report.text(), &report);
        if report.holders.iter().all(|holder| holder.code.is_none()) {
            return Ok(());
        }
        let why = "something could not be reached or is not what it should be: see above";
        return Err(Failure::Reported("authority.round", why));
    }
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    interrupt::watch().doing("signals")?;
    let mut due = 0;
    while !interrupt::asked() {
        if now() >= due {
            due = caretaker.turn();
        }
        thread::sleep(TICK);
    }
    Ok(())
}

struct Caretaker<'a> {
    place: &'a Place,
    authority: Authority,
    terms: Terms,
    known: BTreeMap<String, (Care, Holder)>,
}

impl<'a> Caretaker<'a> {
    fn open(place: &'a Place, every: Duration) -> Result<Self, Failure> {
        let authority = Installation::read(place)?.authority(place)?;
        let terms = Terms::new(authority.lives().certificate.as_secs(), every.as_secs());
        Ok(Self { place, authority, terms, known: BTreeMap::new() })
    }

    /// A round; gives when the next one is due.
    fn turn(&mut self) -> u64 {
        match self.round() {
            Ok(report) => {
                let wrong = report.holders.iter().filter(|holder| holder.code.is_some()).count();
                tracing::info!(holders = report.holders.len(), wrong, "a round");
                let now = now();
                let due = self.known.values().map(|(care, _)| match care.act(now, &self.terms) {
                    Act::Rest(until) => until,
                    Act::Look | Act::Offer => now + 1,
                });
                due.min().unwrap_or(now + self.terms.pause())
            }
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "no round");
                now() + self.terms.pause().min(AGAIN)
            }
        }
    }

    /// Does what is due.
    fn round(&mut self) -> Result<Report, Failure> {
        let list = self.list()?;
        self.identities()?;
        let cloud = Cloud::open(self.place)?;
        let members = self.authority.hosts()?.into_iter().filter(|member| member.state == State::Enrolled);
        let hosts = members.map(|member| Identity::Host(member.host));
        let services = SERVICES.iter().map(|name| format!("azote:service/{name}").parse());
        let services: Vec<Identity> = services.collect::<Result<_, _>>().map_err(Failure::state)?;
        let holders: Vec<Identity> = services.into_iter().chain(hosts).collect();
        self.known.retain(|name, _| holders.iter().any(|holder| holder.to_string() == *name));
        for name in holders {
            let new = || {
                (Care::default(), Holder { name: name.clone(), ends: None, attestation: None, code: None })
            };
            let (mut care, mut holder) = self.known.remove(&name.to_string()).unwrap_or_else(new);
            self.care(&cloud, &mut care, &mut holder, &list);
            self.known.insert(name.to_string(), (care, holder));
        }
        let holders = self.known.values().map(|(_, holder)| holder.clone()).collect();
        let report = Report { round: now(), list_ends: service::list_ends(&list), holders };
        report.write(self.place)?;
        Ok(report)
    }

    /// The revocation list (PEM, the authority's certificate first), the next one if half of its life is over.
    fn list(&self) -> Result<String, Failure> {
        let path = self.authority.trusted();
        let text = fs::read_to_string(&path).doing(path.display())?;
        let terms = Terms::new(self.authority.lives().list.as_secs(), self.terms.pause());
        if service::list_ends(&text).is_some_and(|ends| !terms.is_half_gone(ends, now())) {
            return Ok(text);
        }
        self.authority.refresh_list()?;
        tracing::info!("the next revocation list");
        fs::read_to_string(&path).doing(path.display())
    }

    /// Machines that only call others have nobody who renews what they are known by.
    fn identities(&self) -> Result<(), Failure> {
        for (name, identity) in
            ACTORS.into_iter().filter(|(_, identity)| identity.starts_with("azote:service/"))
        {
            let path = self.place.path(&format!("identities/{name}.pem"));
            let present = Credentials::read(&path).map_err(Failure::state)?;
            if present.ends().saturating_sub(now()) < PERSON_LIFE.as_secs() / 2 {
                let next = path.with_extension("next");
                let _ = fs::remove_file(&next);
                let identity = identity.parse().map_err(Failure::state)?;
                self.authority.ca().client_identity(&identity, PERSON_LIFE, &next)?;
                fs::rename(&next, &path).doing(path.display())?;
            }
        }
        Ok(())
    }

    /// Looks after one holder, if it is time.
    fn care(&self, cloud: &Cloud, care: &mut Care, holder: &mut Holder, list: &str) {
        for _ in 0..STEPS {
            let act = care.act(now(), &self.terms);
            if let Act::Rest(_) = act {
                return;
            }
            let (done, found) = match (&holder.name, act) {
                (Identity::Host(host), Act::Look) => look(self.place, cloud, list, &host.clone(), holder),
                (_, Act::Look) => (self.tell(cloud, list, holder), Found::Good),
                (Identity::Host(host), _) => (self.offer(cloud, &host.clone(), holder), Found::Good),
                _ => (self.offer_service(cloud, holder), Found::Good),
            };
            holder.code = done.as_ref().err().map(|error| error.code().to_owned());
            if let Err(error) = &done {
                tracing::warn!(holder = %holder.name, code = error.code(), %error, "something is wrong");
            }
            let now = now();
            match (act, found, done.is_ok()) {
                (Act::Offer, _, taken) => care.offered(now, &self.terms, taken),
                (_, Found::Good, false) => care.failed(now, &self.terms),
                (_, found, _) => care.found(now, &self.terms, found, holder.ends),
            }
            if let (Identity::Host(host), true) = (&holder.name, holder.attestation.is_some()) {
                let standing = self.standing(holder, now);
                if let Err(error) = cloud.appraised(host, standing) {
                    tracing::warn!(%host, code = error.code(), %error, "the token service does not know");
                    holder.code.get_or_insert_with(|| error.code().to_owned());
                    care.failed(now, &self.terms);
                }
            }
        }
    }

    fn standing(&self, holder: &Holder, at: u64) -> Standing {
        let seconds = self.authority.lives().certificate.as_secs();
        Standing {
            attestation: holder.attestation.unwrap_or(Attestation::Unknown),
            at,
            code: holder.code.clone(),
            certificate: holder.ends.map(|ends| Life { ends, seconds }),
        }
    }

    fn offer(&self, cloud: &Cloud, host: &HostId, holder: &mut Holder) -> Result<(), Failure> {
        holder.ends = Some(member::offer(cloud, &self.authority, host)?);
        tracing::info!(%host, ends = holder.ends, "the host shows the next certificate");
        Ok(())
    }

    /// Brings a service the newest revocation list, and sees until when its certificate lives.
    fn tell(&self, cloud: &Cloud, list: &str, holder: &mut Holder) -> Result<(), Failure> {
        let name = short(&holder.name);
        let chain = self.place.path(&format!("{name}/certificate.pem"));
        holder.ends = service::ends(&fs::read_to_string(&chain).doing(chain.display())?);
        let begins = list.find("-----BEGIN X509 CRL-----").unwrap_or_default();
        let list = list.get(begins..).unwrap_or_default().to_owned();
        let _: service::Known = cloud.bring(&name, REVOCATIONS, &Revocations { list })?;
        Ok(())
    }

    /// Offers a service the next certificate, and keeps it for the service's next start.
    fn offer_service(&self, cloud: &Cloud, holder: &mut Holder) -> Result<(), Failure> {
        let name = short(&holder.name);
        let path = self.place.path(&format!("{name}/certificate.pem"));
        let present = fs::read_to_string(&path).doing(path.display())?;
        let present = service::certified_by(self.authority.ca().certificate(), &present, now());
        let key = PublicKey(present.map_err(Failure::state)?.public_key);
        let chain = self.authority.renew_service(&key, &holder.name)?;
        let Shown { ends } = cloud.bring(&name, CERTIFICATE, &Offered { chain: chain.clone() })?;
        service::write_atomic(&path, chain.as_bytes()).doing(path.display())?;
        holder.ends = Some(ends);
        tracing::info!(service = name, ends, "the service shows the next certificate");
        Ok(())
    }
}

/// The name of a service, without what all identities begin with.
fn short(identity: &Identity) -> String {
    identity.to_string().rsplit('/').next().unwrap_or_default().to_owned()
}

/// Asks a host what it is, and judges it by the policy that is in force now.
fn look(
    place: &Place,
    cloud: &Cloud,
    list: &str,
    host: &HostId,
    holder: &mut Holder,
) -> (Result<(), Failure>, Found) {
    let mut ask = || {
        if *host != cloud.installation.host {
            return Err(Failure::Advice("host.unknown", format!("nobody here knows where {host} is")));
        }
        let mut nonce = [0; NONCE];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| Failure::state("the system gives no random numbers"))?;
        let evidence = cloud.evidence(Who::Pipeline, &nonce)?;
        // Nobody has checked it, and nothing but the time of the next offer depends on it.
        holder.ends = service::ends(&evidence.certificate).or(holder.ends);
        let policy = read_policy(&place.path(POLICY))?;
        let question = Question { nonce: &nonce, now: now(), crl: Some(list), seen: None };
        Ok(::attest::verify(&evidence, &policy, &question)?)
    };
    let judged = ask();
    let (result, attestation, found) = match judged {
        Ok(_) => (Ok(()), Attestation::Passed, Found::Good),
        Err(refusal @ Failure::Attest(_)) => (Err(refusal), Attestation::Failed, Found::Bad),
        Err(error) => (Err(error), Attestation::Unknown, Found::Silent),
    };
    holder.attestation = Some(attestation);
    (result, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_unit_and_bounds() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("15m", 900), ("24h", 86_400)] {
            assert_eq!(period(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "15", "m", "0s", "25h", "1d", "-1s", "1.5h", "99999999999999999999s"] {
            assert!(period(text).is_err(), "{text}");
        }
    }
}
