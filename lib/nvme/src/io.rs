//! I/O commands (§6): from a queue entry to a request that is safe to carry out.

use crate::prp;
use crate::spec::command::{DEALLOCATE, DatasetRange, FUA};
use crate::spec::{ALL_NAMESPACES, IoOpcode, Status, SubmissionEntry};
use crate::{Controller, Memory, Operation};
use zerocopy::{FromZeros, IntoBytes};

/// The only namespace.
pub(crate) const NAMESPACE: u32 = 1;

/// FUSE and PSDT: neither fused commands nor SGLs are supported.
pub(crate) const FLAGS_UNSUPPORTED: u8 = 0xc3;

/// Directive type, in dword 12 of Write: directives are not supported.
const DIRECTIVE: u32 = 0xf << 20;

/// The first LBA of a command, as the error log reports it; 0 for commands without one.
pub(crate) fn lba(entry: &SubmissionEntry) -> u64 {
    match IoOpcode::from_code(entry.opcode) {
        Some(IoOpcode::Read | IoOpcode::Write | IoOpcode::WriteZeroes) => entry.lba(),
        _ => 0,
    }
}

impl Controller {
    /// Checks an I/O command and fills `self.request`. `false`: there is nothing to do, it has succeeded.
    pub(crate) fn prepare<M: Memory>(
        &mut self,
        memory: &M,
        sq: u16,
        entry: &SubmissionEntry,
    ) -> Result<bool, Status> {
        if !self.doomed.is_empty() && self.take_doomed(sq, entry.cid.get()) {
            return Err(Status::ABORTED);
        }
        let opcode = IoOpcode::from_code(entry.opcode).ok_or(Status::INVALID_OPCODE)?;
        if entry.flags & FLAGS_UNSUPPORTED != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let everywhere = opcode == IoOpcode::Flush && entry.nsid.get() == ALL_NAMESPACES;
        if entry.nsid.get() != NAMESPACE && !everywhere {
            return Err(Status::INVALID_NAMESPACE);
        }
        self.request.spans.clear();
        match opcode {
            IoOpcode::Read => self.transfer(memory, entry, Operation::Read),
            IoOpcode::Write if entry.cdw12.get() & DIRECTIVE != 0 => Err(Status::INVALID_FIELD),
            IoOpcode::Write => self.transfer(memory, entry, Operation::Write),
            IoOpcode::WriteZeroes => self.range(entry, Operation::WriteZeroes).map(|()| true),
            IoOpcode::Flush => {
                self.request.operation = Operation::Flush;
                (self.request.lba, self.request.blocks, self.request.durable) = (0, 0, false);
                Ok(true)
            }
            IoOpcode::DatasetManagement => self.dataset_management(memory, entry).map(|()| false),
        }
    }

    fn transfer<M: Memory>(
        &mut self,
        memory: &M,
        entry: &SubmissionEntry,
        operation: Operation,
    ) -> Result<bool, Status> {
        let blocks = u64::from(entry.cdw12.get() & 0xffff) + 1;
        let length = blocks << self.request.block_shift;
        self.range(entry, operation)?;
        prp::walk(memory, entry.prp1.get(), entry.prp2.get(), length, &mut self.request.spans)?;
        Ok(true)
    }

    fn range(&mut self, entry: &SubmissionEntry, operation: Operation) -> Result<(), Status> {
        let (lba, blocks) = (entry.lba(), (entry.cdw12.get() & 0xffff) + 1);
        self.within(lba, u64::from(blocks))?;
        let write = operation != Operation::Read;
        self.request.operation = operation;
        self.request.lba = lba;
        self.request.blocks = blocks;
        self.request.durable = write && (entry.cdw12.get() & FUA != 0 || !self.features.write_cache);
        Ok(())
    }

    fn within(&self, lba: u64, blocks: u64) -> Result<(), Status> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.config.blocks => Ok(()),
            _ => Err(Status::LBA_OUT_OF_RANGE),
        }
    }

    /// Ranges are checked and the hint is not passed on: what a guest no longer uses is nothing that the storage side
    /// may learn. All attributes are hints that may be ignored.
    fn dataset_management<M: Memory>(&mut self, memory: &M, entry: &SubmissionEntry) -> Result<(), Status> {
        if entry.cdw11.get() & DEALLOCATE == 0 {
            return Ok(());
        }
        let mut ranges = [DatasetRange::new_zeroed(); 256];
        let count = (entry.cdw10.get() & 0xff) as usize + 1;
        let ranges = ranges.get_mut(..count).ok_or(Status::INTERNAL_ERROR)?;
        let length = (count * size_of::<DatasetRange>()) as u64;
        prp::walk(memory, entry.prp1.get(), entry.prp2.get(), length, &mut self.request.spans)?;
        prp::gather(memory, &self.request.spans, ranges.as_mut_bytes())?;
        ranges.iter().try_for_each(|range| self.within(range.lba.get(), u64::from(range.blocks.get())))
    }

    fn take_doomed(&mut self, sq: u16, cid: u16) -> bool {
        let found = self.doomed.iter().position(|&doomed| doomed == (sq, cid));
        found.map(|index| self.doomed.swap_remove(index)).is_some()
    }
}
