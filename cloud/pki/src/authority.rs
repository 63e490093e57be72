//! The authority over an environment's hosts: it takes a host in when its TPM has proved which one it is and what it
//! runs, gives it certificates that live a day, and takes them back.

use crate::{
    Answer, Attestation, Ca, Challenge, Encoded, Error, Identity as Papers, Member, Request, State,
    ca::Certified,
    manufacturer,
    registry::{Issued, Registry, lock},
    replace,
};
use attest::{AkCertificate, Bytes, Event, Evidence, Hash, Policy, Question};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use boot_rom::events::{ENTRY, Event as Entry};
use ids::{Environment, HostId, Identity};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use token::PublicKey;
use tpm::make_credential;
use zeroize::Zeroizing;

/// How long what the authority gives out is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Certificates of hosts and services.
    pub certificate: Duration,
    /// A revocation list; a newer one can come at any time.
    pub list: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self::of(Duration::from_secs(24 * 60 * 60))
    }
}

impl Lives {
    /// Those of an installation whose certificates live so long: its lists live twice as long.
    pub fn of(certificate: Duration) -> Self {
        Self { certificate, list: certificate.saturating_mul(2) }
    }
}

/// How long a host may take for its answer.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of what everybody may read.
const PUBLIC: &str = "public";
const TRUSTED_FILE: &str = "trusted.pem";
const LIST_FILE: &str = "crl.pem";
const SECRET: usize = 32;

/// What a host must run to be taken in: signed by the root key, made for the environment.
#[derive(Debug, Clone)]
pub struct Release {
    /// The key that signs releases and configurations.
    pub root_key: PublicKey,
    /// The signed manifest.
    pub manifest: Vec<u8>,
    /// The signed configuration.
    pub configuration: Vec<u8>,
}

/// The authority over an environment's hosts.
pub struct Authority {
    dir: PathBuf,
    ca: Ca,
    attestation: Attestation,
    environment: Environment,
    lives: Lives,
}

/// A host that was challenged and has not answered yet.
pub struct Pending {
    host: HostId,
    request: Request,
    identity: PublicKey,
    secret: Zeroizing<[u8; SECRET]>,
    nonce: [u8; attest::NONCE],
    until: u64,
}

impl Authority {
    /// Opens the authority in `dir`, and makes what of it is not there yet. One of another environment is refused.
    pub fn open_or_create(dir: &Path, environment: Environment) -> Result<Self, Error> {
        Self::open_with(dir, environment, Lives::default())
    }

    /// The same; what it gives out lives so long.
    pub fn open_with(dir: &Path, environment: Environment, lives: Lives) -> Result<Self, Error> {
        let ca = if Ca::exists(dir) { Ca::open(dir)? } else { Ca::create(dir)? };
        let attestation = Attestation::open_or_create(dir)?;
        let authority = Self { dir: dir.to_owned(), ca, attestation, environment, lives };
        let public = dir.join(PUBLIC);
        std::fs::create_dir_all(&public).map_err(|source| Error::File { path: public, source })?;
        let _lock = lock(dir)?;
        let registry = Registry::read(dir, environment)?;
        if registry.list == 0 || !authority.trusted().exists() {
            authority.publish(registry, now()?)?;
        }
        Ok(authority)
    }

    /// What issues the certificates of services and people.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The hosts, also those that are no more.
    pub fn hosts(&self) -> Result<Vec<Member>, Error> {
        Ok(Registry::read(&self.dir, self.environment)?.hosts)
    }

