//! What the control plane does for a tenant: keys, grants, tokens, and calls at the host's door. Each call
//! goes out with a token for exactly what it does.

mod adverse;

pub(crate) use adverse::Refused;

use crate::{
    failure::{Doing, Failure},
    interrupt,
    place::Place,
    up::{self, Installation},
};
use attest::{Evidence, LaunchPolicy};
use audit::caller::Journal;
use host_api::{Api, DeviceName, LogRecord, Resource};
use ids::{HostId, Identity, InstanceId, KeyId, Slot, VolumeId};
use seal::CardKey;
use serde::{Serialize, de::DeserializeOwned};
use service::{CallError, Client, Credentials};
use std::{
    cell::RefCell,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use token::{CardKeyCertificate, PublicKey};
use volumes::{Draft, Store, Volume};

/// The environment's authority, and what it has revoked.
const TRUSTED: &str = "pki/public/trusted.pem";
/// The calls that the audit service has not been told of yet.
const ATTEMPTS: &str = "attempts";
/// How long a call's end may wait for the audit service.
const TELL: Duration = Duration::from_secs(5);
/// Life of a token that one call uses.
const CALL_LIFE: Duration = Duration::from_secs(60);
/// Life of the certificate that a card of our own gets.
const CARD_LIFE: u64 = 600;

/// A card's key, certified by its host or by the tenant's importer: what KMS seals to.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    /// Who certifies it.
    pub(crate) owner: Identity,
    /// The host's name; the importer's card has one too.
    pub(crate) host: HostId,
    /// What certifies it.
    pub(crate) certificate: Vec<u8>,
}

/// Access to one installation's services and host.
pub(crate) struct Cloud {
    runtime: tokio::runtime::Runtime,
    pub(crate) installation: Installation,
    pub(crate) store: Store,
    operator: Actor,
    tenant: Actor,
    control_plane: Actor,
    auditor: Actor,
    pipeline: Actor,
    log_reader: Actor,
    journal: Journal,
    importer: Importer,
    door: Client,
    attempts: RefCell<Vec<Attempt>>,
}

/// A call that was made at the host's door, and the code with which it failed, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) api: Api,
    pub(crate) resources: Vec<Resource>,
    pub(crate) code: Option<String>,
}

/// Someone with an identity, and their connections to the services.
struct Actor {
    credentials: Credentials,
    tokens: Client,
    kms: Client,
    audit: Client,
}

/// The tenant's machine that encrypts images.
struct Importer {
    credentials: Credentials,
    chain: String,
    kms: Client,
}

/// Who makes a call at the host's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Keeps the server alive.
    Operator,
    /// Acts for the tenant.
    ControlPlane,
    /// Compares what hosts say.
    Auditor,
    /// Rolls out releases and keys.
    Pipeline,
}

impl Cloud {
    /// Opens a running installation.
    pub(crate) fn open(place: &Place) -> Result<Self, Failure> {
        let installation = Installation::read(place)?;
        let ca = fs::read_to_string(place.path(TRUSTED)).doing(TRUSTED)?;
        let read = |name: &str| {
            Credentials::read(&place.path(&format!("identities/{name}.pem"))).map_err(Failure::state)
        };
        let client = |name: &str, server: &str, me: Option<&Credentials>| {
            let server = server.parse().map_err(Failure::state)?;
            Client::new(&ca, server, up::address(place, name)?, me).map_err(Failure::state)
        };
        let actor = |name| {
            let credentials = read(name)?;
            let tokens = client("tokens", "azote:service/tokens", Some(&credentials))?;
            let kms = client("kms", "azote:service/kms", Some(&credentials))?;
            let audit = client("audit", "azote:service/audit", Some(&credentials))?;
            Ok::<_, Failure>(Actor { credentials, tokens, kms, audit })
        };
        let [operator, tenant, control_plane, auditor, pipeline, log_reader] =
            up::ACTORS.map(|(name, _)| actor(name));
        let journal = place.path(ATTEMPTS);
        let identity = Identity::Host(installation.host.clone()).to_string();
        let importer = read(up::IMPORTER)?;
        let importer_file = fs::read_to_string(place.path(&format!("identities/{}.pem", up::IMPORTER)));
        let importer = Importer {
            kms: client("kms", "azote:service/kms", Some(&importer))?,
            chain: certificates(&importer_file.doing("importer")?),
            credentials: importer,
        };
        Ok(Self {
            runtime: up::runtime()?,
            store: Store::new(&place.path("volumes")),
            operator: operator?,
            tenant: tenant?,
            control_plane: control_plane?,
            auditor: auditor?,
            pipeline: pipeline?,
            log_reader: log_reader?,
            journal: Journal::open(&journal).doing(journal.display())?,
            importer,
            door: client("controller", &identity, None)?,
            installation,
            attempts: RefCell::default(),
        })
    }

