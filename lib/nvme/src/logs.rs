//! Get Log Page (§5.14).

use crate::admin::Outcome;
use crate::io::NAMESPACE;
use crate::spec::identify::FIRMWARE;
use crate::spec::log::id;
use crate::spec::{ALL_NAMESPACES, AdminOpcode, IoOpcode, Status, SubmissionEntry};
use crate::{Controller, MAX_TRANSFER, Memory};
use zerocopy::IntoBytes;

/// Retain Asynchronous Event, in dword 10.
const RETAIN: u32 = 1 << 15;
/// Length of the Changed Namespace List and of Commands Supported and Effects.
const LIST: usize = 4096;
/// Commands Supported and Effects: the command is supported; it may change what blocks hold.
const SUPPORTED: u32 = 1;
const CHANGES_CONTENT: u32 = 1 << 1;

impl Controller {
    /// A guest may ask for more than a page has (EBS's tools do, by one dword): the rest is zero.
    pub(crate) fn get_log_page<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
        now: u64,
    ) -> Result<Outcome, Status> {
        let (cdw10, cdw11) = (entry.cdw10.get(), entry.cdw11.get());
        let [code, ..] = cdw10.to_le_bytes();
        if !matches!(entry.nsid.get(), 0 | NAMESPACE | ALL_NAMESPACES) {
            return Err(Status::INVALID_NAMESPACE);
        }
        let dwords = u64::from(cdw11 & 0xffff) << 16 | u64::from(cdw10 >> 16);
        let length = (dwords + 1) * 4;
        let offset = u64::from(entry.cdw13.get()) << 32 | u64::from(entry.cdw12.get());
        let page = self.log_page(code, now).ok_or(Status::INVALID_LOG_PAGE)?;
        let from = usize::try_from(offset).ok().and_then(|offset| page.get(offset..));
        let from = from.filter(|_| offset.is_multiple_of(4) && length <= MAX_TRANSFER);
        let outcome = self.answer(memory, entry, from.ok_or(Status::INVALID_FIELD)?, length)?;
        if cdw10 & RETAIN == 0 {
            self.events.page_was_read(code);
            self.namespace_changed &= code != id::CHANGED_NAMESPACES;
        }
        Ok(outcome)
    }

    fn log_page(&self, code: u8, now: u64) -> Option<Vec<u8>> {
        Some(match code {
            id::ERRORS => self.errors.page().as_bytes().to_vec(),
            id::HEALTH => self.stats.health_page(self.errors.count, now).as_bytes().to_vec(),
            id::FIRMWARE => firmware_slots(),
            id::CHANGED_NAMESPACES => {
                let changed = if self.namespace_changed { NAMESPACE } else { 0 };
                sized(&changed.to_le_bytes(), LIST)
            }
            id::EFFECTS => effects(),
            id::VOLUME_STATISTICS => self.stats.volume_page().as_bytes().to_vec(),
            _ => return None,
        })
    }
}

fn sized(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut page = bytes.to_vec();
    page.resize(length, 0);
    page
}

/// Slot 1 is active; its revision stands at byte 8.
fn firmware_slots() -> Vec<u8> {
    let mut page = vec![1, 0, 0, 0, 0, 0, 0, 0];
    page.extend_from_slice(format!("{FIRMWARE:<8}").as_bytes());
    sized(&page, 512)
}

/// One dword for each opcode: 256 admin commands, then 256 I/O commands.
fn effects() -> Vec<u8> {
    let admin = |code| AdminOpcode::from_code(code).map_or(0, |_| SUPPORTED);
    let io = |code| match IoOpcode::from_code(code) {
        Some(IoOpcode::Write | IoOpcode::WriteZeroes) => SUPPORTED | CHANGES_CONTENT,
        Some(_) => SUPPORTED,
        None => 0,
    };
    let words = (0..=u8::MAX).map(admin).chain((0..=u8::MAX).map(io));
    sized(&words.flat_map(u32::to_le_bytes).collect::<Vec<_>>(), LIST)
}