    /// Looks at a request to become `host`, and challenges the TPM that it names: only the TPM with that endorsement
    /// key, which one of the `manufacturers` (PEM) must have certified, can answer, and only if it also holds the
    /// attestation key.
    pub fn begin(
        &self,
        host: &HostId,
        manufacturers: &str,
        request: Request,
    ) -> Result<(Challenge, Pending), Error> {
        let now = now()?;
        let Request { ek, ek_certificate, ak, csr, .. } = &request;
        manufacturer::vouches(manufacturers, &ek_certificate.0, &ek.0, now)?;
        Registry::read(&self.dir, self.environment)?.admits(host, &fingerprint(&ek.0))?;
        let identity = self.ca.requested(csr)?;
        let mut secret = Zeroizing::new([0; SECRET]);
        let mut nonce = [0; attest::NONCE];
        random(&mut *secret)?;
        random(&mut nonce)?;
        let credential = make_credential(&ek.0, &ak.0, &*secret)?;
        let challenge = Challenge {
            credential: Encoded(credential.object),
            secret: Encoded(credential.secret),
            nonce: Encoded(nonce.to_vec()),
        };
        let until = now + PATIENCE.as_secs();
        Ok((challenge, Pending { host: host.clone(), request, identity, secret, nonce, until }))
    }

    /// Takes the host in if it has answered the challenge and runs exactly this release and configuration.
    pub fn finish(&self, pending: Pending, answer: &Answer, release: &Release) -> Result<Papers, Error> {
        let now = now()?;
        let Pending { host, request, identity, secret, nonce, until } = pending;
        if now > until {
            return Err(Error::Late);
        }
        verify_slices_are_equal(&answer.proof.0, &*secret).map_err(|_| Error::Proof)?;
        let mut member = Member {
            host: host.clone(),
            state: State::Enrolled,
            since: now,
            endorsement: fingerprint(&request.ek.0),
            identity,
            attestation_key: request.ak,
            attestation: request.attestation,
            issued: Vec::new(),
        };
        // Nobody has seen these certificates yet: they are part of the evidence that is judged.
        let identity = self.certify(&mut member, now)?;
        let question = Question { nonce: &nonce, now, crl: None, seen: None };
        self.appraise(&member, answer, release, &identity, &question)?;
        let _lock = lock(&self.dir)?;
        let mut registry = Registry::read(&self.dir, self.environment)?;
        registry.admits(&host, &member.endorsement)?;
        let again = registry.mark(&host, State::Replaced, now);
        registry.hosts.push(member);
        if again { self.publish(registry, now) } else { registry.write(&self.dir) }?;
        Ok(identity)
    }

    /// The next certificate (PEM) of a service, for the key that it holds.
    pub fn renew_service(&self, key: &PublicKey, service: &Identity) -> Result<String, Error> {
        Ok(self.ca.certify_server(key, service, self.lives.certificate)?.chain)
    }

    /// How long what it gives out is good.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// Certificates for another day for a host that is enrolled: to be offered to it.
    pub fn renew(&self, host: &HostId) -> Result<Papers, Error> {
        let now = now()?;
        let _lock = lock(&self.dir)?;
        let mut registry = Registry::read(&self.dir, self.environment)?;
        let mut hosts = registry.hosts.iter_mut();
        let member = hosts.find(|member| member.host == *host && member.state == State::Enrolled);
        let identity = self.certify(member.ok_or_else(|| Error::Unknown(host.clone()))?, now)?;
        registry.forget(now.saturating_sub(self.lives.list.as_secs()));
        registry.write(&self.dir)?;
        Ok(identity)
    }

    /// Takes a host out: its certificates are revoked from now on.
    pub fn retire(&self, host: &HostId) -> Result<(), Error> {
        self.take_out(host, State::Retired)
    }

    /// Notes that a host has proved, by a certificate of erasure that the caller has verified, that it destroyed its
    /// identity. Its TPM can be enrolled anew.
    pub fn erased(&self, host: &HostId) -> Result<(), Error> {
        self.take_out(host, State::Erased)
    }

    fn take_out(&self, host: &HostId, state: State) -> Result<(), Error> {
        let now = now()?;
        let _lock = lock(&self.dir)?;
        let mut registry = Registry::read(&self.dir, self.environment)?;
        if !registry.mark(host, state, now) {
            return Err(Error::Unknown(host.clone()));
        }
        self.publish(registry, now)
    }

    /// Writes the revocation list anew, so that it is good from now on for as long as [`Lives`] says; gives it (PEM).
    pub fn refresh_list(&self) -> Result<String, Error> {
        let _lock = lock(&self.dir)?;
        self.publish(Registry::read(&self.dir, self.environment)?, now()?)?;
        crate::read(&self.list())
    }

