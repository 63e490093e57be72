//! A platform that remembers what it was asked, and delivers interrupts when it is told to.

use hypervisor::irq::{Mapping, Msi, Platform, PlatformError, Power, Route};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most routes and mappings at a time, so that the limits are met in tests.
const MOST: usize = 4096;

#[derive(Default)]
pub struct State {
    next: u32,
    pub lines: BTreeMap<u32, bool>,
    pub routes: BTreeMap<u32, (Arc<OwnedFd>, Option<Msi>)>,
    /// Address, length, value.
    pub doorbells: Vec<(u64, u8, Option<u64>)>,
    /// Address, length, offset in the file.
    pub shared: BTreeMap<u32, (u64, u64, u64)>,
    pub generation: [u8; 16],
    pub power: Vec<Power>,
}

#[derive(Default)]
pub struct Recorder(Mutex<State>);

impl Recorder {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages of the routes that were signalled since the last call.
    pub fn delivered(&self) -> Vec<Msi> {
        let state = self.state();
        let signalled =
            state.routes.values().filter_map(|(eventfd, message)| message.filter(|_| taken(eventfd)));
        signalled.collect()
    }

    /// Nothing that a function can have of the platform is there.
    pub fn is_clean(&self) -> bool {
        let state = self.state();
        state.routes.is_empty() && state.doorbells.is_empty() && state.shared.is_empty()
    }
}

fn taken(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]).is_ok()
}

impl Platform for Recorder {
    fn line(&self, gsi: u32, level: bool) {
        self.state().lines.insert(gsi, level);
    }

    fn bind_msi(&self, eventfd: Arc<OwnedFd>, message: Option<Msi>) -> Result<Route, PlatformError> {
        let mut state = self.state();
        if state.routes.len() >= MOST {
            return Err(PlatformError::Full);
        }
        state.next += 1;
        let route = state.next;
        state.routes.insert(route, (eventfd, message));
        Ok(Route(route))
    }

    fn update_msi(&self, route: &Route, message: Option<Msi>) -> Result<(), PlatformError> {
        self.state().routes.get_mut(&route.0).expect("a route that is bound").1 = message;
        Ok(())
    }

    fn unbind_msi(&self, route: Route) {
        self.state().routes.remove(&route.0).expect("a route that is bound");
    }

    fn doorbell(
        &self,
        address: u64,
        len: u8,
        value: Option<u64>,
        eventfd: BorrowedFd<'_>,
        on: bool,
    ) -> Result<(), PlatformError> {
        let _ = eventfd.as_fd();
        let (mut state, bell) = (self.state(), (address, len, value));
        match (state.doorbells.iter().position(|other| *other == bell), on) {
            (None, true) => state.doorbells.push(bell),
            (Some(at), false) => {
                state.doorbells.remove(at);
            }
            (Some(_), true) => return Err(PlatformError::Range),
            (None, false) => panic!("a doorbell that is not there"),
        }
        Ok(())
    }

    fn map_shared(
        &self,
        address: u64,
        len: u64,
        _file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Mapping, PlatformError> {
        let mut state = self.state();
        let overlaps = |(other, size, _): &(u64, u64, u64)| *other < address + len && address < other + size;
        assert!(!state.shared.values().any(overlaps), "{address:#x} is mapped twice");
        if len == 0
            || [address, len, offset].iter().any(|value| value % 4096 != 0)
            || state.shared.len() >= MOST
        {
            return Err(PlatformError::Range);
        }
        state.next += 1;
        let mapping = state.next;
        state.shared.insert(mapping, (address, len, offset));
        Ok(Mapping(mapping))
    }

    fn unmap_shared(&self, mapping: Mapping) {
        self.state().shared.remove(&mapping.0).expect("a mapping that is there");
    }

    fn generation(&self, id: [u8; 16]) {
        self.state().generation = id;
    }

    fn power(&self, power: Power) {
        self.state().power.push(power);
    }
}
