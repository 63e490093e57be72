//! Instances that share this host: one hypervisor process each, on the cores and the memory that [`placement`] gives
//! it, with the accelerators of its type. What placement decides is carried out here, one action after the other,
//! under one lock; a machine is built outside of it, so that nobody else's turn waits for that.

pub mod accelerators;
mod books;
mod launcher;
mod machine;
pub mod setup;
mod topology;

pub use launcher::Launcher;
pub use machine::Machine;
pub use topology::{Share, share};

use crate::Refusal;
use accelerators::{Accelerators, FIRST_SLOT, Held};
use books::{Books, Entry};
use ids::{InstanceId, Slot};
use instance_types::InstanceType;
use placement::{Mode, Placement, PlacementError, Vcpu};
use sandbox::Violation;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use wire::{
    Fault, Link,
    hypervisor::{Create, Instructions, Isolation, Measurement},
};

/// Longest sleep between two looks at whose turn it is.
const LONGEST: Duration = Duration::from_secs(1);

/// What every machine here is made from. Measured when the host booted, and sealed.
#[derive(Debug)]
pub struct Source {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initial RAM disk.
    pub initrd: Option<OwnedFd>,
    /// The kernel's command line.
    pub command_line: String,
}

/// What is asked for.
#[derive(Debug)]
pub struct Order {
    /// For which instance.
    pub instance: InstanceId,
    /// Its type.
    pub kind: &'static InstanceType,
    /// What happens when a burstable one has no credits left; without it, the type's default.
    pub mode: Option<Mode>,
    /// The tenant's public key, to which the console is sealed.
    pub console_key: Option<Vec<u8>>,
}

/// Functions of a machine: slots, and sockets to cards.
pub type Functions = Vec<(Slot, OwnedFd)>;

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest switched itself off.
    Off,
    /// The guest asked for a reset: [`Hypervisors::restart`].
    Reset,
    /// A processor could not go on, or the machine did not stand still for the next one's turn.
    Failed,
    /// Its process is gone; perhaps for a call that its sandbox forbids.
    Gone(Option<Violation>),
}

/// All machines of this host.
#[derive(Debug)]
pub struct Hypervisors {
    source: Source,
    weaknesses: Vec<Fault>,
    threads: u64,
    reserved: bool,
    books: Mutex<Books>,
    changed: Condvar,
    begun: Instant,
}

impl Hypervisors {
    /// Asks a hypervisor that has no machine what keeps tenants apart here.
    pub fn probe(launcher: &mut Launcher) -> Result<Isolation, Refusal> {
        let gone = |_| Refusal::of("hypervisor.gone");
        let (ours, theirs) = Link::pair().map_err(gone)?;
        let (theirs, nobody) = (OwnedFd::from(theirs), InstanceId::from_random(0));
        launcher.start(&nobody, theirs.as_fd())?;
        drop(theirs);
        let mut machine = Machine::new(ours)?;
        let isolation = machine.isolation();
        // It ends by itself when its socket is closed; either way it is gone when the launcher says so.
        drop(machine);
        launcher.end(&nobody)?;
        isolation
    }

    /// A host on which nothing runs. `weaknesses` are told with every instance.
    pub fn new(
        source: Source,
        share: Share,
        launcher: Launcher,
        accelerators: Accelerators,
        mut weaknesses: Vec<Fault>,
    ) -> Result<Self, Refusal> {
        let reserved = share.reserved;
        if !reserved {
            weaknesses.push(Fault::new(
                "memory.not-reserved",
                "guest memory is not set aside in large pages: give the controller --guest-memory",
            ));
        }
        let cores = share.instances.nodes.iter().flat_map(|node| &node.cores);
        let threads = cores.map(|core| core.cpus.len() as u64).max().unwrap_or(1);
        let placement = Placement::new(share.instances).map_err(refusal)?;
        let (entries, stopped, consoles) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let books = Mutex::new(Books { placement, entries, launcher, accelerators, stopped, consoles });
        Ok(Self {
            source,
            weaknesses,
            threads,
            reserved,
            books,
            changed: Condvar::new(),
            begun: Instant::now(),
        })
    }

    /// What is missing to keep tenants apart.
    pub fn weaknesses(&self) -> &[Fault] {
        &self.weaknesses
    }