    /// The file with the revocation list (PEM).
    pub fn list(&self) -> PathBuf {
        self.dir.join(PUBLIC).join(LIST_FILE)
    }

    /// The file with the authority's certificate and the revocation list (PEM): what whoever talks to hosts trusts.
    pub fn trusted(&self) -> PathBuf {
        self.dir.join(PUBLIC).join(TRUSTED_FILE)
    }

    /// The registry is durable before the list comes out: no number is used twice.
    fn publish(&self, mut registry: Registry, now: u64) -> Result<(), Error> {
        registry.forget(now.saturating_sub(self.lives.list.as_secs()));
        registry.list += 1;
        let out = registry.hosts.iter().filter(|member| member.state != State::Enrolled);
        let revoked = out.flat_map(|member| member.issued.iter().map(|it| (&it.serial.0[..], member.since)));
        let list = self.ca.revocation_list(registry.list, &revoked.collect::<Vec<_>>(), self.lives.list)?;
        registry.write(&self.dir)?;
        replace(&self.list(), list.as_bytes())?;
        replace(&self.trusted(), format!("{}{list}", self.ca.certificate()).as_bytes())
    }

    fn certify(&self, member: &mut Member, now: u64) -> Result<Papers, Error> {
        let life = self.lives.certificate;
        let Certified { chain, serial } =
            self.ca.certify_server(&member.identity, &Identity::Host(member.host.clone()), life)?;
        let not_after = now + life.as_secs();
        member.issued.push(Issued { serial: Encoded(serial), not_after });
        let ak = AkCertificate {
            host: member.host.clone(),
            environment: self.environment,
            attestation_key: Bytes(member.attestation_key.0.clone()),
            endorsement: member.endorsement,
            not_before: now.saturating_sub(crate::BACKDATED.as_secs()),
            not_after,
        };
        let ak_certificate = Encoded(ak.sign(self.ca.pair()).ok_or(Error::Sign)?);
        let attestation = member.attestation.as_ref();
        let chain_of = |request: &String| self.attestation.issue(request, &member.host, life);
        Ok(Papers {
            environment: self.environment,
            host: member.host.clone(),
            chain,
            authority: self.ca.certificate().to_owned(),
            ak_certificate,
            attestation_chain: attestation.map(chain_of).transpose()?,
        })
    }

    fn appraise(
        &self,
        member: &Member,
        answer: &Answer,
        release: &Release,
        identity: &Papers,
        question: &Question<'_>,
    ) -> Result<(), Error> {
        let Release { root_key, manifest, configuration } = release;
        let (authority, manifests) = (self.ca.certificate().to_owned(), vec![manifest.clone()]);
        let policy = Policy::new(self.environment, authority, *root_key, manifests, false, 0)?;
        let evidence = Evidence {
            quote: Bytes(answer.evidence.attest.0.clone()),
            signature: Bytes(answer.evidence.signature.0.clone()),
            attestation_key: Bytes(member.attestation_key.0.clone()),
            attestation_certificate: Bytes(identity.ak_certificate.0.clone()),
            certificate: identity.chain.clone(),
            events: events(&answer.evidence.events.0)?,
            manifest: Bytes(manifest.clone()),
            configuration: Bytes(configuration.clone()),
        };
        attest::verify(&evidence, &policy, question)?;
        Ok(())
    }
}

fn events(log: &[u8]) -> Result<Vec<Event>, Error> {
    let (entries, []) = log.as_chunks::<ENTRY>() else { return Err(Error::Events) };
    let event = |entry: &[u8; ENTRY]| {
        let entry = Entry::parse(entry)?;
        Some(Event { pcr: entry.pcr(), what: entry.name().to_owned(), sha256: Hash(entry.sha256()) })
    };
    entries.iter().map(event).collect::<Option<_>>().ok_or(Error::Events)
}

fn fingerprint(ek: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, ek).as_ref());
    Hash(hash)
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Error::Sign)
}

/// Unix time in seconds.
fn now() -> Result<u64, Error> {
    u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).map_err(|_| Error::Sign)
}
