//! What the control plane does with a tenant's keys, volumes and instances.

use super::{Cloud, Who, now};
use crate::{failure::Failure, interrupt, up};
use attest::{Evidence, LaunchPolicy};
use host_api::DeviceName;
use ids::{HostId, Identity, InstanceId, KeyId, Slot, VolumeId};
use seal::CardKey;
use std::path::Path;
use token::CardKeyCertificate;
use volumes::{Draft, Volume};

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

impl Cloud {
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
    pub(super) fn grant(
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
    pub(super) fn shown(&self, host: &HostId) -> Result<kms::client::Recipient, Failure> {
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
