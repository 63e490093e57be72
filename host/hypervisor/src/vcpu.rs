//! Virtual processors: one thread each, and the gate at which all of them stand while the machine is paused.

use crate::{
    bus::Bus,
    stats::Exits,
    vm::{Tried, Vm, VmError, port_access, signal},
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::{
    event::Timespec,
    io::Errno,
    process::{Pid, getpid},
    thread::{CpuSet, futex, gettid, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    mem::ManuallyDrop,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// How long a kick may take until the next one: a signal that comes just before the processor enters the guest is
/// lost.
const KICK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Each processor's thread: exits are handled in shallow calls.
const STACK: usize = 256 << 10;

/// This process; first looked at before it gives up asking.
pub(crate) static PROCESS: LazyLock<Pid> = LazyLock::new(getpid);

/// Why the machine will not run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest turned itself off.
    Off,
    /// The guest asked for a reset, or faulted three times.
    Reset,
    /// A processor cannot go on: KVM's exit reason, or the negative error number of `KVM_RUN`.
    Failed(i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Stand,
    Run,
    Leave,
}

struct Inner {
    want: Want,
    standing: usize,
    threads: Vec<JoinHandle<()>>,
    /// The threads that have begun, as the kernel calls them.
    begun: Vec<Pid>,
    outcome: Option<Outcome>,
}

/// Where the processors stand while they must not run.
pub struct Gate {
    inner: Mutex<Inner>,
    /// Counts changes; a futex, because waiting for a condition with a time limit asks for the time.
    changes: AtomicU32,
    /// A copy of `want == Run` that is read before every entry into the guest.
    open: AtomicBool,
}

impl Default for Gate {
    fn default() -> Self {
        let (threads, begun) = (Vec::new(), Vec::new());
        let inner = Inner { want: Want::Stand, standing: 0, threads, begun, outcome: None };
        Self { inner: Mutex::new(inner), changes: AtomicU32::new(0), open: AtomicBool::new(false) }
    }
}

impl Gate {
    /// Opens the gate, unless the machine has come to its end. Returns whether it is open.
    pub fn open(&self) -> bool {
        let mut inner = self.inner();
        if inner.outcome.is_none() && inner.want != Want::Leave {
            self.set(&mut inner, Want::Run);
        }
        inner.want == Want::Run
    }

    /// Closes the gate and returns when all processors stand at it.
    pub fn close(&self) {
        let mut inner = self.inner();
        if inner.want == Want::Run {
            self.set(&mut inner, Want::Stand);
        }
        while inner.standing < inner.threads.len() {
            inner = self.wait(inner);
        }
    }

    /// Ends the machine: no processor enters the guest again. Does not wait. The first outcome counts.
    pub fn stop(&self, outcome: Outcome) {
        let mut inner = self.inner();
        inner.outcome.get_or_insert(outcome);
        if inner.want == Want::Run {
            self.set(&mut inner, Want::Stand);
        }
    }

    /// How the machine ended, if it did.
    pub fn outcome(&self) -> Option<Outcome> {
        self.inner().outcome
    }

    /// Whether the processors may run.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Lets all threads end, and waits for it.
    fn leave(&self) {
        self.close();
        let mut inner = self.inner();
        self.set(&mut inner, Want::Leave);
        let threads = std::mem::take(&mut inner.threads);
        drop(inner);
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// A processor stands here until it may run; `false`: it is to leave.
    fn pass(&self) -> bool {
        let mut inner = self.inner();
        inner.standing += 1;
        self.tell();
        while inner.want == Want::Stand {
            inner = self.wait(inner);
        }
        inner.standing -= 1;
        inner.want == Want::Run
    }

    /// Waits for a change. While somebody who should stand still runs, whoever waits kicks again and again.
    fn wait<'a>(&'a self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let runs = inner.want == Want::Stand && inner.standing < inner.threads.len();
        if runs {
            kick(&inner);
        }
        let seen = self.changes.load(Ordering::Relaxed);
        drop(inner);
        let limit = runs.then_some(&KICK_AGAIN);
        // Every answer means the same: look again.
        let _ = futex::wait(&self.changes, futex::Flags::PRIVATE, seen, limit);
        self.inner()
    }

    /// Wakes everybody who waits; to be called with `inner` held.
    fn tell(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        // An error means that nobody waits.
        let _ = futex::wake(&self.changes, futex::Flags::PRIVATE, u32::MAX >> 1);
    }

    fn set(&self, inner: &mut Inner, want: Want) {
        inner.want = want;
        self.open.store(want == Want::Run, Ordering::Release);
        self.tell();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever stands at the gate already is woken once for nothing.
fn kick(inner: &Inner) {
    for thread in &inner.begun {
        signal(*PROCESS, *thread, SIGRTMIN());
    }
}

extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut std::ffi::c_void) {}

/// One virtual processor.
pub struct Vcpu {
    fd: VcpuFd,
    run_size: usize,
}

impl Vcpu {
    /// Processor number `id` of `vm`.
    pub fn new(vm: &Vm, id: u8) -> Result<Self, VmError> {
        let fd = vm.fd().create_vcpu(id.into()).tried("make a processor")?;
        Ok(Self { fd, run_size: vm.fd().run_size() })
    }

    /// Its descriptor, for boot and state.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Runs until the next exit and handles it.
    fn step(&mut self, buses: &Buses, exits: &Exits) -> Result<(), Outcome> {
        let reason = |fd: &mut VcpuFd| i32::try_from(fd.get_kvm_run().exit_reason).unwrap_or(i32::MAX);
        let exit = self.fd.run();
        let begin = now();
        match exit {
            Ok(VcpuExit::MmioRead(address, data)) => {
                exits.mmio_read.add();
                buses.mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                exits.mmio_write.add();
                buses.mmio.write(address, data);
            }
            Ok(VcpuExit::IoIn(..)) => {
                exits.port_in.add();
                let access = port_access(&mut self.fd, self.run_size).ok_or(Outcome::Failed(0))?;
                for data in access.data.chunks_mut(access.size) {
                    buses.pio.read(access.port.into(), data);
                }
            }
            Ok(VcpuExit::IoOut(..)) => {
                exits.port_out.add();
                let access = port_access(&mut self.fd, self.run_size).ok_or(Outcome::Failed(0))?;
                for data in access.data.chunks(access.size) {
                    buses.pio.write(access.port.into(), data);
                }
            }
            Ok(VcpuExit::Shutdown) => return Err(Outcome::Reset),
            Ok(VcpuExit::Hlt) => exits.halt.add(),
            Ok(VcpuExit::Intr) => exits.interrupted.add(),
            Ok(_) => {
                exits.other.add();
                return Err(Outcome::Failed(reason(&mut self.fd)));
            }
            // EAGAIN: a processor that waits for its start-up message was woken for something else.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => exits.interrupted.add(),
            Err(error) => return Err(Outcome::Failed(-error.errno())),
        }
        exits.wait_ns.add_time(now().saturating_sub(begin));
        Ok(())
    }

    /// Lets the kernel finish the access that the last exit was for, without running on.
    fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
        // So that the guest takes the pause for no hang; guests without kvm-clock cannot be told.
        let _ = self.fd.kvmclock_ctrl();
    }
}

/// What exits are answered by.
pub struct Buses {
    /// Ports.
    pub pio: Arc<Bus>,
    /// Memory-mapped registers.
    pub mmio: Arc<Bus>,
}

/// The processors of one machine.
pub struct Processors {
    gate: Arc<Gate>,
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    exits: Vec<Arc<Exits>>,
}

impl Processors {
    /// Starts a thread for each processor, on the host processor that `pins` names for it, if any; the caller's thread
    /// stays on these too. Returns when all stand at the gate. After an error threads may be left there for ever: to
    /// end them would take a call of its own.
    pub fn start(
        gate: Arc<Gate>,
        vcpus: Vec<Vcpu>,
        pins: &[u16],
        buses: &Arc<Buses>,
    ) -> Result<Self, VmError> {
        const PLACE: &str = "keep a processor on the host processor that was named for it";
        register_signal_handler(SIGRTMIN(), kicked).tried("hear signals")?;
        own(pins).map_err(|error| kvm_ioctls::Error::new(error.raw_os_error())).tried(PLACE)?;
        let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let exits: Vec<_> = vcpus.iter().map(|_| Arc::default()).collect();
        let processors = ManuallyDrop::new(Self { gate, vcpus, exits });
        for (number, (vcpu, exits)) in processors.vcpus.iter().zip(&processors.exits).enumerate() {
            let (gate, buses) = (Arc::clone(&processors.gate), Arc::clone(buses));
            let (vcpu, exits) = (Arc::clone(vcpu), Arc::clone(exits));
            let pin = pins.get(number).copied();
            let thread = Builder::new()
                .stack_size(STACK)
                .spawn(move || work(&gate, &vcpu, pin, &buses, &exits))
                .map_err(|error| kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EAGAIN)))
                .tried("start a processor's thread")?;
            processors.gate.inner().threads.push(thread);
        }
        processors.gate.close();
        match processors.gate.outcome() {
            Some(Outcome::Failed(error)) => Err(kvm_ioctls::Error::new(error.saturating_neg())).tried(PLACE),
            _ => Ok(ManuallyDrop::into_inner(processors)),
        }
    }

    /// The processors, which must stand at the gate: a running one holds its lock.
    pub fn vcpus(&self) -> &[Arc<Mutex<Vcpu>>] {
        &self.vcpus
    }

    /// Their counters.
    pub fn exits(&self) -> &[Arc<Exits>] {
        &self.exits
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

fn work(gate: &Gate, vcpu: &Mutex<Vcpu>, pin: Option<u16>, buses: &Buses, exits: &Exits) {
    if let Err(error) = pin.map_or(Ok(()), |pin| stay_on(&[pin])) {
        tracing::error!(pin, %error, "a processor has no place of its own");
        gate.stop(Outcome::Failed(-error.raw_os_error()));
    }
    exits.begin();
    gate.inner().begun.push(gettid());
    while gate.pass() {
        let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        while gate.is_open() {
            if let Err(outcome) = vcpu.step(buses, exits) {
                tracing::info!(?outcome, "a processor ends the machine");
                gate.stop(outcome);
            }
        }
        vcpu.settle();
    }
}

/// Binds this thread to the host processors of its machine, each of which must be there, so that it disturbs no other.
fn own(pins: &[u16]) -> Result<(), Errno> {
    pins.iter().try_for_each(|pin| stay_on(&[*pin]))?;
    if pins.is_empty() { Ok(()) } else { stay_on(pins) }
}

/// Binds this thread to some host processors.
fn stay_on(cpus: &[u16]) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for cpu in cpus.iter().map(|cpu| usize::from(*cpu)) {
        if cpu >= CpuSet::MAX_CPU {
            return Err(Errno::INVAL);
        }
        set.set(cpu);
    }
    sched_setaffinity(None, &set)
}

/// Time since some moment, in steps of some milliseconds: by a clock that takes no system call on any host. Sums of
/// differences are right on average.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::MonotonicCoarse)).unwrap_or_default()
}
