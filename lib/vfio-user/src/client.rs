//! The hypervisor's end, blocking.

use crate::{
    device::{Area, DeviceInfo, IoEvent, Irq, Region, RegionMapping},
    message::{
        self, ACTION_TRIGGER, CAP_SPARSE_MMAP, DATA_EVENTFD, DATA_NONE, DEVICE_RESET, FLAG_ERROR,
        FLAG_NO_REPLY, FLAG_REPLY, FLAG_TYPE, HEADER, Header, IO_DATAMATCH, IO_EVENTFD, IRQ_EVENTFD,
        IRQ_MASKABLE, IRQ_NO_RESIZE, Indexed, MAP_READ, MAP_WRITE, MAX_MESSAGE, REGION_CAPS, REGION_MMAP,
        REGION_READABLE, REGION_WRITABLE, RegionAccess, SetIrqs, UNMAP_ALL,
    },
    socket::{Socket, receive, send},
    version::Capabilities,
};
use guest_memory::DmaMap;
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};
use zerocopy::{FromBytes, IntoBytes};

/// Room for the variable part of a reply that describes a region, in bytes.
const ROOM: usize = 4096;

/// Why a request to the device failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The other end is gone.
    #[error("the device has closed the connection")]
    Closed,
    /// The device answered with an error.
    #[error("the device refused the request: {0}")]
    Refused(Errno),
    /// The device broke the protocol. The connection is of no more use.
    #[error("the device broke the vfio-user protocol: {0}")]
    Protocol(&'static str),
    /// The system refused, or the timeout is over (`EAGAIN`). The connection is of no more use.
    #[error("vfio-user socket: {0}")]
    Io(#[from] Errno),
}

/// What another process needs to go on with a connection ([`Client::resume`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientState {
    next: u16,
    server: Capabilities,
    posts: bool,
}

/// A connection to a device. One request at a time; each waits for its reply, except [`post`](Self::post).
pub struct Client {
    socket: Arc<Socket>,
    patience: Option<Duration>,
    next: u16,
    server: Capabilities,
    posts: bool,
    /// The request being sent; kept for its memory.
    out: Vec<u8>,
    /// The last reply, header first.
    reply: Box<[u8]>,
    /// Bytes of it.
    len: usize,
}

impl Client {
    /// Connects to a device's socket and negotiates.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Takes a connected Unix stream socket and negotiates.
    pub fn new(socket: OwnedFd) -> Result<Self, ClientError> {
        Self::patient(socket, None)
    }

    /// The same; nothing takes longer than `patience`, as after [`Client::set_timeout`].
    pub fn patient(socket: OwnedFd, patience: Option<Duration>) -> Result<Self, ClientError> {
        let state = ClientState { next: 0, server: Capabilities::default(), posts: true };
        let mut client = Self::resume(socket, state);
        client.patience = patience;
        let version = message::Version { major: 0, minor: 0 };
        let data = Capabilities::ours().to_data();
        client.request(message::VERSION, &[version.as_bytes(), &data], &[])?;
        let (version, data): (message::Version, _) = client.fixed()?;
        if version.major != 0 || version.minor != 0 {
            return Err(ClientError::Protocol("it answers with a version that was not proposed"));
        }
        client.server =
            Capabilities::parse(data).map_err(|_| ClientError::Protocol("its version data is not JSON"))?;
        Ok(client)
    }

    /// For another process to go on with the connection, over the same socket. This one must not use it again, unless
    /// the other never does.
    pub fn state(&self) -> ClientState {
        ClientState { next: self.next, server: self.server.clone(), posts: self.posts }
    }

    /// Goes on with the connection of another process. Nothing is sent: the device does not notice.
    pub fn resume(socket: OwnedFd, state: ClientState) -> Self {
        let ClientState { next, server, posts } = state;
        let (socket, reply) = (Arc::new(Socket::new(socket)), vec![0; MAX_MESSAGE].into_boxed_slice());
        Self { socket, patience: None, next, server, posts, out: Vec::new(), reply, len: 0 }
    }

