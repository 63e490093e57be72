//! Registers and doorbells in BAR0 (§3.1).

use crate::controller::Life;
use crate::events::Event;
use crate::queues::{CompletionQueue, SubmissionQueue};
use crate::spec::PAGE;
use crate::spec::registers::{
    ACQ, AQA, ASQ, CAP, CAPABILITIES, CC, CC_ENABLE, CC_ONLY_ZERO, CSTS, CSTS_FATAL, CSTS_READY,
    CSTS_SHUTDOWN_COMPLETE, CSTS_SHUTDOWN_OCCURRING, DOORBELLS, MSIX_TABLE, VERSION, VS,
    shutdown_notification,
};
use crate::{Controller, Effect, Shutdown};

/// The registers that keep what the guest wrote.
#[derive(Default)]
pub(crate) struct Registers {
    pub(crate) cc: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
}

/// Bits of CC that are not reserved.
const CC_DEFINED: u32 = 0x00ff_fff1;
/// Bits of AQA that are not reserved.
const AQA_DEFINED: u32 = 0x0fff_0fff;

impl Registers {
    pub(crate) fn enable(&self) -> bool {
        self.cc & CC_ENABLE != 0
    }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn set_low(place: &mut u64, value: u32) {
    // Bits 11:0 of the queue bases are reserved.
    *place = (*place & !0xffff_ffff) | u64::from(value) & !(PAGE - 1);
}

fn set_high(place: &mut u64, value: u32) {
    *place = (*place & 0xffff_ffff) | u64::from(value) << 32;
}

impl Controller {
    /// Reads BAR0, in pieces of any size. What is not a register of the controller reads as zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            let word = if self.life == Life::Removed { u32::MAX } else { self.register(at & !3) };
            *byte = word.to_le_bytes().get((at & 3) as usize).copied().unwrap_or_default();
        }
    }

    /// Writes BAR0: registers and doorbells, in aligned pieces of 4 or 8 bytes. Others are ignored.
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Effect {
        let (words, rest) = from.as_chunks::<4>();
        if !rest.is_empty() || words.len() > 2 || !offset.is_multiple_of(4) || self.life == Life::Removed {
            return Effect::None;
        }
        let mut effect = Effect::None;
        for (at, word) in (offset..).step_by(4).zip(words) {
            let now = self.write_word(at, u32::from_le_bytes(*word));
            effect = if effect == Effect::Reset || now == Effect::None { effect } else { now };
        }
        effect
    }

    fn register(&self, offset: u64) -> u32 {
        const CAP_HIGH: u64 = CAP + 4;
        const ASQ_HIGH: u64 = ASQ + 4;
        const ACQ_HIGH: u64 = ACQ + 4;
        match offset {
            CAP => low(CAPABILITIES),
            CAP_HIGH => high(CAPABILITIES),
            VS => VERSION,
            CC => self.registers.cc,
            CSTS => self.status(),
            AQA => self.registers.aqa,
            ASQ => low(self.registers.asq),
            ASQ_HIGH => high(self.registers.asq),
            ACQ => low(self.registers.acq),
            ACQ_HIGH => high(self.registers.acq),
            // INTMS and INTMC have no meaning with MSI-X, which is all there is; the rest is not offered.
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        let ready = matches!(self.life, Life::Enabled | Life::Draining);
        let shutdown = match self.shutdown {
            Shutdown::None => 0,
            Shutdown::Occurring => CSTS_SHUTDOWN_OCCURRING,
            Shutdown::Complete => CSTS_SHUTDOWN_COMPLETE,
        };
        let ready = if ready { CSTS_READY } else { 0 };
        let fatal = if self.fatal { CSTS_FATAL } else { 0 };
        ready | fatal | shutdown
    }

    fn write_word(&mut self, offset: u64, value: u32) -> Effect {
        const ASQ_HIGH: u64 = ASQ + 4;
        const ACQ_HIGH: u64 = ACQ + 4;
        match offset {
            CC => return self.write_cc(value & CC_DEFINED),
            DOORBELLS..MSIX_TABLE => return self.doorbell((offset - DOORBELLS) / 4, value),
            // The admin queue's place is fixed while the controller is enabled.
            _ if self.registers.enable() => {}
            AQA => self.registers.aqa = value & AQA_DEFINED,
            ASQ => set_low(&mut self.registers.asq, value),
            ASQ_HIGH => set_high(&mut self.registers.asq, value),
            ACQ => set_low(&mut self.registers.acq, value),
            ACQ_HIGH => set_high(&mut self.registers.acq, value),
            _ => {}
        }
        Effect::None
    }

    fn write_cc(&mut self, value: u32) -> Effect {
        let was_enabled = self.registers.enable();
        self.registers.cc = value;
        let mut effect = Effect::None;
        if was_enabled && !self.registers.enable() {
            self.disable();
            effect = Effect::Reset;
        } else if !was_enabled && self.registers.enable() && self.life == Life::Disabled {
            self.enable();
            effect = Effect::Poll;
        }
        if shutdown_notification(value) != 0 && self.shutdown == Shutdown::None {
            self.shutdown = Shutdown::Occurring;
            effect = if effect == Effect::Reset { effect } else { Effect::Poll };
        }
        effect
    }

    /// CC.EN went to one: makes the admin queue, or reports a fatal status if it can not be.
    pub(crate) fn enable(&mut self) {
        let entries = |bits: u32| u16::try_from((bits & 0xfff) + 1).unwrap_or_default();
        let (sq_size, cq_size) = (entries(self.registers.aqa), entries(self.registers.aqa >> 16));
        if self.registers.cc & CC_ONLY_ZERO != 0 || sq_size < 2 || cq_size < 2 {
            self.fatal = true;
            return;
        }
        self.shutdown = Shutdown::None;
        self.queues.insert_cq(0, CompletionQueue::new(self.registers.acq, cq_size, Some(0)));
        self.queues.insert_sq(0, SubmissionQueue::new(self.registers.asq, sq_size, 0));
        self.life = Life::Enabled;
    }

    fn doorbell(&mut self, index: u64, value: u32) -> Effect {
        if self.life != Life::Enabled || self.fatal {
            return Effect::None;
        }
        let id = u16::try_from(index / 2).unwrap_or(u16::MAX);
        let is_head = index % 2 == 1;
        // With shadow doorbells a register write is a call to look; its value may be older than the shadow's.
        let shadowed = self.shadow.is_some() && id != 0;
        if is_head {
            let Some(cq) = self.queues.cq(id) else { return self.bad_doorbell(Event::InvalidDoorbell) };
            let was_full = !cq.has_room();
            if !shadowed && !cq.set_head(value) {
                return self.bad_doorbell(Event::InvalidDoorbellValue);
            }
            if was_full { Effect::Poll } else { Effect::None }
        } else {
            let Some(sq) = self.queues.sq(id) else { return self.bad_doorbell(Event::InvalidDoorbell) };
            if !shadowed && !sq.set_tail(value) {
                return self.bad_doorbell(Event::InvalidDoorbellValue);
            }
            Effect::Poll
        }
    }

    /// Ignores a doorbell and tells the guest (§5.2, figure 147).
    pub(crate) fn bad_doorbell(&mut self, event: Event) -> Effect {
        self.errors.controller();
        self.events.raise(event);
        Effect::Poll
    }
}