    /// Threads of a core.
    pub fn threads_per_core(&self) -> u64 {
        self.threads
    }

    /// Cores and bytes that nobody has.
    pub fn room(&self) -> (u64, u64) {
        let books = self.lock();
        (books.placement.free_cores(), books.placement.free_bytes())
    }

    /// How many accelerators there are in each family, and how many of them nobody has.
    pub fn accelerators(&self) -> Vec<(&'static str, usize, usize)> {
        self.lock().accelerators.room()
    }

    /// Whether the launcher is there.
    pub fn is_there(&self) -> bool {
        self.lock().launcher.is_there()
    }

    /// Places and builds a machine with its functions. A fixed one runs at once, a burstable one in its turn.
    pub fn start(&self, order: Order, functions: Functions) -> Result<Measurement, Refusal> {
        let instance = order.instance.clone();
        let (create, accelerators) = self.place(order)?;
        let built = self.build(&create, &accelerators, functions);
        let mut books = self.lock();
        let result = built.and_then(|(machine, measurement)| books.settle(&instance, machine, measurement));
        if result.is_err() {
            books.release(self.now(), &instance);
        }
        self.changed.notify_all();
        result
    }

    fn place(&self, order: Order) -> Result<(Create, Held), Refusal> {
        let Order { instance, kind, mode, console_key } = order;
        let now = self.now();
        let mut books = self.lock();
        let accelerators = books.accelerators.take(kind)?;
        let carried = books.carried(&instance, now);
        let request = kind.request(mode, carried).ok_or_else(|| Refusal::of("instance.class"))?;
        let actions = match books.place(now, &instance, &request) {
            Ok(actions) => actions,
            Err(error) => {
                books.accelerators.give_back(kind, accelerators);
                return Err(refusal(error));
            }
        };
        let vcpus = books.placement.vcpus(&instance).unwrap_or_default();
        let create = Create {
            instance: instance.clone(),
            instance_type: kind.name.to_owned(),
            cpus: u8::try_from(vcpus.len()).unwrap_or(u8::MAX),
            threads_per_core: threads_per_core(&vcpus),
            pins: vcpus.iter().filter_map(|vcpu| u16::try_from(vcpu.cpu).ok()).collect(),
            memory_mib: kind.memory_mib,
            command_line: self.source.command_line.clone(),
            console_key,
            passthrough: !accelerators.is_empty(),
            instructions: instructions(kind),
            reserved: self.reserved,
        };
        books.forget(&instance);
        books.entries.insert(instance, Entry::new(kind, create.clone(), accelerators.clone(), now));
        books.carry_out(now, actions);
        Ok((create, accelerators))
    }

    /// A process with a machine that stands still. It reserves the memory and pins the processors.
    fn build(
        &self,
        create: &Create,
        accelerators: &Held,
        functions: Functions,
    ) -> Result<(Machine, Measurement), Refusal> {
        let gone = |_| Refusal::of("hypervisor.gone");
        let (ours, theirs) = Link::pair().map_err(gone)?;
        let theirs = OwnedFd::from(theirs);
        self.lock().launcher.start(&create.instance, theirs.as_fd())?;
        drop(theirs);
        let mut machine = Machine::new(ours)?;
        let Source { kvm, kernel, initrd, .. } = &self.source;
        let fds: Vec<_> = [kvm, kernel].into_iter().chain(initrd).map(AsFd::as_fd).collect();
        let measurement = machine.create(create.clone(), &fds)?;
        for (accelerator, slot) in accelerators.iter().zip((0..=FIRST_SLOT).rev()) {
            machine.pass_through(slot, &accelerators::connect(&**accelerator)?)?;
        }
        machine.built()?;
        for (slot, function) in functions {
            machine.attach(slot, function.as_fd())?;
        }
        Ok((machine, measurement))
    }

    /// A fresh process for a machine that ended with [`End::Reset`].
    pub fn restart(&self, instance: &InstanceId, functions: Functions) -> Result<(), Refusal> {
        let (create, accelerators) = match self.lock().entries.get(instance) {
            Some(entry) if entry.machine.is_none() => (entry.create.clone(), entry.accelerators.clone()),
            _ => return Err(Refusal::of("instance.unknown")),
        };
        let built = self.build(&create, &accelerators, functions);
        let mut books = self.lock();
        let result = built.and_then(|(machine, measurement)| books.settle(instance, machine, measurement));
        if result.is_err() {
            books.release(self.now(), instance);
        }
        result.map(drop)
    }

