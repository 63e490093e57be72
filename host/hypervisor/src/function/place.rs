//! Where a function's BARs are in the guest's address space.

use super::Function;
use crate::{
    bus::Device,
    irq::{Mapping, Platform},
    pci::{
        bar,
        msix::{ENTRY, Msix, pending_bytes},
    },
};
use std::{
    ops::Range,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use vfio_user::{Area, IoEvent, Region, RegionMapping};

const PAGE: u64 = 4096;
/// Most shared areas and most eventfds of one BAR; the others are messages.
const MOST_AREAS: usize = 16;
const MOST_EVENTS: usize = 64;

/// What is behind one BAR, and where it is now.
pub(super) struct Window {
    mapping: Option<RegionMapping>,
    events: Vec<IoEvent>,
    placed: Option<Placed>,
}

struct Placed {
    address: u64,
    shared: Vec<Mapping>,
    /// The eventfds that the platform took.
    rung: Vec<usize>,
}

impl Window {
    pub(super) fn new(region: Region, events: Vec<IoEvent>) -> Self {
        let (readable, writable) = (region.readable, region.writable);
        let mapping = region.mapping.filter(|_| readable && writable).map(|mut mapping| {
            if mapping.areas.is_empty() {
                mapping.areas.push(Area { offset: 0, len: region.size });
            }
            mapping.areas.truncate(MOST_AREAS);
            mapping
        });
        let inside = |event: &IoEvent| {
            matches!(event.size, 0 | 1 | 2 | 4 | 8)
                && event.offset.checked_add(event.size.max(1)).is_some_and(|end| end <= region.size)
        };
        Self { mapping, events: events.into_iter().filter(inside).take(MOST_EVENTS).collect(), placed: None }
    }

    /// Lets the card's memory and eventfds appear at `address`. What the platform refuses stays a message.
    fn place(&mut self, address: u64, kept: &[Range<u64>], platform: &dyn Platform) {
        let mut placed = Placed { address, shared: Vec::new(), rung: Vec::new() };
        if let Some(mapping) = &self.mapping {
            let areas = mapping.areas.iter().flat_map(|area| apart(*area, kept));
            for area in areas.filter(|area| shareable(area, address, mapping.offset)) {
                let (at, offset) = (address + area.offset, mapping.offset + area.offset);
                placed.shared.extend(platform.map_shared(at, area.len, mapping.file.as_fd(), offset));
            }
        }
        for (index, event) in self.events.iter().enumerate() {
            if ring(event, address, true, platform) {
                placed.rung.push(index);
            }
        }
        self.placed = Some(placed);
    }

    fn take_away(&mut self, platform: &dyn Platform) -> Option<u64> {
        let placed = self.placed.take()?;
        for index in placed.rung {
            if let Some(event) = self.events.get(index) {
                ring(event, placed.address, false, platform);
            }
        }
        placed.shared.into_iter().for_each(|mapping| platform.unmap_shared(mapping));
        Some(placed.address)
    }
}

fn ring(event: &IoEvent, address: u64, on: bool, platform: &dyn Platform) -> bool {
    let len = u8::try_from(event.size).unwrap_or_default();
    platform.doorbell(address + event.offset, len, event.value, event.eventfd.as_fd(), on).is_ok()
}

/// What is left of an area without the pages that are kept here.
fn apart(area: Area, kept: &[Range<u64>]) -> Vec<Area> {
    kept.iter().fold(vec![area], |areas, kept| {
        let around = |area: Area| {
            let end = area.offset.saturating_add(area.len);
            let piece = |start: u64, end: u64| Some(Area { offset: start, len: end.checked_sub(start)? });
            [piece(area.offset, end.min(kept.start)), piece(area.offset.max(kept.end), end)]
        };
        areas.into_iter().flat_map(around).flatten().filter(|area| area.len > 0).collect()
    })
}

/// Whole pages.
fn shareable(area: &Area, address: u64, file: u64) -> bool {
    let pages = [area.offset, area.len, address, file].iter().all(|value| value.is_multiple_of(PAGE));
    pages && area.len > 0 && file.checked_add(area.offset.saturating_add(area.len)).is_some()
}

/// The pages of a BAR that hold MSI-X structures.
fn kept(msix: Option<&Msix>, bar: usize) -> Vec<Range<u64>> {
    let Some(capability) = msix.map(Msix::capability) else { return Vec::new() };
    let vectors = u64::from(capability.vectors);
    let parts = [(capability.table, vectors * ENTRY), (capability.pending, pending_bytes(vectors))];
    let pages = |start: u64, len: u64| start / PAGE * PAGE..(start + len).next_multiple_of(PAGE);
    parts.iter().filter(|(place, _)| place.bar == bar).map(|(place, len)| pages(place.offset, *len)).collect()
}

impl Function {
    /// Puts every BAR where its register says, if it may be there and nobody else is: of two BARs on one address
    /// the first keeps it, and the other appears when that one has left and this is called again.
    pub fn settle(&mut self) {
        let Some(mmio) = self.site.mmio.upgrade() else { return };
        for index in 0..bar::COUNT {
            let Some(window) = self.windows.get_mut(index) else { return };
            let wanted = self.bars.range(index).filter(|range| {
                self.decodes
                    && self.site.windows.iter().any(|all| all.start <= range.start && range.end <= all.end)
            });
            let now = window.placed.as_ref().map(|placed| placed.address);
            if now == wanted.as_ref().map(|range| range.start) {
                continue;
            }
            if let Some(address) = window.take_away(&*self.site.platform) {
                mmio.remove(address);
            }
            let Some(range) = wanted else { continue };
            let address = range.start;
            let bar = Arc::new(Mutex::new(Bar { function: Weak::clone(&self.me), index }));
            if mmio.add(range, bar).is_ok() {
                window.place(address, &kept(self.msix.as_ref(), index), &*self.site.platform);
            }
        }
    }
}

/// One BAR on the bus.
struct Bar {
    function: Weak<Mutex<Function>>,
    index: usize,
}

impl Device for Bar {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some(function) = self.function.upgrade() {
            function.lock().unwrap_or_else(PoisonError::into_inner).read_bar(self.index, offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(function) = self.function.upgrade() {
            function.lock().unwrap_or_else(PoisonError::into_inner).write_bar(self.index, offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_shared_around_what_is_kept() {
        let apart = |offset, len, kept: &[Range<u64>]| {
            let left = apart(Area { offset, len }, kept);
            left.iter().map(|area| (area.offset, area.len)).collect::<Vec<_>>()
        };
        let (table, pending) = (0x2000..0x3000, 0x3000..0x4000);
        assert_eq!(apart(0, 0x8000, &[]), [(0, 0x8000)]);
        assert_eq!(apart(0, 0x8000, &[table.clone(), pending.clone()]), [(0, 0x2000), (0x4000, 0x4000)]);
        assert_eq!(apart(0x2000, 0x2000, &[pending.clone(), table.clone()]), []);
        assert_eq!(apart(0x1000, 0x1000, &[table, pending]), [(0x1000, 0x1000)]);
    }
}
