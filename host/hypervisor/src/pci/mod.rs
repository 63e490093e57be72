//! PCI: bus 0 with a host bridge and 31 slots, each for one function of a card.

pub mod bar;
pub mod bus;
pub mod config;
pub mod msix;

/// Why a card's function cannot be put into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No type 0 header.
    #[error("its configuration space has no type 0 header")]
    Header,
    /// A BAR is too large, or half of one.
    #[error("one of its BARs is too large or only half there")]
    Bar,
    /// The MSI-X table or the pending bits lie outside their BAR, or on each other.
    #[error("its MSI-X structures lie outside its BARs or on each other")]
    Msix,
    /// What one machine leaves in it could reach the next.
    #[error("nothing resets it")]
    Reset,
}