    /// How long a request may wait to be taken, and then its reply; `None` waits for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.patience = timeout;
    }

    /// The socket, for whoever looks after the connection or may have to end its waiting.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Numbers of regions and interrupt indexes.
    pub fn info(&mut self) -> Result<DeviceInfo, ClientError> {
        let request = message::Info { argsz: 16, ..Default::default() };
        self.request(message::GET_INFO, &[request.as_bytes()], &[])?;
        let (message::Info { flags, regions, irqs, .. }, _) = self.fixed()?;
        Ok(DeviceInfo { regions, irqs, resettable: flags & DEVICE_RESET != 0 })
    }

    /// One region, with the file to map if there is one. Once a region can be mapped, [`post`](Self::post) waits
    /// for its replies, because accesses through the mapping are in no order with messages.
    pub fn region(&mut self, index: u32) -> Result<Region, ClientError> {
        let room = size_of::<message::RegionInfo>() + ROOM;
        let argsz = u32::try_from(room).unwrap_or(u32::MAX);
        let request = message::RegionInfo { argsz, index, ..Default::default() };
        let fds = self.request(message::GET_REGION_INFO, &[request.as_bytes()], &[])?;
        let (info, _): (message::RegionInfo, _) = self.fixed()?;
        let mapping = match (info.flags & REGION_MMAP != 0, fds.into_iter().next()) {
            (false, _) => None,
            (true, None) => return Err(ClientError::Protocol("it offers a mapping without a file")),
            (true, Some(file)) => {
                self.posts = false;
                let areas = if info.flags & REGION_CAPS == 0 { Vec::new() } else { self.areas(&info)? };
                Some(RegionMapping { file: Arc::new(file), offset: info.offset, areas })
            }
        };
        let (readable, writable) = (info.flags & REGION_READABLE != 0, info.flags & REGION_WRITABLE != 0);
        Ok(Region { size: info.size, readable, writable, mapping })
    }

    fn areas(&self, info: &message::RegionInfo) -> Result<Vec<Area>, ClientError> {
        const BROKEN: ClientError =
            ClientError::Protocol("a region's capability lies outside its description");
        let payload = self.reply.get(HEADER..self.len).unwrap_or_default();
        let mut at = info.cap_offset as usize;
        while at != 0 {
            let rest = payload.get(at..).ok_or(BROKEN)?;
            let (capability, rest) = message::SparseMmap::read_from_prefix(rest).map_err(|_| BROKEN)?;
            if capability.id == CAP_SPARSE_MMAP {
                let size = size_of::<message::SparseArea>();
                let areas = (capability.areas as usize).checked_mul(size).and_then(|size| rest.get(..size));
                let areas = areas.ok_or(BROKEN)?.chunks_exact(size).map(message::SparseArea::read_from_bytes);
                let inside = |area: message::SparseArea| {
                    let end = area.offset.checked_add(area.size).filter(|end| *end <= info.size);
                    end.map(|_| Area { offset: area.offset, len: area.size })
                };
                return areas.map(|area| area.ok().and_then(inside).ok_or(BROKEN)).collect();
            }
            // Forwards only, so that it ends.
            at = Some(capability.next as usize).filter(|next| *next == 0 || *next > at).ok_or(BROKEN)?;
        }
        Ok(Vec::new())
    }

    /// The parts of a region that can be written by eventfd, for the hypervisor's kernel to signal.
    pub fn io_events(&mut self, region: u32) -> Result<Vec<IoEvent>, ClientError> {
        let argsz = u32::try_from(size_of::<Indexed>() + ROOM).unwrap_or(u32::MAX);
        let request = Indexed { argsz, index: region, ..Default::default() };
        let fds = self.request(message::GET_REGION_IO_FDS, &[request.as_bytes()], &[])?;
        let fds: Vec<Arc<OwnedFd>> = fds.into_iter().map(Arc::new).collect();
        let (Indexed { count, .. }, rest) = self.fixed()?;
        let entries = rest.chunks_exact(size_of::<message::IoFd>()).map(message::IoFd::read_from_bytes);
        let entries: Vec<_> = entries.flatten().collect();
        if entries.len() != count as usize {
            return Err(ClientError::Protocol("the list of a region's eventfds is not as long as it says"));
        }
        let known = entries.into_iter().filter(|entry| entry.kind == IO_EVENTFD);
        let event = |entry: message::IoFd| {
            let eventfd = fds.get(entry.fd_index as usize)?.clone();
            let value = (entry.flags & IO_DATAMATCH != 0).then_some(entry.value);
            Some(IoEvent { offset: entry.offset, size: entry.size, value, eventfd })
        };
        let missing = ClientError::Protocol("a region's eventfd is missing");
        known.map(|entry| event(entry).ok_or(missing)).collect()
    }

    /// One interrupt index.
    pub fn irq(&mut self, index: u32) -> Result<Irq, ClientError> {
        let request = Indexed { argsz: 16, index, ..Default::default() };
        self.request(message::GET_IRQ_INFO, &[request.as_bytes()], &[])?;
        let (Indexed { flags, count, .. }, _) = self.fixed()?;
        let has = |flag| flags & flag != 0;
        Ok(Irq {
            count,
            eventfd: has(IRQ_EVENTFD),
            maskable: has(IRQ_MASKABLE),
            no_resize: has(IRQ_NO_RESIZE),
        })
    }

    /// Sets the eventfds by which the interrupts from `start` are raised.
    pub fn set_eventfds(
        &mut self,
        index: u32,
        start: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let mut start = start;
        for fds in fds.chunks(self.server.fds().max(1)) {
            let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
            self.set_irqs(
                SetIrqs { flags: DATA_EVENTFD | ACTION_TRIGGER, index, start, count, argsz: 20 },
                fds,
            )?;
            start = start.saturating_add(count);
        }
        Ok(())
    }

    /// Takes all eventfds of an index away.
    pub fn disable_irqs(&mut self, index: u32) -> Result<(), ClientError> {
        let flags = DATA_NONE | ACTION_TRIGGER;
        self.set_irqs(SetIrqs { flags, index, start: 0, count: 0, argsz: 20 }, &[])
    }

    fn set_irqs(&mut self, request: SetIrqs, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.request(message::SET_IRQS, &[request.as_bytes()], fds).map(drop)
    }

    /// Gives guest memory to the device. Without a file the device knows of it and cannot use it.
    pub fn dma_map(&mut self, map: DmaMap, file: Option<BorrowedFd<'_>>) -> Result<(), ClientError> {
        let flags = if map.readable { MAP_READ } else { 0 } | if map.writable { MAP_WRITE } else { 0 };
        let DmaMap { iova: address, len: size, offset, .. } = map;
        let request = message::Map { argsz: 32, flags, offset, address, size };
        let fds: Vec<_> = file.into_iter().collect();
        self.request(message::DMA_MAP, &[request.as_bytes()], &fds).map(drop)
    }

    /// Takes back what was given by one map. The device has finished with it when this returns.
    pub fn dma_unmap(&mut self, iova: u64, len: u64) -> Result<(), ClientError> {
        let request = message::Unmap { argsz: 24, flags: 0, address: iova, size: len };
        self.request(message::DMA_UNMAP, &[request.as_bytes()], &[]).map(drop)
    }

    /// Takes all guest memory back.
    pub fn dma_unmap_all(&mut self) -> Result<(), ClientError> {
        let request = message::Unmap { argsz: 24, flags: UNMAP_ALL, address: 0, size: 0 };
        self.request(message::DMA_UNMAP, &[request.as_bytes()], &[]).map(drop)
    }

    /// Reads a region.
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let mut offset = offset;
        for part in data.chunks_mut(self.server.transfer().max(1)) {
            let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let access = RegionAccess { offset, region, count };
            self.request(message::REGION_READ, &[access.as_bytes()], &[])?;
            let (_, got): (RegionAccess, _) = self.fixed()?;
            if got.len() != part.len() {
                return Err(ClientError::Protocol("it answers a read with more or fewer bytes than asked"));
            }
            part.copy_from_slice(got);
            offset = offset.saturating_add(u64::from(count));
        }
        Ok(())
    }

    /// Writes a region and waits until the device has done it.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let mut offset = offset;
        for part in data.chunks(self.server.transfer().max(1)) {
            let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let access = RegionAccess { offset, region, count };
            self.request(message::REGION_WRITE, &[access.as_bytes(), part], &[])?;
            offset = offset.saturating_add(u64::from(count));
        }
        Ok(())
    }

    /// Writes a region as a driver rings a doorbell: the device does it before it answers any later request, and
    /// tells nobody if it fails. Waits all the same if a region can be mapped.
    pub fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        if !self.posts || data.len() > self.server.transfer() {
            return self.write(region, offset, data);
        }
        let access = RegionAccess { offset, region, count: u32::try_from(data.len()).unwrap_or(u32::MAX) };
        self.send(message::REGION_WRITE, FLAG_NO_REPLY, &[access.as_bytes(), data], &[]).map(drop)
    }

    /// Resets the device.
    pub fn reset(&mut self) -> Result<(), ClientError> {
        self.request(message::RESET, &[], &[]).map(drop)
    }

    /// Sends a request and waits for its reply, which stays in `self.reply`. Returns the reply's descriptors.
    fn request(
        &mut self,
        command: u16,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Vec<OwnedFd>, ClientError> {
        let id = self.send(command, 0, payload, fds)?;
        let fds = self.receive()?;
        let (header, _) =
            Header::read_from_prefix(&self.reply).map_err(|_| ClientError::Protocol("it sent no header"))?;
        if (header.id, header.command, header.flags & FLAG_TYPE) != (id, command, FLAG_REPLY) {
            return Err(ClientError::Protocol("it answers what was not asked"));
        }
        if header.flags & FLAG_ERROR != 0 {
            let errno = i32::try_from(header.error).ok().filter(|errno| (1..4096).contains(errno));
            return Err(ClientError::Refused(errno.map_or(Errno::IO, Errno::from_raw_os_error)));
        }
        Ok(fds)
    }

    fn send(
        &mut self,
        command: u16,
        flags: u32,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<u16, ClientError> {
        let id = self.next;
        self.next = id.wrapping_add(1);
        let size = HEADER + payload.iter().map(|part| part.len()).sum::<usize>();
        let header = Header { id, command, size: u32::try_from(size).unwrap_or(u32::MAX), flags, error: 0 };
        self.out.clear();
        self.out.extend_from_slice(header.as_bytes());
        payload.iter().for_each(|part| self.out.extend_from_slice(part));
        let mut sent = 0;
        while let Some(rest) = self.out.get(sent..).filter(|rest| !rest.is_empty()) {
            let fds = if sent == 0 { fds } else { &[] };
            match send(self.socket.as_fd(), rest, fds) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                done => sent += done.map_err(closed)?,
            }
        }
        Ok(id)
    }

    /// Receives one message into `self.reply`. There is never more than one under way.
    fn receive(&mut self) -> Result<Vec<OwnedFd>, ClientError> {
        let mut fds = Vec::new();
        self.len = 0;
        loop {
            self.wait(PollFlags::IN)?;
            let space = self.reply.get_mut(self.len..).unwrap_or_default();
            let received = match receive(self.socket.as_fd(), space) {
                Err(Errno::AGAIN) => continue,
                received => received.map_err(closed)?,
            };
            if received.len == 0 {
                return Err(ClientError::Closed);
            }
            fds.extend(received.fds);
            self.len += received.len;
            let Ok((header, _)) = Header::read_from_prefix(self.reply.get(..self.len).unwrap_or_default())
            else {
                continue;
            };
            let size = header.size as usize;
            if !(HEADER..=MAX_MESSAGE).contains(&size) || self.len > size {
                return Err(ClientError::Protocol("its reply is not as long as it says"));
            }
            if self.len == size {
                return Ok(fds);
            }
        }
    }

    fn wait(&self, events: PollFlags) -> Result<(), ClientError> {
        self.socket.wait(events, self.patience).map_err(closed)
    }

    /// The fixed part of the reply's payload, and what follows it.
    fn fixed<T: FromBytes>(&self) -> Result<(T, &[u8]), ClientError> {
        let payload = self.reply.get(HEADER..self.len).unwrap_or_default();
        T::read_from_prefix(payload).map_err(|_| ClientError::Protocol("its reply is too short"))
    }
}

fn closed(errno: Errno) -> ClientError {
    match errno {
        Errno::PIPE | Errno::CONNRESET => ClientError::Closed,
        errno => ClientError::Io(errno),
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
