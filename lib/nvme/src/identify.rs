//! Identify (§5.15): an EBS volume as EC2 shows it.

use crate::admin::Outcome;
use crate::events::{ERROR_ENTRIES, MAX_EVENT_REQUESTS};
use crate::io::NAMESPACE;
use crate::spec::identify::{FIRMWARE, IdentifyController, IdentifyNamespace, MODEL, VENDOR, cns};
use crate::spec::registers::VERSION;
use crate::spec::{PAGE, Status, SubmissionEntry};
use crate::{Controller, Memory};
use zerocopy::{FromZeros, IntoBytes};

/// OAES: namespace attribute notices.
pub(crate) const NAMESPACE_NOTICES: u32 = 1 << 8;
/// OACS: Doorbell Buffer Config.
const DOORBELL_BUFFER: u16 = 1 << 8;
/// ONCS: Dataset Management, Write Zeroes, Save and Select in features, Timestamp.
const OPTIONAL_COMMANDS: u16 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6;
/// LPA: SMART for the namespace, Commands Supported and Effects, offsets and long lengths.
const LOG_ATTRIBUTES: u8 = 0b111;
/// FRMW: one slot, read-only.
const FIRMWARE_SLOTS: u8 = 0b11;
/// ACL: four Abort commands at once.
const ABORT_LIMIT: u8 = 3;
/// MDTS: 2^6 pages.
const MAX_TRANSFER_SHIFT: u8 = 6;
/// VWC: Flush takes the namespace identifier that means all.
const FLUSH_ALL: u8 = 0b110;
/// CNTRLTYPE: I/O controller.
const IO_CONTROLLER: u8 = 1;

impl Controller {
    pub(crate) fn identify<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
    ) -> Result<Outcome, Status> {
        let nsid = entry.nsid.get();
        let [what, ..] = entry.cdw10.get().to_le_bytes();
        match what {
            cns::CONTROLLER => {
                let page = self.identify_controller();
                self.answer(memory, entry, page.as_bytes(), PAGE)
            }
            cns::ACTIVE_NAMESPACES if nsid >= 0xffff_fffe => Err(Status::INVALID_NAMESPACE),
            cns::ACTIVE_NAMESPACES => {
                let list = if nsid < NAMESPACE { NAMESPACE } else { 0 };
                self.answer(memory, entry, &list.to_le_bytes(), PAGE)
            }
            cns::NAMESPACE | cns::NAMESPACE_DESCRIPTORS if nsid != NAMESPACE => {
                Err(Status::INVALID_NAMESPACE)
            }
            cns::NAMESPACE => {
                let page = self.identify_namespace();
                self.answer(memory, entry, page.as_bytes(), PAGE)
            }
            // EBS gives its namespaces no identifiers: the list is empty, and names come from the serial number.
            cns::NAMESPACE_DESCRIPTORS => self.answer(memory, entry, &[], PAGE),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn identify_controller(&self) -> IdentifyController {
        let mut page = IdentifyController::new_zeroed();
        page.vid.set(VENDOR);
        page.ssvid.set(VENDOR);
        pad(&mut page.sn, &self.config.serial);
        pad(&mut page.mn, MODEL);
        pad(&mut page.fr, FIRMWARE);
        page.mdts = MAX_TRANSFER_SHIFT;
        page.ver.set(VERSION);
        page.oaes.set(NAMESPACE_NOTICES);
        page.cntrltype = IO_CONTROLLER;
        page.oacs.set(DOORBELL_BUFFER);
        page.acl = ABORT_LIMIT;
        page.aerl = MAX_EVENT_REQUESTS - 1;
        page.frmw = FIRMWARE_SLOTS;
        page.lpa = LOG_ATTRIBUTES;
        page.elpe = ERROR_ENTRIES - 1;
        page.sqes = 0x66;
        page.cqes = 0x44;
        page.nn.set(NAMESPACE);
        page.oncs.set(OPTIONAL_COMMANDS);
        page.vwc = FLUSH_ALL | u8::from(self.config.volatile_write_cache);
        // The subsystem's name, in the form that hosts make for subsystems without one (§7.9).
        let name = format!("nqn.2014.08.org.nvmexpress:{VENDOR:04x}{VENDOR:04x}");
        let name = format!("{name}{:<20}{MODEL:<40}", self.config.serial);
        for (place, byte) in page.subnqn.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        pad(&mut page.device_name, &self.config.device_name);
        page
    }

    fn identify_namespace(&self) -> IdentifyNamespace {
        let mut page = IdentifyNamespace::new_zeroed();
        // Nothing is thin here: every block counts as allocated.
        page.nsze.set(self.config.blocks);
        page.ncap.set(self.config.blocks);
        page.nuse.set(self.config.blocks);
        if let Some(format) = page.lbaf.first_mut() {
            format.set(self.config.block_shift() << 16);
        }
        page
    }
}

/// ASCII, padded with spaces.
fn pad(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}
