//! The machine in the kernel: memory slots, interrupt chips and routes, doorbells. All that KVM offers for one
//! virtual machine and this process needs, behind [`Platform`].

#![allow(unsafe_code)]

mod diet;
mod routes;

use crate::{
    cpu::filter,
    devices::generation::{Generation, GenerationError},
    irq::{Mapping, Msi, Platform, PlatformError, Power, Route},
    layout::{GENERATION, IOAPIC_PINS, KVM_IDENTITY, KVM_TSS, Region},
    memory::Memory,
    vcpu::{Gate, Outcome},
};
pub use diet::give_back;
use kvm_bindings::{
    KVM_API_VERSION, KVM_IRQFD_FLAG_DEASSIGN, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_ioeventfd,
    kvm_ioeventfd_flag_nr_datamatch, kvm_ioeventfd_flag_nr_deassign, kvm_irqfd, kvm_pit_config,
    kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use routes::{message, pins};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
    process::Pid,
};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    ptr::null_mut,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use vmm_sys_util::ioctl::ioctl_with_ref;

/// Requests that have no call of their own, or none for descriptors that somebody else holds.
mod request {
    #![allow(unreachable_pub, missing_docs, reason = "made by a macro")]
    vmm_sys_util::ioctl_iow_nr!(KVM_IRQFD, kvm_bindings::KVMIO, 0x76, kvm_bindings::kvm_irqfd);
    vmm_sys_util::ioctl_iow_nr!(KVM_IOEVENTFD, kvm_bindings::KVMIO, 0x79, kvm_bindings::kvm_ioeventfd);
}

/// Most message routes of one machine: 31 slots with 33 vectors each fit.
const MAX_ROUTES: u32 = 1024;
/// Most mappings of cards' files.
const MAX_SHARED: u32 = 256;
/// The first memory slot of shared files; those of guest memory come before.
const FIRST_SHARED: u32 = 8;
const PAGE: u64 = 4096;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The descriptor is no `/dev/kvm` of a usable version.
    #[error("the descriptor is no /dev/kvm of version {KVM_API_VERSION}")]
    NoKvm,
    /// The kernel refused.
    #[error("the system refused to {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        error: kvm_ioctls::Error,
    },
    /// The generation id.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// More processors than this KVM has for one machine.
    #[error("KVM has at most {0} processors for one machine")]
    Processors(usize),
}