    /// Ends a machine, and returns when its process is gone.
    pub fn stop(&self, instance: &InstanceId) {
        self.lock().release(self.now(), instance);
        self.changed.notify_all();
    }

    /// Whether there is such a machine.
    pub fn has(&self, instance: &InstanceId) -> bool {
        self.lock().entries.contains_key(instance)
    }

    /// Asks one machine.
    pub fn ask<T>(
        &self,
        instance: &InstanceId,
        ask: impl FnOnce(&mut Machine) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut books = self.lock();
        let entry = books.entries.get_mut(instance).ok_or_else(|| Refusal::of("hypervisor.absent"))?;
        ask(entry.machine.as_mut().ok_or_else(|| Refusal::of("instance.changing"))?)
    }

    /// Console output from byte `after` on, sealed to the tenant, and where the next read goes on; also of an
    /// instance that has ended, as long as few others have ended since.
    pub fn read_console(&self, instance: &InstanceId, after: u64) -> Result<(u64, Vec<u8>), Refusal> {
        if let Some((_, pieces)) = self.lock().consoles.get(instance) {
            let piece = pieces.iter().find(|(end, _)| *end > after);
            return Ok(piece.cloned().unwrap_or((after, Vec::new())));
        }
        self.ask(instance, |machine| machine.read_console(after))
    }

    /// What a machine was started from, and thousandths of the credits that it has, if it is burstable.
    pub fn describe(&self, instance: &InstanceId) -> (Option<Measurement>, Option<u64>) {
        let books = self.lock();
        let measurement = books.entries.get(instance).and_then(|entry| entry.measurement.clone());
        (measurement, books.placement.credits(instance).map(placement::Credits::balance))
    }

    /// Machines that came to their end since the last look. What they had is free again, unless they restart.
    pub fn look(&self) -> Vec<(InstanceId, End)> {
        let now = self.now();
        let mut books = self.lock();
        let ends: Vec<_> = books
            .entries
            .iter_mut()
            .filter_map(|(instance, entry)| Some((instance.clone(), entry.end()?)))
            .collect();
        let told = ends.into_iter().map(|(instance, end)| {
            let violation = match end {
                End::Reset => books.take_apart(&instance),
                _ => books.release(now, &instance),
            };
            let end = if matches!(end, End::Gone(_)) { End::Gone(violation) } else { end };
            (instance, end)
        });
        told.collect()
    }

    /// Passes turns on until `stop` says so; meant for a thread of its own.
    pub fn take_turns(&self, stop: impl Fn() -> bool) {
        while !stop() {
            let mut books = self.lock();
            let now = self.now();
            let reports = books.reports(now);
            let actions = books.placement.tick(now, &reports);
            books.carry_out(now, actions);
            let next = books.next(now).map_or(LONGEST, |at| Duration::from_micros(at.saturating_sub(now)));
            // Woken early or late, it looks again.
            drop(self.changed.wait_timeout(books, next.min(LONGEST)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn instructions(kind: &InstanceType) -> Instructions {
    match kind.instructions() {
        instance_types::Instructions::Avx2 => Instructions::Avx2,
        instance_types::Instructions::Avx512 => Instructions::Avx512,
        instance_types::Instructions::All => Instructions::All,
    }
}

/// The guest is told the truth: two threads of a core only where it has both.
fn threads_per_core(vcpus: &[Vcpu]) -> u8 {
    let pairs = vcpus.chunks(2).all(|pair| match pair {
        [one, other] => (one.node, one.core) == (other.node, other.core),
        _ => false,
    });
    if pairs && !vcpus.is_empty() { 2 } else { 1 }
}

fn refusal(error: PlacementError) -> Refusal {
    Refusal::of(match error {
        PlacementError::Cores => "placement.cores",
        PlacementError::Memory => "placement.memory",
        PlacementError::Placed => "instance.exists",
        PlacementError::Type | PlacementError::MemorySize => "placement.type",
        PlacementError::Unknown => "instance.unknown",
        PlacementError::Topology => "host.failed",
    })
}

#[cfg(test)]
mod tests;
