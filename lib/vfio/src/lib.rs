//! Linux's VFIO: PCI functions of this machine, handed out as file descriptors.
//!
//! - [`Claim`] is for who may open `/dev/vfio`: it takes a function that stands alone in its IOMMU group and is bound
//!   to `vfio-pci`, and makes of it two descriptors, as often as the last user is gone.
//! - [`Container`] and [`Device`] are for who gets them, and needs neither a path nor a privilege: memory for the
//!   function's DMA, its regions, its interrupts, its reset.
//!
//! It binds no drivers, makes no virtual functions, and knows only the container of type 1, version 2. A group with a
//! second device in it, an IOMMU that leaves caches out of sync, and a function behind which interrupts are not
//! isolated are refused, by this crate or by the kernel.
//!
//! Trust boundary: the kernel is trusted; the function behind it is not. What it says of itself reaches this crate only
//! through the kernel, and its lists are bounded all the same.
#![deny(unsafe_code)]

mod address;
mod claim;
mod container;
mod device;
mod sys;

pub use address::{AddressError, PciAddress};
pub use claim::{Claim, ClaimError, Descriptors};
pub use container::Container;
pub use device::{Area, Device, Region};