/// Says what was tried.
pub(crate) trait Tried<T> {
    /// Turns the kernel's answer into an error that says `what` was tried.
    fn tried(self, what: &'static str) -> Result<T, VmError>;
}

impl<T> Tried<T> for Result<T, kvm_ioctls::Error> {
    fn tried(self, what: &'static str) -> Result<T, VmError> {
        self.map_err(|error| VmError::System { what, error })
    }
}

/// `/dev/kvm`, from a descriptor of it.
pub fn kvm(device: OwnedFd) -> Result<Kvm, VmError> {
    // SAFETY: the descriptor is owned and given away here.
    let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
    if kvm.get_api_version() == i32::try_from(KVM_API_VERSION).unwrap_or(i32::MAX) {
        Ok(kvm)
    } else {
        Err(VmError::NoKvm)
    }
}

/// One virtual machine in the kernel.
pub struct Vm {
    fd: VmFd,
    routes: Mutex<BTreeMap<u32, Bound>>,
    shared: Mutex<BTreeMap<u32, Shared>>,
    gate: Arc<Gate>,
    /// The slots point into these: dropped after `fd`.
    generation: Generation,
    _memory: Arc<Memory>,
}

struct Bound {
    eventfd: Arc<OwnedFd>,
    message: Option<Msi>,
}

struct Shared {
    address: u64,
    host: *mut c_void,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and no code of this process touches its bytes.
unsafe impl Send for Shared {}

impl Vm {
    /// A machine with `memory`, interrupt chips and timers, and no processor yet. From its first moment its guest reaches
    /// only the model-specific registers that are promised.
    pub fn new(kvm: &Kvm, memory: Arc<Memory>, gate: Arc<Gate>) -> Result<Self, VmError> {
        let fd = kvm.create_vm().tried("make a machine")?;
        filter(&fd)?;
        let tss = usize::try_from(KVM_TSS).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).tried("place its task state")?;
        if kvm.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(KVM_IDENTITY).tried("place its identity map")?;
        }
        let generation = Generation::new()?;
        let page = Region { guest: GENERATION.start, len: GENERATION.end - GENERATION.start, offset: 0 };
        let ram = memory.regions().iter().map(|region| (region, memory.host(region)));
        // All of it before there are interrupt chips: what comes right after them waits some milliseconds for these.
        for (slot, (region, host)) in (0..).zip(ram.chain([(&page, generation.host())])) {
            let userspace_addr =
                host.ok_or(kvm_ioctls::Error::new(Errno::FAULT.raw_os_error())).tried("find guest memory")?;
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.guest,
                memory_size: region.len,
                userspace_addr,
            };
            // SAFETY: it is mapped in this process as long as `memory` and `generation`, which outlive `fd`; nothing but
            // raw pointers and atomics reaches its bytes.
            unsafe { fd.set_user_memory_region(slot) }.tried("take memory")?;
        }
        fd.create_irq_chip().tried("make interrupt chips")?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).tried("make a timer")?;
        let vm = Self {
            fd,
            routes: Mutex::default(),
            shared: Mutex::default(),
            gate,
            generation,
            _memory: memory,
        };
        // The kernel's own first table has the old interrupt chips in it.
        vm.set_routes(&vm.routes()).tried("route interrupts")?;
        Ok(vm)
    }

    /// The machine's descriptor, for processors and state.
    pub(crate) fn fd(&self) -> &VmFd {
        &self.fd
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<u32, Bound>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the kernel the whole table anew: that is its interface.
    fn set_routes(&self, routes: &BTreeMap<u32, Bound>) -> Result<(), kvm_ioctls::Error> {
        let messages = routes.iter().filter_map(|(gsi, bound)| Some(message(*gsi, bound.message?)));
        let entries: Vec<_> = pins().chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| kvm_ioctls::Error::new(Errno::NOMEM.raw_os_error()))?;
        self.fd.set_gsi_routing(&table)
    }

    /// Makes `bound`'s message be what the kernel does on a signal. Unwatched while the message changes, so that no
    /// signal is lost: it waits in the eventfd, which the kernel looks at when it begins to watch.
    fn rebind(
        &self,
        routes: &mut BTreeMap<u32, Bound>,
        gsi: u32,
        message: Option<Msi>,
    ) -> Result<(), PlatformError> {
        let Some(bound) = routes.get_mut(&gsi) else { return Ok(()) };
        let before = bound.message;
        if before == message {
            return Ok(());
        }
        if before.is_some() {
            self.watch(&bound.eventfd, gsi, false)?;
        }
        bound.message = message;
        if message.is_some() {
            self.set_routes(routes).map_err(system)?;
            let Some(bound) = routes.get(&gsi) else { return Ok(()) };
            self.watch(&bound.eventfd, gsi, true)?;
        }
        Ok(())
    }

    /// Lets the kernel watch an eventfd, or no longer.
    fn watch(&self, eventfd: &OwnedFd, gsi: u32, on: bool) -> Result<(), PlatformError> {
        let flags = if on { 0 } else { KVM_IRQFD_FLAG_DEASSIGN };
        let fd = u32::try_from(eventfd.as_raw_fd()).unwrap_or(u32::MAX);
        let request = kvm_irqfd { fd, gsi, flags, ..Default::default() };
        // SAFETY: the kernel reads one `kvm_irqfd` there and keeps no pointer.
        said(unsafe { ioctl_with_ref(&self.fd, request::KVM_IRQFD(), &request) })
    }

    fn shared(&self) -> MutexGuard<'_, BTreeMap<u32, Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platform for Vm {
    fn line(&self, gsi: u32, level: bool) {
        if let Err(error) = self.fd.set_irq_line(gsi, level) {
            tracing::warn!(gsi, %error, "an interrupt line did not change");
        }
    }

    fn bind_msi(&self, eventfd: Arc<OwnedFd>, message: Option<Msi>) -> Result<Route, PlatformError> {
        let mut routes = self.routes();
        let gsi = (IOAPIC_PINS..IOAPIC_PINS + MAX_ROUTES)
            .find(|gsi| !routes.contains_key(gsi))
            .ok_or(PlatformError::Full)?;
        routes.insert(gsi, Bound { eventfd, message: None });
        if let Err(error) = self.rebind(&mut routes, gsi, message) {
            routes.remove(&gsi);
            return Err(error);
        }
        Ok(Route(gsi))
    }

    fn update_msi(&self, route: &Route, message: Option<Msi>) -> Result<(), PlatformError> {
        self.rebind(&mut self.routes(), route.0, message)
    }

    fn unbind_msi(&self, route: Route) {
        let mut routes = self.routes();
        if let Err(error) = self.rebind(&mut routes, route.0, None) {
            tracing::warn!(%error, "an interrupt route did not go away");
        }
        routes.remove(&route.0);
    }

    fn doorbell(
        &self,
        address: u64,
        len: u8,
        value: Option<u64>,
        eventfd: BorrowedFd<'_>,
        on: bool,
    ) -> Result<(), PlatformError> {
        let fits = value.is_none_or(|value| len > 0 && (len > 7 || value >> (8 * len) == 0));
        if !matches!(len, 0 | 1 | 2 | 4 | 8) || !fits {
            return Err(PlatformError::Range);
        }
        let flag = |on: bool, number: u32| u32::from(on) << number;
        let request = kvm_ioeventfd {
            datamatch: value.unwrap_or_default(),
            addr: address,
            len: len.into(),
            fd: eventfd.as_raw_fd(),
            flags: flag(value.is_some(), kvm_ioeventfd_flag_nr_datamatch)
                | flag(!on, kvm_ioeventfd_flag_nr_deassign),
            ..Default::default()
        };
        // Not by `register_ioevent`: that has no doorbell of a certain length and any value, and KVM does not find one
        // of any length that begins where one of a certain length ends.
        // SAFETY: the kernel reads one `kvm_ioeventfd` there and keeps no pointer.
        said(unsafe { ioctl_with_ref(&self.fd, request::KVM_IOEVENTFD(), &request) })
    }

    fn map_shared(
        &self,
        address: u64,
        len: u64,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<Mapping, PlatformError> {
        let aligned = |value: u64| value.is_multiple_of(PAGE);
        let whole = aligned(address) && aligned(len) && aligned(offset);
        if len == 0 || !whole || offset.checked_add(len).is_none() {
            return Err(PlatformError::Range);
        }
        let mut shared = self.shared();
        let id = (0..MAX_SHARED).find(|id| !shared.contains_key(id)).ok_or(PlatformError::Full)?;
        let bytes = usize::try_from(len).map_err(|_| PlatformError::Range)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let host =
            unsafe { mmap(null_mut(), bytes, access, MapFlags::SHARED, file, offset) }.map_err(errno)?;
        let mapping = Shared { address, host, len: bytes };
        let set = self.set_shared(id, &mapping, len);
        shared.insert(id, mapping);
        if let Err(error) = set {
            drop(shared);
            self.unmap_shared(Mapping(id));
            let taken = error.errno() == Errno::EXIST.raw_os_error();
            return Err(if taken { PlatformError::Range } else { system(error) });
        }
        Ok(Mapping(id))
    }

    fn unmap_shared(&self, mapping: Mapping) {
        let mut shared = self.shared();
        let Some(mapped) = shared.remove(&mapping.0) else { return };
        // A slot that was never set answers with an error, which changes nothing.
        let _ = self.set_shared(mapping.0, &mapped, 0);
        // SAFETY: exactly what `mmap` gave, and the slot that pointed to it is gone.
        let _ = unsafe { munmap(mapped.host, mapped.len) };
    }

    fn generation(&self, id: [u8; 16]) {
        self.generation.set(id);
    }

    fn power(&self, power: Power) {
        self.gate.stop(match power {
            Power::Off => Outcome::Off,
            Power::Reset => Outcome::Reset,
        });
    }
}

