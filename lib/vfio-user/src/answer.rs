//! One request and its reply.

use crate::{
    device::{DEFER, Device, IoEvent, IrqData, IrqSet, Region},
    message::{
        self, CAP_SPARSE_MMAP, DEVICE_PCI, DEVICE_RESET, Header, IO_DATAMATCH, IO_EVENTFD, IRQ_EVENTFD,
        IRQ_MASKABLE, IRQ_NO_RESIZE, Indexed, IrqKind, MultiWrite, MultiWriteBytes, REGION_CAPS, REGION_MMAP,
        REGION_READABLE, REGION_WRITABLE, RegionAccess, Request,
    },
    outbox::Outbox,
    session::SessionError,
    version::Capabilities,
};
use rustix::io::Errno;
use std::{os::fd::OwnedFd, sync::Arc};
use zerocopy::{FromBytes, IntoBytes};

/// Where a request stands.
pub(crate) enum Answer {
    /// Answered, or rightly not.
    Given,
    /// The device has deferred it.
    Deferred,
    /// The reply carries descriptors and has to wait until those before it are sent.
    AfterOutput,
}

/// What the connection remembers between requests.
#[derive(Default)]
pub(crate) struct State {
    /// Set by the version message, which must come first.
    client: Option<Capabilities>,
    /// Writes of a deferred REGION_WRITE_MULTI that are done.
    written: usize,
}

impl State {
    pub(crate) fn answer(
        &mut self,
        header: &Header,
        payload: &[u8],
        mut fds: Vec<OwnedFd>,
        device: &mut impl Device,
        outbox: &mut Outbox,
    ) -> Result<Answer, SessionError> {
        let request = match (Request::parse(header.command, payload), &self.client) {
            (Ok(Request::Version { version, data }), None) => {
                return self.negotiate(header, version, data, outbox);
            }
            (Ok(Request::Version { .. }), Some(_)) => Err(Errno::INVAL),
            (_, None) => Err(Errno::PROTO),
            (request, Some(_)) => request,
        };
        let answered = match request {
            Err(errno) => outbox.reply(header, |_| Err(errno)),
            Ok(Request::RegionInfo { .. } | Request::RegionIoFds { .. }) if !outbox.is_empty() => {
                return Ok(Answer::AfterOutput);
            }
            Ok(Request::RegionInfo { index, room }) => region_info(header, index, room, device, outbox),
            Ok(Request::RegionIoFds { index, room }) => {
                let most = self.client.as_ref().map_or(1, Capabilities::fds);
                io_fds(header, index, room, most, device, outbox)
            }
            Ok(Request::WriteMulti(writes)) => {
                let written = &mut self.written;
                outbox.reply(header, |out| {
                    write_multi(device, writes, written)?;
                    put(out, &message::MultiCount { count: writes.len() as u64 })
                })
            }
            Ok(request) => outbox.reply(header, |out| plain(request, &mut fds, device, out)),
        };
        if answered {
            self.written = 0;
        }
        Ok(if answered { Answer::Given } else { Answer::Deferred })
    }

    fn negotiate(
        &mut self,
        header: &Header,
        version: message::Version,
        data: &[u8],
        outbox: &mut Outbox,
    ) -> Result<Answer, SessionError> {
        if version.major != 0 {
            return Err(SessionError::Version(version.major));
        }
        let client = Capabilities::parse(data);
        outbox.reply(header, |out| {
            put(out, &message::Version { major: 0, minor: 0 })?;
            out.extend(client.as_ref().map_err(|errno| *errno)?.answer().to_data());
            Ok(())
        });
        self.client = client.ok();
        Ok(Answer::Given)
    }
}

fn put(out: &mut Vec<u8>, part: &(impl IntoBytes + zerocopy::Immutable + ?Sized)) -> Result<(), Errno> {
    out.extend_from_slice(part.as_bytes());
    Ok(())
}

