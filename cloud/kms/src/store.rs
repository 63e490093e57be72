//! What survives: wrapped keys and grants, durable before a call is answered.

use crate::{EncryptionContext, KmsError, MAX_GRANTS, MAX_KEYS, client::GrantOperation};
use attest::{Counters, LaunchPolicy};
use ids::{GrantId, HostId, Identity, InstanceId, KeyId};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fs::File, os::unix::fs::OpenOptionsExt, path::Path};
use token::PublicKey;

/// Format version and check of the root key.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const OWNED: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("owned");
/// The counters of hosts' TPMs when they were last seen, by host and identity key.
const SEEN: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("seen");
const GRANTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("grants");

const FORMAT: &str = "format";
const VERSION: &[u8] = b"2";
/// Its grants did not say what a host must be: they are over.
const EARLIER: &[u8] = b"1";
const ROOT_CHECK: &str = "root check";
/// Bytes of the store that are kept in memory.
const CACHE: usize = 16 << 20;
/// Sorts behind every id.
const END: &str = "~";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) owner: Identity,
    pub(crate) created: u64,
    /// Under the root key.
    pub(crate) wrapped: crate::client::Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRecord {
    pub(crate) grantee: Identity,
    pub(crate) launch: Option<LaunchPolicy>,
    pub(crate) operations: Vec<GrantOperation>,
    pub(crate) constraint: EncryptionContext,
    pub(crate) instance: Option<InstanceId>,
    /// Unix seconds.
    pub(crate) expires: u64,
    /// SHA-256 of the token's secret.
    pub(crate) token_hash: crate::client::Bytes,
}

pub(crate) struct Store(Database);

impl Store {
    /// Opens or makes the store. Another process that has it open is an error.
    pub(crate) fn open(path: &Path) -> Result<Self, KmsError> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A new file's name must be as durable as what is promised in it.
        let file = file.and_then(|file| File::open(folder)?.sync_all().map(|()| file));
        let file = file.map_err(|error| KmsError::internal(format!("{}: {error}", path.display())))?;
        let store = Self(Builder::new().set_cache_size(CACHE).create_file(file)?);
        let write = store.0.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let version = meta.get(FORMAT)?.map(|value| value.value().to_vec());
            match version.as_deref() {
                None => drop(meta.insert(FORMAT, VERSION)?),
                Some(EARLIER) => {
                    write.delete_table(GRANTS)?;
                    meta.insert(FORMAT, VERSION)?;
                }
                Some(VERSION) => {}
                Some(_) => return Err(KmsError::internal("the store is of another release's format")),
            }
            write.open_table(KEYS)?;
            write.open_table(OWNED)?;
            write.open_table(GRANTS)?;
            write.open_table(SEEN)?;
        }
        write.commit()?;
        Ok(store)
    }

    /// What [`Store::set_root_check`] set.
    pub(crate) fn root_check(&self) -> Result<Option<Vec<u8>>, KmsError> {
        Ok(self.0.begin_read()?.open_table(META)?.get(ROOT_CHECK)?.map(|value| value.value().to_vec()))
    }

    pub(crate) fn set_root_check(&self, check: &[u8]) -> Result<(), KmsError> {
        let write = self.0.begin_write()?;
        write.open_table(META)?.insert(ROOT_CHECK, check)?;
        Ok(write.commit()?)
    }

    pub(crate) fn key(&self, id: &KeyId) -> Result<Option<KeyRecord>, KmsError> {
        let read = self.0.begin_read()?;
        let found = read.open_table(KEYS)?.get(id.as_str())?;
        found.map(|value| parse(value.value())).transpose()
    }

    pub(crate) fn add_key(&self, id: &KeyId, record: &KeyRecord) -> Result<(), KmsError> {
        let owner = record.owner.to_string();
        let write = self.0.begin_write()?;
        {
            let mut owned = write.open_table(OWNED)?;
            if count(owned.range((owner.as_str(), "")..(owner.as_str(), END))?) >= MAX_KEYS {
                return Err(KmsError::Limit);
            }
            owned.insert((owner.as_str(), id.as_str()), ())?;
            write.open_table(KEYS)?.insert(id.as_str(), serde_json::to_vec(record)?.as_slice())?;
        }
        Ok(write.commit()?)
    }

    pub(crate) fn grant(&self, key: &KeyId, id: &GrantId) -> Result<Option<GrantRecord>, KmsError> {
        let read = self.0.begin_read()?;
        let found = read.open_table(GRANTS)?.get((key.as_str(), id.as_str()))?;
        found.map(|value| parse(value.value())).transpose()
    }

    /// Grants of this key that are over by `now` go, whenever one comes.
    pub(crate) fn add_grant(
        &self,
        key: &KeyId,
        id: &GrantId,
        record: &GrantRecord,
        now: u64,
    ) -> Result<(), KmsError> {
        let write = self.0.begin_write()?;
        {
            let mut grants = write.open_table(GRANTS)?;
            let over = |value: &[u8]| parse::<GrantRecord>(value).is_ok_and(|grant| grant.expires <= now);
            grants.retain_in((key.as_str(), "")..(key.as_str(), END), |_, value| !over(value))?;
            if count(grants.range((key.as_str(), "")..(key.as_str(), END))?) >= MAX_GRANTS {
                return Err(KmsError::Limit);
            }
            grants.insert((key.as_str(), id.as_str()), serde_json::to_vec(record)?.as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// The counters of a host's TPM when it was last seen, for each identity key that it has had.
    pub(crate) fn seen(&self, host: &HostId) -> Result<Vec<(PublicKey, Counters)>, KmsError> {
        let read = self.0.begin_read()?;
        let entries = read.open_table(SEEN)?.range((host.as_str(), "")..(host.as_str(), END))?;
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let damaged = |_| KmsError::internal("the store is damaged: no identity key");
                Ok((PublicKey::try_from(key.value().1.to_owned()).map_err(damaged)?, parse(value.value())?))
            })
            .collect()
    }

    /// Remembers the later of these counters and those that are kept.
    pub(crate) fn see(
        &self,
        host: &HostId,
        identity: &PublicKey,
        counters: Counters,
    ) -> Result<(), KmsError> {
        let (identity, write) = (String::from(*identity), self.0.begin_write()?);
        {
            let (mut table, key) = (write.open_table(SEEN)?, (host.as_str(), identity.as_str()));
            let kept = table.get(key)?.map(|value| parse::<Counters>(value.value())).transpose()?;
            let later = kept.map_or(counters, |kept| counters.later(kept));
            table.insert(key, serde_json::to_vec(&later)?.as_slice())?;
        }
        Ok(write.commit()?)
    }

    /// Whether there was one.
    pub(crate) fn remove_grant(&self, key: &KeyId, id: &GrantId) -> Result<bool, KmsError> {
        let write = self.0.begin_write()?;
        let was = write.open_table(GRANTS)?.remove((key.as_str(), id.as_str()))?.is_some();
        write.commit()?;
        Ok(was)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, KmsError> {
    serde_json::from_slice(bytes)
        .map_err(|error| KmsError::internal(format!("the store is damaged: {error}")))
}

fn count<T>(entries: impl Iterator<Item = T>) -> u64 {
    entries.fold(0, |n, _| n + 1)
}