impl Vm {
    fn set_shared(&self, id: u32, mapping: &Shared, len: u64) -> Result<(), kvm_ioctls::Error> {
        let slot = kvm_userspace_memory_region {
            slot: FIRST_SHARED + id,
            flags: 0,
            guest_phys_addr: mapping.address,
            memory_size: len,
            userspace_addr: mapping.host.addr() as u64,
        };
        // SAFETY: the mapping stays until the slot is set to length 0, and nothing of this process touches it.
        unsafe { self.fd.set_user_memory_region(slot) }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let ids: Vec<u32> = self.shared().keys().copied().collect();
        for id in ids {
            self.unmap_shared(Mapping(id));
        }
    }
}

/// A port access that a processor waits for: string instructions repeat it.
pub(crate) struct PortAccess<'a> {
    /// The port.
    pub(crate) port: u16,
    /// Bytes of each access: 1, 2 or 4.
    pub(crate) size: usize,
    /// What is written, or is to be read, `size` bytes each time.
    pub(crate) data: &'a mut [u8],
}

/// The port access behind the exit that `vcpu` has just made, which must be one. `run_size`: of its shared page(s).
pub(crate) fn port_access(vcpu: &mut VcpuFd, run_size: usize) -> Option<PortAccess<'_>> {
    let run = vcpu.get_kvm_run();
    // SAFETY: plain numbers; any bits are valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let (size, count) = (usize::from(io.size), usize::try_from(io.count).ok()?);
    let (offset, len) = (usize::try_from(io.data_offset).ok()?, size.checked_mul(count)?);
    if size == 0 || offset < size_of_val(run) || offset.checked_add(len)? > run_size {
        return None;
    }
    let base: *mut u8 = (&raw mut *run).cast();
    // SAFETY: `len` bytes from there lie in the mapping of `run_size` bytes at whose start `run` is, and outside of `run`;
    // the borrow of `vcpu` keeps it from running, so nobody else writes there.
    let data = unsafe { std::slice::from_raw_parts_mut(base.wrapping_add(offset), len) };
    Some(PortAccess { port: io.port, size, data })
}

