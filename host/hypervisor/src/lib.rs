//! One virtual machine on KVM: memory, processors, interrupts, a console, and PCI slots into which a host's
//! cards put their functions. One process serves one instance and does what the host's controller asks of it.
//! It has no network stack, no file system, no drivers, no shell and no configuration: kernel, memory and
//! functions come as file descriptors.
//!
//! Trust boundary: the guest is on the other side of every exit, and what it writes to ports, memory, PCI and
//! queues is hostile. Cards are trusted with the guest's memory and with nothing of this process: what they say
//! is parsed as hostile too. The controller decides, and sees no content: the console leaves sealed.
//!
//! Everything that a guest touches is driven through traits ([`bus::Device`], [`irq::Platform`]), so the whole
//! machine also runs where there is no KVM.
#![deny(unsafe_code)]

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod confinement;
pub mod console;
pub mod control;
pub mod cpu;
pub mod devices;
pub mod function;
pub mod instance;
pub mod irq;
pub mod isolation;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod passthrough;
pub mod pci;
pub mod smbios;
pub mod state;
pub mod stats;
pub mod vcpu;
pub mod vm;
