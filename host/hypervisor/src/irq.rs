//! What devices need of the platform: interrupts, doorbells, and memory that is shared with a card.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

/// A message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// Where the function writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// An eventfd bound to an interrupt message, until [`Platform::unbind_msi`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Route(pub u32);

/// A file shared with the guest, until [`Platform::unmap_shared`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Mapping(pub u32);

/// What the guest did to its own power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// S5.
    Off,
    /// The reset register.
    Reset,
}

/// Why the platform refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// No interrupt route or memory slot is left.
    #[error("the machine has no interrupt route or memory slot left")]
    Full,
    /// The range is not whole pages, or lies on something else.
    #[error("the range is not whole pages or lies on memory that is there already")]
    Range,
    /// The system refused.
    #[error("the system refused with error {0}")]
    System(i32),
}

/// KVM for a real machine; a recorder for tests and the fuzz bus.
pub trait Platform: Send + Sync {
    /// Sets an input of the I/O APIC (0 to 23).
    fn line(&self, gsi: u32, level: bool);

    /// From now on a signal of `eventfd` raises `message`; `None`: masked, signals stay in the eventfd.
    fn bind_msi(&self, eventfd: Arc<OwnedFd>, message: Option<Msi>) -> Result<Route, PlatformError>;

    /// Changes the message of a route.
    fn update_msi(&self, route: &Route, message: Option<Msi>) -> Result<(), PlatformError>;

    /// Takes the route away; the eventfd is no longer watched.
    fn unbind_msi(&self, route: Route);

    /// A write of `len` bytes (0: any length) at guest address `address` (only of `value`, if given) signals
    /// `eventfd` without an exit to this process; `on: false` takes exactly that away.
    fn doorbell(
        &self,
        address: u64,
        len: u8,
        value: Option<u64>,
        eventfd: BorrowedFd<'_>,
        on: bool,
    ) -> Result<(), PlatformError>;

    /// Shows `len` bytes of `file` from `offset` to the guest at `address`. All must be whole pages, and the file so
    /// long: the machine fails where the guest reaches beyond its end.
    fn map_shared(
        &self,
        address: u64,
        len: u64,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Mapping, PlatformError>;

    /// Takes it away; the guest's next access is an exit.
    fn unmap_shared(&self, mapping: Mapping);

    /// Shows an id on the page at [`crate::layout::GENERATION`], which is there from the start.
    fn generation(&self, id: [u8; 16]);

    /// The guest turned itself off or asked for a reset: no processor runs on after the present exit.
    fn power(&self, power: Power);
}