/// Sets a processor's extended registers.
pub(crate) fn set_xsave(vcpu: &VcpuFd, state: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the kernel reads beyond the structure only for features that this process would have had to ask for
    // (arch_prctl), and it asks for none.
    unsafe { vcpu.set_xsave(state) }
}

/// Sends a signal to a thread of this process, by one call: the C library's function makes four.
pub(crate) fn signal(process: Pid, thread: Pid, signal: i32) {
    let (process, thread) = (process.as_raw_nonzero().get(), thread.as_raw_nonzero().get());
    // SAFETY: numbers only. The worst that can be hit is another thread of this process, whose handler does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
}

/// Lets all threads share one heap: further ones grow by calls that are given up. What is larger than most things has
/// mappings of its own, which go when it goes.
pub fn share_heap() {
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 32 << 10)] {
        // SAFETY: a number for the C library's allocator; called before there are threads. It refuses no such number.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Ends the process without taking anything apart: the standard library's way out takes calls that are given up.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process and touches no memory.
    unsafe { libc::_exit(status) }
}

/// What a request was answered with.
fn said(answer: i32) -> Result<(), PlatformError> {
    if answer == 0 { Ok(()) } else { Err(system(kvm_ioctls::Error::last())) }
}

fn system(error: kvm_ioctls::Error) -> PlatformError {
    PlatformError::System(error.errno())
}

fn errno(error: Errno) -> PlatformError {
    PlatformError::System(error.raw_os_error())
}