/// Requests whose replies carry no descriptors.
fn plain(
    request: Request<'_>,
    fds: &mut Vec<OwnedFd>,
    device: &mut impl Device,
    out: &mut Vec<u8>,
) -> Result<(), Errno> {
    match request {
        Request::Map(map) => {
            let file = fds.pop();
            if fds.is_empty() { device.dma_map(map, file).map_err(not_deferrable) } else { Err(Errno::INVAL) }
        }
        Request::Unmap(unmap) => device.dma_unmap(unmap.address, unmap.size).and_then(|()| put(out, &unmap)),
        Request::UnmapAll(unmap) => device.dma_unmap_all().and_then(|()| put(out, &unmap)),
        Request::Info => {
            let info = device.info();
            let flags = DEVICE_PCI | if info.resettable { DEVICE_RESET } else { 0 };
            put(out, &message::Info { argsz: 16, flags, regions: info.regions, irqs: info.irqs })
        }
        Request::IrqInfo { index } => {
            let irq = device.irq(index).ok_or(Errno::INVAL)?;
            let flags =
                [(irq.eventfd, IRQ_EVENTFD), (irq.maskable, IRQ_MASKABLE), (irq.no_resize, IRQ_NO_RESIZE)];
            let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
            put(out, &Indexed { argsz: 16, flags, index, count: irq.count })
        }
        Request::SetIrqs { set, action, data } => {
            let count = device.irq(set.index).ok_or(Errno::INVAL)?.count;
            if set.start.checked_add(set.count).is_none_or(|end| end > count) {
                return Err(Errno::INVAL);
            }
            let data = match data {
                IrqKind::None => IrqData::None,
                IrqKind::Bool(chosen) => IrqData::Bool(chosen),
                IrqKind::Eventfds if fds.is_empty() || fds.len() == set.count as usize => {
                    IrqData::Eventfds(std::mem::take(fds))
                }
                IrqKind::Eventfds => return Err(Errno::INVAL),
            };
            let set = IrqSet { index: set.index, start: set.start, count: set.count, action, data };
            device.set_irqs(set).map_err(not_deferrable)
        }
        Request::Read(access) => {
            within(device, &access, access.count, |region| region.readable)?;
            put(out, &access)?;
            let start = out.len();
            out.resize(start + access.count as usize, 0);
            let data = out.get_mut(start..).unwrap_or_default();
            device.region_read(access.region, access.offset, data).map_err(not_deferrable)
        }
        Request::Write(access, data) => {
            write(device, &access, data)?;
            put(out, &access)
        }
        Request::Reset => device.reset(),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// Where a call cannot come again, its device may not defer it.
fn not_deferrable(errno: Errno) -> Errno {
    if errno == DEFER { Errno::BUSY } else { errno }
}

fn within(
    device: &impl Device,
    access: &RegionAccess,
    count: u32,
    allowed: impl Fn(&Region) -> bool,
) -> Result<(), Errno> {
    let region = device.region(access.region).ok_or(Errno::INVAL)?;
    let end = access.offset.checked_add(u64::from(count)).ok_or(Errno::INVAL)?;
    if end > region.size {
        return Err(Errno::INVAL);
    }
    if allowed(region) { Ok(()) } else { Err(Errno::PERM) }
}

fn write(device: &mut impl Device, access: &RegionAccess, data: &[u8]) -> Result<(), Errno> {
    within(device, access, access.count, |region| region.writable)?;
    device.region_write(access.region, access.offset, data)
}

/// Goes on where a deferred call has stopped.
fn write_multi(
    device: &mut impl Device,
    writes: &[MultiWriteBytes],
    written: &mut usize,
) -> Result<(), Errno> {
    for one in writes.get(*written..).unwrap_or_default() {
        let MultiWrite { offset, region, count, data } =
            MultiWrite::read_from_bytes(one).map_err(|_| Errno::INVAL)?;
        let data = data.get(..count as usize).ok_or(Errno::INVAL)?;
        write(device, &RegionAccess { offset, region, count }, data)?;
        *written += 1;
    }
    Ok(())
}

fn region_info(header: &Header, index: u32, room: u32, device: &impl Device, outbox: &mut Outbox) -> bool {
    let region = device.region(index);
    let mapping = region.and_then(|region| region.mapping.as_ref());
    let answered = outbox.reply(header, |out| {
        let region = region.ok_or(Errno::INVAL)?;
        let areas = mapping.map_or(&[][..], |mapping| mapping.areas.as_slice());
        let fixed = size_of::<message::RegionInfo>();
        let capability = size_of::<message::SparseMmap>() + areas.len() * size_of::<message::SparseArea>();
        let argsz = u32::try_from(fixed + if areas.is_empty() { 0 } else { capability })
            .map_err(|_| Errno::OVERFLOW)?;
        // Without the room there is no word of capabilities but the size that they need: QEMU checks the offset
        // before it looks whether it has to ask again.
        let fits = argsz <= room && !areas.is_empty();
        let flags = [
            (region.readable, REGION_READABLE),
            (region.writable, REGION_WRITABLE),
            (mapping.is_some(), REGION_MMAP),
            (fits, REGION_CAPS),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
        let cap_offset = if fits { u32::try_from(fixed).map_err(|_| Errno::OVERFLOW)? } else { 0 };
        let offset = mapping.map_or(0, |mapping| mapping.offset);
        put(out, &message::RegionInfo { argsz, flags, index, cap_offset, size: region.size, offset })?;
        if fits {
            let areas = u32::try_from(areas.len()).map_err(|_| Errno::OVERFLOW)?;
            put(out, &message::SparseMmap { id: CAP_SPARSE_MMAP, version: 1, next: 0, areas, reserved: 0 })?;
        }
        for area in areas.iter().filter(|_| fits) {
            put(out, &message::SparseArea { offset: area.offset, size: area.len })?;
        }
        Ok(())
    });
    if let Some(mapping) = mapping {
        outbox.attach(vec![mapping.file.clone()]);
    }
    answered
}

fn io_fds(
    header: &Header,
    index: u32,
    room: u32,
    most: usize,
    device: &impl Device,
    outbox: &mut Outbox,
) -> bool {
    let mut fds: Vec<Arc<OwnedFd>> = Vec::new();
    let mut entries = Vec::new();
    // As many as the client takes descriptors for; writes to the other parts come as messages.
    for IoEvent { offset, size, value, eventfd } in device.io_events(index) {
        let known = fds.iter().position(|fd| Arc::ptr_eq(fd, &eventfd));
        let at = known.unwrap_or(fds.len());
        if at >= most {
            continue;
        }
        if known.is_none() {
            fds.push(eventfd);
        }
        let flags = if value.is_some() { IO_DATAMATCH } else { 0 };
        let fd_index = u32::try_from(at).unwrap_or_default();
        let value = value.unwrap_or_default();
        entries.push(message::IoFd { offset, size, fd_index, kind: IO_EVENTFD, flags, padding: 0, value });
    }
    let mut sends_fds = false;
    let answered = outbox.reply(header, |out| {
        device.region(index).ok_or(Errno::INVAL)?;
        let argsz = size_of::<Indexed>() + size_of_val(entries.as_slice());
        let argsz = u32::try_from(argsz).map_err(|_| Errno::OVERFLOW)?;
        let count = u32::try_from(entries.len()).map_err(|_| Errno::OVERFLOW)?;
        put(out, &Indexed { argsz, flags: 0, index, count })?;
        sends_fds = argsz <= room;
        if sends_fds { put(out, entries.as_slice()) } else { Ok(()) }
    });
    if sends_fds {
        outbox.attach(fds);
    }
    answered
}
