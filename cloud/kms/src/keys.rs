use crate::{
    EncryptionContext, KmsError, MAX_DATA_KEY, MAX_GRANT_LIFE, MAX_IMPORT_LIFE, blob, cipher,
    client::{
        AttestationNonce, Bytes, CreateGrant, CreateKey, DataKey, DecryptForRecipient, DescribeKey,
        GenerateDataKeyWithoutPlaintext, Grant, GrantOperation, GrantRetired, GrantToken, KeyDescription,
        Nonce, Recipient, RetireGrant, SealedKey,
    },
    hosts::Appraiser,
    store::{GrantRecord, KeyRecord, Store},
};
use attest::{Evidence, MAX_RELEASES, NONCE, Policy};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ids::{GrantId, Identity, KeyId};
use seal::{Context, Secret, VolumeKey};
use service::Trust;
use std::{path::Path, sync::Arc};
use token::{CardKeyCertificate, PublicKey};

const ROOT_CHECK: &[u8] = b"azote/kms/root-check/1";
const CUSTOMER_KEY: &[u8] = b"azote/kms/customer-key/1";
const GRANT_SECRET: usize = 32;
const VOLUME_KEY: u16 = 64;
/// The services that may have keys opened for hosts.
const OPENERS: [&str; 2] = ["control-plane", "volumes"];

/// The key service behind its door. Every call names its caller; what it changes is durable on return.
pub struct Kms {
    store: Store,
    root: Secret<32>,
    trust: Arc<Trust>,
    appraiser: Appraiser,
}

impl Kms {
    /// Opens or makes the store in `path`, whose keys are under `root`. `trust` certifies hosts and importers; `policy`
    /// says which hosts are good, and without it none is.
    pub fn open(
        path: &Path,
        root: Secret<32>,
        trust: Arc<Trust>,
        policy: Option<Policy>,
    ) -> Result<Self, KmsError> {
        let appraiser = Appraiser::new(policy, Arc::clone(&trust));
        let kms = Self { store: Store::open(path)?, root, trust, appraiser };
        match kms.store.root_check()? {
            Some(check) => drop(cipher::open(&kms.root, ROOT_CHECK, &check).map_err(|_| {
                KmsError::internal(
                    "the store is under another root key: give the state and TPM that belong together",
                )
            })?),
            None => kms.store.set_root_check(&cipher::seal(&kms.root, ROOT_CHECK, &mut [0; 16])?)?,
        }
        Ok(kms)
    }

    /// Makes a customer key. Tenants only.
    pub fn create_key(&self, caller: &Identity, _: CreateKey, now: u64) -> Result<KeyDescription, KmsError> {
        if !matches!(caller, Identity::Tenant(_)) {
            return Err(KmsError::Denied);
        }
        let id = KeyId::from_random(random()?);
        let mut key = Secret::<32>::zeroed()?;
        fill(key.expose_mut())?;
        let wrapped = cipher::seal(&self.root, &customer_aad(&id), key.expose_mut())?;
        let record = KeyRecord { owner: caller.clone(), created: now, wrapped: Bytes(wrapped) };
        self.store.add_key(&id, &record)?;
        Ok(KeyDescription { key_id: id, owner: record.owner, created: now })
    }

    /// Tells about a key. Its owner only, as for all that follow up to [`Kms::decrypt_for_recipient`].
    pub fn describe_key(
        &self,
        caller: &Identity,
        request: DescribeKey,
        _: u64,
    ) -> Result<KeyDescription, KmsError> {
        let KeyRecord { owner, created, .. } = self.owned(caller, &request.key_id)?;
        Ok(KeyDescription { key_id: request.key_id, owner, created })
    }

    /// Makes a data key and gives its ciphertext.
    pub fn generate_data_key(
        &self,
        caller: &Identity,
        request: GenerateDataKeyWithoutPlaintext,
        _: u64,
    ) -> Result<DataKey, KmsError> {
        let GenerateDataKeyWithoutPlaintext { key_id, number_of_bytes, encryption_context: context } =
            request;
        let record = self.owned(caller, &key_id)?;
        if !(1..=MAX_DATA_KEY).contains(&number_of_bytes) {
            return Err(KmsError::Malformed);
        }
        let mut buffer = Secret::<{ MAX_DATA_KEY as usize }>::zeroed()?;
        let data_key = buffer.expose_mut().get_mut(..number_of_bytes.into()).ok_or(KmsError::Malformed)?;
        if number_of_bytes == VOLUME_KEY {
            data_key.copy_from_slice(VolumeKey::generate()?.expose());
        } else {
            fill(data_key)?;
        }
        let blob = blob::seal(&self.unwrap(&key_id, &record)?, &key_id, &context, data_key)?;
        Ok(DataKey { key_id, ciphertext_blob: Bytes(blob) })
    }

