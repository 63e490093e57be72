//! Admin commands as the host gives them.

use super::queue::data_pointer;
use super::{Bar, Done, Driver, Error, Options, SCRATCH};
use crate::memory::Memory;
use crate::spec::identify::{IdentifyController, IdentifyNamespace, cns};
use crate::spec::{AdminOpcode, Feature, PAGE, SubmissionEntry};
use std::time::Instant;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

impl<B: Bar, M: Memory> Driver<B, M> {
    /// Executes an admin command and waits for it. Its result (dword 0).
    pub fn admin(&mut self, entry: SubmissionEntry) -> Result<u32, Error> {
        let cid = self.submit_admin(entry)?;
        let deadline = Instant::now() + self.timeout;
        loop {
            while let Some(done) = self.reap_admin()? {
                if done.cid == cid {
                    return if done.status.is_success() {
                        Ok(done.result)
                    } else {
                        Err(Error::Status(done.status))
                    };
                }
                self.events.push(done);
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout("answer an admin command"));
            }
            self.bar.wait();
        }
    }

    /// Submits an admin command without waiting; its completion comes out of [`Self::event`].
    pub fn submit_admin(&mut self, entry: SubmissionEntry) -> Result<u16, Error> {
        let cid = self.admin.submit_entry(&self.memory, entry)?;
        self.admin.ring(&self.memory, &mut self.bar)?;
        cid.ok_or(Error::Protocol("it leaves too many admin commands unanswered"))
    }

    /// The next completion of a command given to [`Self::submit_admin`], such as an asynchronous event.
    pub fn event(&mut self) -> Result<Option<Done>, Error> {
        if self.events.is_empty() {
            return self.reap_admin();
        }
        Ok(Some(self.events.remove(0)))
    }

    fn reap_admin(&mut self) -> Result<Option<Done>, Error> {
        let done = self.admin.reap(&self.memory)?;
        self.admin.acknowledge(&self.memory, &mut self.bar)?;
        Ok(done)
    }

    /// Executes an admin command that gives `into.len()` bytes, at most 16 KiB.
    pub fn admin_read(&mut self, mut entry: SubmissionEntry, into: &mut [u8]) -> Result<u32, Error> {
        self.point_to_scratch(&mut entry, into.len())?;
        let result = self.admin(entry)?;
        self.memory.read(self.scratch, into)?;
        Ok(result)
    }

    /// Executes an admin command that takes data, at most 16 KiB.
    pub fn admin_write(&mut self, mut entry: SubmissionEntry, data: &[u8]) -> Result<u32, Error> {
        self.point_to_scratch(&mut entry, data.len())?;
        self.memory.write(self.scratch, data)?;
        self.admin(entry)
    }

    fn point_to_scratch(&mut self, entry: &mut SubmissionEntry, length: usize) -> Result<(), Error> {
        let length = length as u64;
        if length > SCRATCH {
            return Err(Error::OutOfMemory(SCRATCH));
        }
        let list = self.scratch + SCRATCH;
        (entry.prp1, entry.prp2) = data_pointer(&self.memory, self.scratch, length, list)?;
        Ok(())
    }

    fn identify<T: FromZeros + FromBytes + IntoBytes>(&mut self, what: u8, nsid: u32) -> Result<T, Error> {
        let mut page = T::new_zeroed();
        let mut entry = admin_entry(AdminOpcode::Identify);
        entry.nsid.set(nsid);
        entry.cdw10.set(u32::from(what));
        self.admin_read(entry, page.as_mut_bytes())?;
        Ok(page)
    }

    /// Identify Controller.
    pub fn identify_controller(&mut self) -> Result<IdentifyController, Error> {
        self.identify(cns::CONTROLLER, 0)
    }

    /// Identify Namespace.
    pub fn identify_namespace(&mut self, nsid: u32) -> Result<IdentifyNamespace, Error> {
        self.identify(cns::NAMESPACE, nsid)
    }

    /// Get Log Page: `into.len()` bytes (a multiple of 4) from `offset`.
    pub fn log_page(&mut self, page: u8, nsid: u32, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let dwords = (into.len() as u64 / 4).saturating_sub(1);
        let mut entry = admin_entry(AdminOpcode::GetLogPage);
        entry.nsid.set(nsid);
        entry.cdw10.set(u32::from(page) | low(dwords & 0xffff) << 16);
        entry.cdw11.set(low(dwords >> 16 & 0xffff));
        entry.cdw12.set(low(offset));
        entry.cdw13.set(low(offset >> 32));
        self.admin_read(entry, into).map(|_| ())
    }

    /// Get Features, current value.
    pub fn feature(&mut self, feature: Feature) -> Result<u32, Error> {
        let mut entry = admin_entry(AdminOpcode::GetFeatures);
        entry.cdw10.set(feature as u32);
        self.admin(entry)
    }

    /// Set Features.
    pub fn set_feature(&mut self, feature: Feature, value: u32) -> Result<u32, Error> {
        let mut entry = admin_entry(AdminOpcode::SetFeatures);
        entry.cdw10.set(feature as u32);
        entry.cdw11.set(value);
        self.admin(entry)
    }

    pub(super) fn learn_namespace(&mut self) -> Result<(), Error> {
        let namespace = self.identify_namespace(1)?;
        let format = namespace.lbaf.get(usize::from(namespace.flbas & 15)).map_or(0, |format| format.get());
        self.block_shift = format >> 16 & 0xff;
        self.blocks = namespace.nsze.get();
        if !(9..=12).contains(&self.block_shift) || format & 0xffff != 0 {
            return Err(Error::Protocol("its block size is not between 512 and 4096 bytes"));
        }
        Ok(())
    }

    pub(super) fn make_queues(&mut self, options: &Options) -> Result<(), Error> {
        let wanted = u32::from(options.queues.saturating_sub(1));
        let given = self.set_feature(Feature::NumberOfQueues, wanted << 16 | wanted)?;
        let count = wanted.min(given & 0xffff).min(given >> 16) + 1;
        for id in 1..=u16::try_from(count).unwrap_or(1) {
            self.create_queue_pair(id, options)?;
        }
        if options.shadow_doorbells {
            self.use_shadow_doorbells()?;
        }
        Ok(())
    }

    fn create_queue_pair(&mut self, id: u16, options: &Options) -> Result<(), Error> {
        let pair = self.area.queue_pair(&self.memory, id, options.entries)?;
        let size = u32::from(pair.entries().saturating_sub(1)) << 16 | u32::from(id);
        let mut entry = admin_entry(AdminOpcode::CreateCompletionQueue);
        entry.prp1.set(pair.cq_address());
        entry.cdw10.set(size);
        let interrupts = if options.interrupts { u32::from(id) << 16 | 2 } else { 0 };
        entry.cdw11.set(interrupts | 1);
        self.admin(entry)?;
        let mut entry = admin_entry(AdminOpcode::CreateSubmissionQueue);
        entry.prp1.set(pair.sq_address());
        entry.cdw10.set(size);
        entry.cdw11.set(u32::from(id) << 16 | 1);
        self.admin(entry)?;
        self.queues.push(pair);
        Ok(())
    }

    fn use_shadow_doorbells(&mut self) -> Result<(), Error> {
        let doorbells = self.area.take(&self.memory, PAGE)?;
        let events = self.area.take(&self.memory, PAGE)?;
        let mut entry = admin_entry(AdminOpcode::DoorbellBufferConfig);
        entry.prp1.set(doorbells);
        entry.prp2.set(events);
        self.admin(entry)?;
        for queue in &mut self.queues {
            queue.use_shadow(doorbells, events);
        }
        Ok(())
    }
}

/// An admin command with nothing but its opcode.
pub fn admin_entry(opcode: AdminOpcode) -> SubmissionEntry {
    SubmissionEntry { opcode: opcode as u8, ..SubmissionEntry::default() }
}

fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
