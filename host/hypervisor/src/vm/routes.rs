//! Interrupt routes in the kernel's words.

use crate::{irq::Msi, layout::IOAPIC_PINS};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};

/// The fixed routes: to the I/O APIC only. A guest with reduced hardware (ACPI 6.5 section 4.1) does not set up the
/// old interrupt chips, which would put a line on the vector of a fault.
pub(super) fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    (0..IOAPIC_PINS).map(|gsi| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: gsi };
        entry
    })
}

/// A message as a route.
pub(super) fn message(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let high = u32::try_from(message.address >> 32).unwrap_or_default();
    let low = u32::try_from(message.address & 0xFFFF_FFFF).unwrap_or_default();
    entry.u.msi =
        kvm_irq_routing_msi { address_lo: low, address_hi: high, data: message.data, ..Default::default() };
    entry
}
