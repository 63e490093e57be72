//! What a card says of its function, and whether that can be true.

use super::{Backend, Function, FunctionError, Site, place::Window};
use crate::pci::{
    Unfit,
    bar::{self, Bars},
    config::{self, Header},
    msix::{self, Msix},
};
use std::sync::{Arc, Mutex, Weak};
use vfio_user::pci::{BAR0, CONFIG, MSIX, REGIONS};

impl Function {
    /// Asks the card what its function is.
    pub(super) fn learn(
        mut card: Box<dyn Backend>,
        site: &Arc<Site>,
    ) -> Result<Arc<Mutex<Self>>, FunctionError> {
        let info = card.info()?;
        if info.regions < REGIONS - 1 || info.irqs <= MSIX {
            return Err(Unfit::Header.into());
        }
        let mut space = [0; config::HEADER];
        card.read(CONFIG, 0, &mut space)?;
        let header = Header::parse(&space)?;
        let (bars, windows) = regions(&mut *card, &space)?;
        let msix = header.msix.map(|capability| msix(&mut *card, capability, &bars)).transpose()?;
        let (resettable, site) = (info.resettable, Arc::clone(site));
        Ok(Arc::new_cyclic(|me| {
            let (card, me) = (Some(card), Weak::clone(me));
            Mutex::new(Self { card, resettable, header, decodes: false, bars, windows, msix, site, me })
        }))
    }
}

pub(super) fn region(bar: usize) -> u32 {
    BAR0.saturating_add(u32::try_from(bar).unwrap_or(u32::MAX))
}

/// The BARs, as registers and as what is behind them.
fn regions(
    card: &mut dyn Backend,
    space: &[u8; config::HEADER],
) -> Result<(Bars, Vec<Window>), FunctionError> {
    let (mut registers, mut sizes) = ([0; bar::COUNT], [0; bar::COUNT]);
    let mut windows = Vec::new();
    for (index, (register, size)) in registers.iter_mut().zip(&mut sizes).enumerate() {
        let bytes = space.iter().skip(usize::from(config::BARS) + 4 * index).take(4);
        *register = bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let description = card.region(region(index))?;
        *size = description.size;
        windows.push(Window::new(description, card.io_events(region(index))?));
    }
    Ok((Bars::new(registers, sizes, card.largest_bar())?, windows))
}

fn msix(
    card: &mut dyn Backend,
    mut capability: config::MsixCapability,
    bars: &Bars,
) -> Result<Msix, FunctionError> {
    let offered = u16::try_from(card.irq(MSIX)?.count).unwrap_or(u16::MAX);
    capability.vectors = capability.vectors.min(offered);
    let vectors = u64::from(capability.vectors);
    let place = |place: config::Place, len: u64| {
        let end = place.offset.saturating_add(len);
        (end <= bars.size(place.bar)).then_some(place.offset..end)
    };
    let table = place(capability.table, vectors * msix::ENTRY).ok_or(Unfit::Msix)?;
    let pending = place(capability.pending, msix::pending_bytes(vectors)).ok_or(Unfit::Msix)?;
    let apart = capability.table.bar != capability.pending.bar
        || table.end <= pending.start
        || pending.end <= table.start;
    if vectors == 0 || !apart {
        return Err(Unfit::Msix.into());
    }
    Ok(Msix::new(capability)?)
}
