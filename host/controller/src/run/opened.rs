//! The open store of the firmware, and a start that is confirmed in it.

use crate::{
    boot::{
        Halt,
        custody::{Custody, settle},
        images,
        start::Start,
        state::State,
    },
    limits::Bounds,
};
use firmware_store::Store;
use service::process::Failure;
use tpm::Tpm;

/// What came out of the open store.
pub(super) struct Opened {
    store: Store,
    images: images::Images,
    custody: Custody,
    bounds: Bounds,
}

impl Opened {
    pub(super) fn take(store: Store, start: &Start) -> Result<Self, Halt> {
        let images = images::Images::take(&store, &start.manifest)?;
        let policies = images.policies();
        let halt = |error: &dyn std::fmt::Display| Halt::new("boot.policies", "policies", &error.to_string());
        let bounds = Bounds::of_policies(policies).ok_or_else(|| halt(&"they name no bounds of a host"))?;
        let custody = Custody::of(&store).map_err(|error| halt(&error))?;
        Ok(Self { store, images, custody, bounds })
    }

    pub(super) fn split(self) -> (Option<images::Images>, Option<(Custody, Store)>, Option<Bounds>) {
        (Some(self.images), Some((self.custody, self.store)), Some(self.bounds))
    }
}

/// A start that has reached service: an update is settled, and no older release starts any more.
pub(super) fn confirm(
    state: &State,
    start: &Start,
    (custody, mut store): (Custody, Store),
    tpm: &mut Tpm,
) -> Result<(), Failure> {
    settle(state, start, &mut store)?;
    custody.take(tpm)?;
    custody.raise_floor(tpm, start)
}