    /// Makes a grant.
    pub fn create_grant(&self, caller: &Identity, request: CreateGrant, now: u64) -> Result<Grant, KmsError> {
        let CreateGrant { key_id, grantee, operations, launch, constraint, instance, seconds } = request;
        self.owned(caller, &key_id)?;
        let (operation, longest) = match (&grantee, caller) {
            (Identity::Host(_), _) => (GrantOperation::Decrypt, MAX_GRANT_LIFE),
            (Identity::Importer(importer), Identity::Tenant(owner)) if importer == owner => {
                (GrantOperation::Import, MAX_IMPORT_LIFE)
            }
            _ => return Err(KmsError::Importer),
        };
        let bounded = launch.as_ref().is_none_or(|launch| {
            operation == GrantOperation::Decrypt && (1..=MAX_RELEASES).contains(&launch.releases.len())
        });
        if operations != [operation] || !(1..=longest).contains(&seconds) || !bounded {
            return Err(KmsError::Malformed);
        }
        constraint.volume().ok_or(KmsError::Context)?;
        let grant_id = GrantId::from_random(random()?);
        let mut secret = [0; GRANT_SECRET];
        fill(&mut secret)?;
        let token_hash = Bytes(hash(&secret));
        let expires = now.saturating_add(seconds.into());
        let record = GrantRecord { grantee, launch, operations, constraint, instance, expires, token_hash };
        self.store.add_grant(&key_id, &grant_id, &record, now)?;
        let grant_token = GrantToken(format!("{key_id}.{grant_id}.{}", URL_SAFE_NO_PAD.encode(secret)));
        Ok(Grant { grant_id, expires, grant_token })
    }

    /// Ends a grant: its key's owner, or a service that may use it and holds its token.
    pub fn retire_grant(
        &self,
        caller: &Identity,
        request: RetireGrant,
        _: u64,
    ) -> Result<GrantRetired, KmsError> {
        let (key, grant_id) = match request {
            RetireGrant::ById { key_id, grant_id } => {
                self.owned(caller, &key_id)?;
                (key_id, grant_id)
            }
            RetireGrant::ByToken { grant_token } => {
                let (key, grant_id, _) = self.granted(&grant_token)?;
                if !opens(caller) {
                    self.owned(caller, &key)?;
                }
                (key, grant_id)
            }
        };
        if self.store.remove_grant(&key, &grant_id)? {
            Ok(GrantRetired { grant_id })
        } else {
            Err(KmsError::Grant)
        }
    }

    /// Gives a nonce for evidence of a host. The services that open keys only.
    pub fn attestation_nonce(
        &self,
        caller: &Identity,
        request: AttestationNonce,
        now: u64,
    ) -> Result<Nonce, KmsError> {
        if !opens(caller) {
            return Err(KmsError::Denied);
        }
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        let expires = self.appraiser.ask(&self.store, request.host, nonce, now)?;
        Ok(Nonce { nonce: Bytes(nonce.to_vec()), expires })
    }

    /// Opens a volume key by a grant and seals it: to a card of the grant's host, for the services that open keys, if
    /// the host is what it should be; or to the card of the grant's importer, for that importer, once.
    pub fn decrypt_for_recipient(
        &self,
        caller: &Identity,
        request: DecryptForRecipient,
        now: u64,
    ) -> Result<SealedKey, KmsError> {
        if !opens(caller) && !matches!(caller, Identity::Importer(_)) {
            return Err(KmsError::Denied);
        }
        let DecryptForRecipient {
            ciphertext_blob: Bytes(blob),
            encryption_context: context,
            grant_token,
            card_key_certificate: Bytes(card),
            recipient,
        } = request;
        let key_id = blob::key_of(&blob).ok_or(KmsError::Ciphertext)?;
        let (granted, grant_id, grant) = self.granted(&grant_token)?;
        if granted != key_id {
            return Err(KmsError::Grant);
        }
        if grant.expires <= now {
            return Err(KmsError::GrantExpired);
        }
        let volume =
            context.volume().filter(|_| context.satisfies(&grant.constraint)).ok_or(KmsError::Context)?;
        let imports = matches!(recipient, Recipient::Importer { .. });
        let card = match recipient {
            Recipient::Host { nonce, evidence } => self.host(caller, &grant, &nonce, &evidence, &card, now),
            Recipient::Importer { certificate } => self.importer(caller, &grant, &certificate, &card, now),
        }?;
        let volume_key = self.open_volume_key(&key_id, &context, &blob)?;
        // Gone before the key is out: of two who come at once, one gets it.
        if imports && !self.store.remove_grant(&key_id, &grant_id)? {
            return Err(KmsError::Grant);
        }
        let sealed_key =
            seal::seal(&card.public_key, &Context { host: card.host.clone(), volume }, &volume_key)?;
        Ok(SealedKey { key_id, host: card.host, sealed_key: Bytes(sealed_key) })
    }

