//! What only a host with an open store can do to its TPM, and settling an update that the present start has shown to
//! be good.

use super::{known_good::KnownGood, plan::random, start::Start, state::State};
use boot_rom::record::FLOOR_INDEX;
use firmware_store::{Change, Store};
use service::process::Failure;
use tpm::{Hierarchy, Tpm};
use zeroize::Zeroizing;

const OWNER: &str = "owner authorisation";
const LOCKOUT: &str = "lockout authorisation";
/// Most steps by which one start raises the floor; the next one goes on.
const MAX_STEPS: u64 = 256;

/// The TPM's authorisation values.
pub struct Custody {
    owner: Zeroizing<Vec<u8>>,
    lockout: Zeroizing<Vec<u8>>,
}

impl Custody {
    /// New ones, not yet the TPM's.
    pub fn generate() -> Result<Self, Failure> {
        Ok(Self { owner: random()?, lockout: random()? })
    }

    /// Keeps them in the store.
    pub fn keep(&self, change: &mut Change<'_>) {
        change.set_secret(OWNER, &self.owner);
        change.set_secret(LOCKOUT, &self.lockout);
    }

    /// Takes them out of the store.
    pub fn of(store: &Store) -> Result<Self, Failure> {
        let secret =
            |name| store.secret(name).map(<[u8]>::to_vec).ok_or("the store has no authorisation values");
        Ok(Self { owner: secret(OWNER)?.into(), lockout: secret(LOCKOUT)?.into() })
    }

    /// What clears the TPM.
    pub fn lockout(&self) -> &[u8] {
        &self.lockout
    }

    /// Gives them to a TPM that does not have them, also after an enrolment that was cut off in between: from here on
    /// nobody without the store undefines its memory or clears it.
    pub fn take(&self, tpm: &mut Tpm) -> Result<(), Failure> {
        for (hierarchy, value) in [(Hierarchy::Owner, &self.owner), (Hierarchy::Lockout, &self.lockout)] {
            if !tpm.has_auth(hierarchy)? {
                tpm.set_auth(hierarchy, &[], value)?;
            }
        }
        Ok(())
    }

    /// Raises the floor to the release that runs.
    pub fn raise_floor(&self, tpm: &mut Tpm, start: &Start) -> Result<(), Failure> {
        let wanted = start.record.floor_base.saturating_add(start.signed.set.svn.into());
        let present = tpm.nv_counter(FLOOR_INDEX)?.ok_or("the TPM has lost the floor")?;
        for _ in 0..wanted.saturating_sub(present).min(MAX_STEPS) {
            tpm.nv_increment(&self.owner, FLOOR_INDEX)?;
        }
        Ok(())
    }
}

/// Makes the set of this start the only one, and takes away what belonged to the others.
pub fn settle(state: &State, start: &Start, store: &mut Store) -> Result<(), Failure> {
    let set = &start.signed.set;
    let release = super::sha256(&set.manifest);
    if !state.boots(&release) {
        tracing::warn!("the boot folder is for another release than the one that runs: both are kept");
        return Ok(());
    }
    if start.known_good.sets.len() > 1 {
        let only = KnownGood { key: start.known_good.key.clone(), sets: vec![start.signed.clone()] };
        let file = only.encode().ok_or("the set is out of bounds")?;
        service::write_atomic(&state.known_good(), &file)?;
    }
    let unused = store.blobs().any(|blob| !set.sums.contains_key(&blob.sha256));
    if unused {
        let mut change = store.change();
        change.retain(|sha256| set.sums.contains_key(sha256));
        change.commit()?;
    }
    let configuration = set.event("configuration").map(|event| event.sha256()).unwrap_or_default();
    state.sweep(&[release], &[configuration]);
    Ok(())
}