    /// Every call that this made at the host's door, in order.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.borrow().clone()
    }

    fn actor(&self, who: Who) -> &Actor {
        match who {
            Who::Operator => &self.operator,
            Who::ControlPlane => &self.control_plane,
            Who::Auditor => &self.auditor,
            Who::Pipeline => &self.pipeline,
        }
    }

    /// Asks the token service for a token bound to the actor's key.
    pub(crate) fn token(&self, who: Who, ask: &Ask) -> Result<String, Failure> {
        self.token_for(who, None, ask)
    }

    /// The same, for a work order.
    fn token_for(&self, who: Who, ticket: Option<&str>, ask: &Ask) -> Result<String, Failure> {
        let actor = self.actor(who);
        let request = tokens::client::TokenRequest {
            apis: ask.apis.clone(),
            resources: ask.resources.clone(),
            audience: ask.audience.clone().unwrap_or_else(|| self.installation.host.clone()),
            lifetime_seconds: Some(ask.lifetime.as_secs()),
            uses: None,
            ticket: ticket.map(str::to_owned),
            public_key: PublicKey(actor.credentials.key().public()),
        };
        let answer = self.runtime.block_on(tokens::client::issue(&actor.tokens, &request))?;
        Ok(answer.token)
    }

    /// Knocks at the host's door with a given token, or none. A call that can be told from others is written down
    /// before it is made.
    pub(crate) fn knock<C: host_api::Call>(
        &self,
        who: Who,
        token: Option<&str>,
        call: &C,
    ) -> Result<C::Answer, Failure> {
        let host = &self.installation.host;
        let credentials = &self.actor(who).credentials;
        let answer = match token {
            None => {
                let http = call.http();
                let knock = self.door.call(http.method.name(), &http.target, http.body.clone(), &[]);
                self.runtime.block_on(knock)
            }
            Some(token) => {
                let me = (&credentials.identity().map_err(Failure::state)?, credentials.key());
                let prepared = audit::caller::prepare(call, host, me, token, now() * 1000)
                    .ok_or_else(|| Failure::state("the system gives no random numbers"))?;
                self.journal.write(&prepared.attempt).doing("the record of calls")?;
                let answer = self.runtime.block_on(prepared.send(&self.door, token));
                if let Some(withdrawn) = prepared.withdrawn(&answer) {
                    self.journal.write(&withdrawn).doing("the record of calls")?;
                }
                answer
            }
        };
        let request: host_api::Request = call.clone().into();
        self.attempts.borrow_mut().push(Attempt {
            api: C::API,
            resources: request.resources(host),
            code: answer.as_ref().err().map(|error| error.code().to_owned()),
        });
        self.tell();
        Ok(answer?)
    }

    /// Tells the audit service of the calls that were made. What it cannot be told of waits for the next call.
    fn tell(&self) {
        let deliver = async {
            while let Ok(attempts) = self.journal.next() {
                let Some(caller) = attempts.first().map(|attempt| attempt.caller.to_string()) else { return };
                let actor = up::ACTORS.iter().position(|(_, identity)| *identity == caller);
                let everybody = [
                    &self.operator,
                    &self.tenant,
                    &self.control_plane,
                    &self.auditor,
                    &self.pipeline,
                    &self.log_reader,
                ];
                let Some(actor) = actor.and_then(|at| everybody.get(at)) else { return };
                let told = audit::client::attempts(&actor.audit, &attempts).await;
                if told.is_err() || self.journal.told(&attempts).is_err() {
                    return;
                }
            }
        };
        // It stays written down until it is told.
        let _ = self.runtime.block_on(async { tokio::time::timeout(TELL, deliver).await });
    }

    /// Asks the audit service, as the one who reads logs.
    pub(crate) fn audit<T>(
        &self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        self.runtime.block_on(ask(&self.log_reader.audit))
    }

    /// Makes a call with a token for exactly this call.
    pub(crate) fn call<C: host_api::Call>(&self, who: Who, call: &C) -> Result<C::Answer, Failure> {
        self.call_for(who, None, call)
    }

    /// The same, for a work order.
    pub(crate) fn call_for<C: host_api::Call>(
        &self,
        who: Who,
        ticket: Option<&str>,
        call: &C,
    ) -> Result<C::Answer, Failure> {
        interrupt::check()?;
        let request: host_api::Request = call.clone().into();
        let resources = request.resources(&self.installation.host);
        let ask = Ask { apis: vec![C::API], resources, audience: None, lifetime: CALL_LIFE };
        let token = self.token_for(who, ticket, &ask)?;
        self.knock(who, Some(&token), call)
    }

    /// Brings a service what the authority made for it.
    pub(crate) fn bring<Q: Serialize, R: DeserializeOwned>(
        &self,
        service: &str,
        path: &str,
        what: &Q,
    ) -> Result<R, Failure> {
        let Actor { tokens, kms, audit, .. } = &self.pipeline;
        let clients = [("tokens", tokens), ("kms", kms), ("audit", audit)];
        let client = clients.iter().find(|(name, _)| *name == service).map(|(_, client)| *client);
        let client = client.ok_or_else(|| Failure::state(format!("there is no service {service}")))?;
        Ok(self.runtime.block_on(client.post(path, what))?)
    }

    /// Tells the token service what a host was found to be.
    pub(crate) fn appraised(&self, host: &HostId, found: tokens::Standing) -> Result<(), Failure> {
        self.runtime.block_on(tokens::client::appraised(&self.pipeline.tokens, host, found))?;
        Ok(())
    }

    /// What the token service's inventory says of every host.
    pub(crate) fn hosts(&self) -> Result<Vec<tokens::client::Known>, Failure> {
        Ok(self.runtime.block_on(tokens::client::hosts(&self.pipeline.tokens))?)
    }

    /// The signed sets of the token service's keys.
    pub(crate) fn key_sets(&self) -> Result<tokens::client::KeySets, Failure> {
        Ok(self.runtime.block_on(tokens::client::key_sets(&self.pipeline.tokens))?)
    }

    /// Begins a rotation of the token service's keys.
    pub(crate) fn rotate_keys(&self) -> Result<tokens::client::KeySets, Failure> {
        Ok(self.runtime.block_on(tokens::client::rotate(&self.pipeline.tokens))?)
    }

    /// What the host says of itself.
    pub(crate) fn status(&self) -> Result<host_api::HostStatus, Failure> {
        self.call(Who::Operator, &host_api::ReadStatus {})
    }

    /// The host's log after a record, to its end, from the host itself.
    pub(crate) fn log(&self, mut after: u64) -> Result<Vec<LogRecord>, Failure> {
        let mut records = Vec::new();
        loop {
            let page = self.call(Who::Auditor, &host_api::ReadLog { after })?;
            let Some(last) = page.records.last() else { return Ok(records) };
            // Reading is itself recorded: stop at what the log held when this page was made.
            let end = last.seq >= page.last;
            after = last.seq;
            records.extend(page.records);
            if end {
                return Ok(records);
            }
        }
    }

    /// Makes a customer key, as the tenant.
    pub(crate) fn create_key(&self) -> Result<KeyId, Failure> {
        Ok(self.runtime.block_on(kms::client::create_key(&self.tenant.kms))?.key_id)
    }

    /// Makes an encrypted volume without content.
    pub(crate) fn create_volume(&self, key: &KeyId, size: u64) -> Result<Volume, Failure> {
        Ok(self.draft(key, size)?.keep()?)
    }

    fn draft(&self, key: &KeyId, size: u64) -> Result<Draft<'_>, Failure> {
        let id = VolumeId::from_random(up::random()?);
        let wrapped = self.runtime.block_on(kms::client::generate_volume_key(&self.tenant.kms, key, &id))?;
        Ok(self.store.draft(id, size, key.clone(), wrapped)?)
    }

    /// The key hop: a grant by the tenant, then KMS seals the volume key to a card: to one of a host that has just
    /// shown what it is, and that is what `launch` says; or to that of the tenant's importer.
    pub(crate) fn seal_to(
        &self,
        volume: &Volume,
        granted: &Identity,
        card: &Recipient,
        launch: Option<LaunchPolicy>,
    ) -> Result<Vec<u8>, Failure> {
        let grant = self.grant(volume, granted, launch)?;
        let recipient = match (&card.owner, granted) {
            (Identity::Importer(_), _) => Ok((
                &self.importer.kms,
                kms::client::Recipient::Importer { certificate: self.importer.chain.clone() },
            )),
            (_, Identity::Host(host)) => self.shown(host).map(|shown| (&self.control_plane.kms, shown)),
            _ => self.shown(&card.host).map(|shown| (&self.control_plane.kms, shown)),
        };
        let sealed = recipient.and_then(|(client, recipient)| {
            let (wrapped, token) = (&volume.wrapped_key, &grant.grant_token);
            let sealed =
                kms::client::decrypt_for(client, wrapped, &volume.id, token, &card.certificate, recipient);
            Ok(self.runtime.block_on(sealed)?)
        });
        let retired = kms::client::retire_grant(&self.tenant.kms, &volume.key, &grant.grant_id);
        match self.runtime.block_on(retired) {
            // An importer's grant is gone with its use.
            Err(error) if error.code() != "kms.grant" => sealed.and(Err(error.into())),
            _ => sealed,
        }
    }

    /// A grant by the tenant.
    fn grant(
        &self,
        volume: &Volume,
        granted: &Identity,
        launch: Option<LaunchPolicy>,
    ) -> Result<kms::client::Grant, Failure> {
        let (client, key) = (&self.tenant.kms, &volume.key);
        let grant = match granted {
            Identity::Host(host) => {
                self.runtime.block_on(kms::client::create_grant(client, key, host, &volume.id, launch))
            }
            Identity::Importer(name) => {
                self.runtime.block_on(kms::client::create_import_grant(client, key, name, &volume.id))
            }
            _ => return Err(Failure::state("grants are for hosts and importers")),
        };
        Ok(grant?)
    }

    /// What this host shows for a nonce that KMS gave for `host`.
    fn shown(&self, host: &HostId) -> Result<kms::client::Recipient, Failure> {
        let nonce = kms::client::attestation_nonce(&self.control_plane.kms, host);
        let nonce = self.runtime.block_on(nonce)?;
        let evidence = Box::new(self.evidence(Who::ControlPlane, &nonce)?);
        Ok(kms::client::Recipient::Host { nonce: kms::client::Bytes(nonce.to_vec()), evidence })
    }

    /// The host's evidence for a nonce.
    pub(crate) fn evidence(&self, who: Who, nonce: &[u8; attest::NONCE]) -> Result<Evidence, Failure> {
        let answer = self.call(who, &host_api::AttestHost { nonce: host_api::Nonce::from_bytes(nonce) })?;
        Ok(Evidence::parse(&serde_json::to_vec(&answer).map_err(Failure::state)?)?)
    }

    /// This host's volume card.
    pub(crate) fn card(&self) -> Result<Recipient, Failure> {
        let status = self.status()?;
        let certificate = status.card.and_then(|card| card.certificate);
        let certificate = certificate
            .ok_or_else(|| Failure::state("the host has no volume card: look at `azote status`"))?;
        Ok(Recipient {
            owner: Identity::Host(status.host.clone()),
            host: status.host,
            certificate: certificate.to_bytes(),
        })
    }

    /// A card key of the tenant's own, certified by the tenant's importer.
    pub(crate) fn certify(&self, public_key: [u8; 32]) -> Result<Recipient, Failure> {
        let host = self.installation.importer.clone();
        let now = now();
        let card = CardKeyCertificate {
            host: host.clone(),
            public_key,
            not_before: now,
            not_after: now + CARD_LIFE,
        };
        let key = self.importer.credentials.key();
        let certificate = card.sign(key.pair()).ok_or_else(|| Failure::state("cannot sign"))?;
        let owner = self.importer.credentials.identity().map_err(Failure::state)?;
        Ok(Recipient { owner, host, certificate })
    }

    /// A card key that the tenant holds, to look at a volume's key: its owner may.
    pub(crate) fn own_card(&self) -> Result<(CardKey, Recipient), Failure> {
        let key = CardKey::generate().map_err(Failure::state)?;
        let recipient = self.certify(*key.public())?;
        Ok((key, recipient))
    }

    /// Makes a volume and writes an image into it, through a card of its own. A volume whose image is not
    /// whole is not kept.
    pub(crate) fn import(
        &self,
        key: &KeyId,
        image: &Path,
        at: &mut dyn FnMut(u64, u64),
    ) -> Result<Volume, Failure> {
        let image = volumes::Image::open(image)?;
        let draft = self.draft(key, image.length().next_multiple_of(volumes::UNIT))?;
        let mut importer = volumes::Importer::start(&crate::rack::program("azote-volume-card")?)?;
        let card = self.certify(importer.public_key())?;
        let sealed = self.seal_to(draft.volume(), &card.owner, &card, None)?;
        let mut step = |done, all| {
            at(done, all);
            !interrupt::asked()
        };
        importer.write(&card.host, &draft, sealed, image, &mut step).map_err(|error| match error {
            volumes::ImportError::Stopped => Failure::Interrupted,
            other => other.into(),
        })?;
        Ok(draft.keep()?)
    }

    /// Attaches a volume to the main board, with its key sealed to the host's card.
    pub(crate) fn attach(
        &self,
        volume: &Volume,
        device: &DeviceName,
        slot: Slot,
    ) -> Result<host_api::VolumeStatus, Failure> {
        self.attach_to(None, volume, device, slot, None)
    }

    /// Attaches a volume to an instance, or to the main board, if the host is what `launch` says.
    pub(crate) fn attach_to(
        &self,
        instance: Option<&InstanceId>,
        volume: &Volume,
        device: &DeviceName,
        slot: Slot,
        launch: Option<&LaunchPolicy>,
    ) -> Result<host_api::VolumeStatus, Failure> {
        let card = self.card()?;
        let sealed = self.seal_to(volume, &card.owner, &card, launch.cloned())?;
        let call = attach_call(volume, device, slot, &sealed)?;
        self.call(Who::ControlPlane, &host_api::AttachVolume { instance: instance.cloned(), ..call })
    }

    /// The same, to the lowest slot that takes it.
    pub(crate) fn attach_anywhere(
        &self,
        instance: Option<&InstanceId>,
        volume: &Volume,
        device: &DeviceName,
        launch: Option<&LaunchPolicy>,
    ) -> Result<host_api::VolumeStatus, Failure> {
        let status = self.status()?;
        let there = status.volumes.iter().filter(|other| other.instance.as_ref() == instance);
        let taken: Vec<Slot> = there.map(|volume| volume.slot).collect();
        let free =
            (1..=ids::SLOTS).filter_map(|n| Slot::try_from(n).ok()).filter(|slot| !taken.contains(slot));
        let message = "every slot is taken: detach a volume first".to_owned();
        let mut result = Err(Failure::Advice("slot.taken", message));
        for slot in free {
            result = self.attach_to(instance, volume, device, slot, launch);
            // A slot that a guest had a function in stays empty until the instance is stopped: only the board knows.
            if !matches!(&result, Err(error) if error.code() == "slot.spent") {
                break;
            }
        }
        result
    }

    /// Detaches a volume.
    pub(crate) fn detach(&self, volume: &VolumeId, force: bool) -> Result<(), Failure> {
        self.call(Who::ControlPlane, &host_api::DetachVolume { volume: volume.clone(), force })?;
        Ok(())
    }

    /// Starts an instance on the main board, from an attached root volume.
    pub(crate) fn start(&self, root: &VolumeId) -> Result<host_api::InstanceStatus, Failure> {
        let instance = InstanceId::from_random(up::random()?);
        self.call(Who::ControlPlane, &host_api::StartInstance::metal(instance, root.clone()))
    }

    /// Stops an instance.
    pub(crate) fn stop(&self, instance: &InstanceId, force: bool) -> Result<(), Failure> {
        self.call(Who::ControlPlane, &host_api::StopInstance { instance: instance.clone(), force })?;
        Ok(())
    }
}

/// What a token shall say.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) apis: Vec<Api>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) audience: Option<HostId>,
    pub(crate) lifetime: Duration,
}

/// The request that attaches a volume.
pub(crate) fn attach_call(
    volume: &Volume,
    device: &DeviceName,
    slot: Slot,
    sealed: &[u8],
) -> Result<host_api::AttachVolume, Failure> {
    Ok(host_api::AttachVolume {
        volume: volume.id.clone(),
        device_name: device.clone(),
        size: volume.size,
        instance: None,
        slot,
        sealed_key: host_api::SealedKey::from_bytes(sealed).map_err(Failure::state)?,
    })
}

/// Unix time in seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The certificates of a PEM file that also holds a key.
pub(crate) fn certificates(pem: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    pem.find(BEGIN).map(|at| pem[at..].to_owned()).unwrap_or_default()
}