    /// The card of a host that has shown what it is: certified by the very identity key that its TPM's quote names.
    fn host(
        &self,
        caller: &Identity,
        grant: &GrantRecord,
        nonce: &Bytes,
        evidence: &Evidence,
        card: &[u8],
        now: u64,
    ) -> Result<CardKeyCertificate, KmsError> {
        let Identity::Host(host) = &grant.grantee else { return Err(KmsError::Importer) };
        if !opens(caller) {
            return Err(KmsError::Denied);
        }
        let nonce = nonce.0.as_slice().try_into().map_err(|_| KmsError::Malformed)?;
        let appraisal = self.appraiser.appraise(&self.store, host, evidence, nonce, now)?;
        grant.launch.as_ref().map_or(Ok(()), |launch| launch.admits(&appraisal))?;
        let card =
            CardKeyCertificate::verify(card, &appraisal.identity, now).map_err(|_| KmsError::Recipient)?;
        if card.host == *host { Ok(card) } else { Err(KmsError::Recipient) }
    }

    /// The card of an importer. Nobody attests it: its owner, who alone can have named it, runs it.
    fn importer(
        &self,
        caller: &Identity,
        grant: &GrantRecord,
        chain: &str,
        card: &[u8],
        now: u64,
    ) -> Result<CardKeyCertificate, KmsError> {
        if !matches!(caller, Identity::Importer(_)) || grant.grantee != *caller {
            return Err(KmsError::Importer);
        }
        let certified =
            service::certified_by(&self.trust.pem(), chain, now).map_err(|_| KmsError::Recipient)?;
        if certified.identity != *caller {
            return Err(KmsError::Recipient);
        }
        CardKeyCertificate::verify(card, &PublicKey(certified.public_key), now)
            .map_err(|_| KmsError::Recipient)
    }

    fn open_volume_key(
        &self,
        id: &KeyId,
        context: &EncryptionContext,
        blob: &[u8],
    ) -> Result<VolumeKey, KmsError> {
        let record = self.store.key(id)?.ok_or(KmsError::NotFound)?;
        let opened = blob::open(&self.unwrap(id, &record)?, context, blob)?;
        Ok(VolumeKey::new(opened.exactly()?)?)
    }

    fn owned(&self, caller: &Identity, key: &KeyId) -> Result<KeyRecord, KmsError> {
        let record = self.store.key(key)?.ok_or(KmsError::NotFound)?;
        if record.owner == *caller { Ok(record) } else { Err(KmsError::Denied) }
    }

    /// The grant that a token is for.
    fn granted(&self, token: &str) -> Result<(KeyId, GrantId, GrantRecord), KmsError> {
        let mut parts = token.splitn(3, '.');
        let mut part = || parts.next().ok_or(KmsError::Grant);
        let key: KeyId = part()?.parse().map_err(|_| KmsError::Grant)?;
        let grant: GrantId = part()?.parse().map_err(|_| KmsError::Grant)?;
        let mut secret = [0; GRANT_SECRET];
        let length = URL_SAFE_NO_PAD.decode_slice(part()?, &mut secret).map_err(|_| KmsError::Grant)?;
        let record = self.store.grant(&key, &grant)?.ok_or(KmsError::Grant)?;
        let same = verify_slices_are_equal(&hash(&secret), &record.token_hash.0).is_ok();
        if same && length == GRANT_SECRET { Ok((key, grant, record)) } else { Err(KmsError::Grant) }
    }

    /// A customer key, in plain for as long as the result lives.
    fn unwrap(&self, id: &KeyId, record: &KeyRecord) -> Result<Secret<32>, KmsError> {
        let opened = cipher::open(&self.root, &customer_aad(id), &record.wrapped.0);
        opened
            .and_then(|opened| opened.exactly())
            .map_err(|_| KmsError::internal("a stored key does not open"))
    }
}

fn opens(caller: &Identity) -> bool {
    matches!(caller, Identity::Service(name) if OPENERS.contains(&name.as_str()))
}

fn customer_aad(id: &KeyId) -> Vec<u8> {
    [CUSTOMER_KEY, id.as_str().as_bytes()].concat()
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

fn fill(bytes: &mut [u8]) -> Result<(), KmsError> {
    rand::fill(bytes).map_err(|_| KmsError::internal("no random bytes"))
}

fn random() -> Result<u128, KmsError> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;
