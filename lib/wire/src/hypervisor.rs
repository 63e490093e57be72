//! Controller to the hypervisor of one instance. The hypervisor answers and never starts a conversation.
//! Console content crosses sealed to the tenant's key; guest memory never crosses at all.

use crate::Fault;
use ids::InstanceId;
use serde::{Deserialize, Serialize};

/// Most bytes of one [`Reply::Console`] and [`Request::ConsoleWrite`].
pub const MAX_CONSOLE: usize = 32 * 1024;

/// What the controller asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Build the machine, paused at its first instruction. Descriptors: `/dev/kvm`, the kernel, and the initial
    /// RAM disk if there is one; the latter two sealed against change. Answered with [`Reply::Created`].
    Create(Box<Create>),
    /// Let the processors run: the first time, or after a pause.
    Resume,
    /// Stop the processors at their next instruction; answered when all of them stand still.
    Pause,
    /// End the machine and this process. Answered before the process ends.
    Stop,
    /// Put a function into a slot. Descriptor: the connected vfio-user socket. Running guests see a hot-plug.
    Attach {
        /// 1 to 31.
        slot: u8,
    },
    /// Put a function of the host's hardware into a slot of a machine made with [`Create::passthrough`]. Descriptors:
    /// the VFIO container (type 1, the function's IOMMU group in it, nothing mapped), and the function's own. They
    /// must be this process's alone. Its locked memory must be allowed to hold the guest's once more for each such
    /// function. Running guests see a hot-plug.
    Passthrough {
        /// 1 to 31.
        slot: u8,
    },
    /// Ask the guest to give a slot's function back, or with `force` take it away at once.
    Detach {
        /// 1 to 31.
        slot: u8,
        /// A surprise removal.
        force: bool,
    },
    /// Press the power button: the guest may shut itself down.
    PowerButton,
    /// Give a paused machine to another process. Descriptor: one end of a connected `SOCK_SEQPACKET` pair whose other
    /// end went with [`Request::StateIn`] *before* this: state that is longer than the socket's buffer waits for its
    /// reader. Memory and sockets of functions go there directly, not through the controller.
    StateOut {
        /// The machine stays here too, paused, and must have no functions; its memory is copied. Resume it when
        /// [`Request::StateIn`] is answered. The copy's guest sees a new generation id.
        copy: bool,
    },
    /// Take over a machine, paused. Descriptors: `/dev/kvm`, then the other end of the pair.
    StateIn,
    /// Numbers only. Answered with [`Reply::Statistics`].
    Statistics,
    /// What keeps tenants of this host apart. Answered with [`Reply::Isolation`], with and without a machine.
    Isolation,
    /// Console output from byte `after` on (counted from the machine's start). Answered with [`Reply::Console`].
    ConsoleRead {
        /// Bytes that the reader has already.
        after: u64,
    },
    /// Console input, sealed by the tenant.
    ConsoleWrite {
        /// At most [`MAX_CONSOLE`] bytes.
        #[serde(with = "crate::base64_bytes")]
        sealed: Vec<u8>,
    },
}

/// The parameters of [`Request::Create`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Which instance.
    pub instance: InstanceId,
    /// Its type, as the guest reads it: 1 to 32 printable ASCII bytes.
    pub instance_type: String,
    /// Virtual processors, 1 to 255.
    pub cpus: u8,
    /// Threads per core that the guest sees: 1 or 2, a divisor of `cpus`.
    pub threads_per_core: u8,
    /// The host processor of each virtual one, or empty: not pinned.
    pub pins: Vec<u16>,
    /// Memory in MiB, even.
    pub memory_mib: u64,
    /// The kernel's command line.
    pub command_line: String,
    /// The tenant's HPKE public key (X25519, 32 bytes), to which console output is sealed; none: no console is
    /// kept.
    pub console_key: Option<Vec<u8>>,
    /// Functions of the host's hardware may come ([`Request::Passthrough`]). A machine without gives up the system
    /// calls for them.
    pub passthrough: bool,
    /// Which vector instructions the guest may find.
    pub instructions: Instructions,
    /// Memory comes from the large pages that the host set aside, or the machine is not built. Otherwise small pages do
    /// where there are no large ones.
    pub reserved: bool,
}

/// The vector instructions that a guest finds at most, so that it finds the same on every host that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instructions {
    /// Up to AVX2.
    Avx2,
    /// Up to AVX-512, and no tiles (AMX).
    Avx512,
    /// All that the hypervisor promises at all.
    #[default]
    All,
}

/// What the hypervisor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// Done.
    Done,
    /// The machine is built.
    Created(Measurement),
    /// Numbers.
    Statistics(Box<Statistics>),
    /// What keeps tenants apart.
    Isolation(Isolation),
    /// Console output.
    Console {
        /// Where the next read goes on.
        next: u64,
        /// Sealed to the tenant's key; empty if there is nothing new.
        #[serde(with = "crate::base64_bytes")]
        sealed: Vec<u8>,
    },
    /// Refused or failed.
    Fault(Fault),
}

/// What was loaded: SHA-256 in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Of the kernel file.
    pub kernel: String,
    /// Of the initial RAM disk.
    pub initrd: Option<String>,
    /// Of the command line.
    pub command_line: String,
}

/// Whether the processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// They stand still; [`Request::Resume`] lets them run.
    Paused,
    /// They run.
    Running,
    /// The guest turned itself off.
    Off,
    /// The guest asked for a reset, or faulted three times: start a fresh process.
    Reset,
    /// A processor cannot go on; the number in [`Statistics::failed`] says why.
    Failed,
}

/// Numbers of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Whether it runs.
    pub state: State,
    /// Of a processor that failed: KVM's exit reason, or the negative error number of running it.
    pub failed: Option<i32>,
    /// One entry for each virtual processor.
    pub cpus: Vec<CpuStatistics>,
    /// PCI slots in use: a slot that is not here is empty, also when the guest has let go of its function.
    pub slots: Vec<SlotStatistics>,
}

/// One PCI slot in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotStatistics {
    /// 1 to 31.
    pub slot: u8,
    /// How it is used.
    pub state: SlotState,
}

/// How a PCI slot is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// A function is in it.
    Present,
    /// The guest was asked to let go of it and has not done so.
    Leaving,
    /// The card has gone; the guest was told and still holds on.
    Lost,
}

/// Numbers of one virtual processor, since its start in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuStatistics {
    /// Port reads.
    pub port_in: u64,
    /// Port writes.
    pub port_out: u64,
    /// Memory-mapped reads.
    pub mmio_read: u64,
    /// Memory-mapped writes.
    pub mmio_write: u64,
    /// Halts that left the kernel.
    pub halt: u64,
    /// Interrupted by this process: pauses.
    pub interrupted: u64,
    /// Anything else.
    pub other: u64,
    /// Time that it waited for a device's answer, in nanoseconds; counted in steps of the kernel's coarse clock, which is
    /// right on average.
    pub wait_ns: u64,
    /// Processor time of the thread, in nanoseconds, where the system says it.
    pub cpu_ns: Option<u64>,
    /// Time in which it could have run and did not, in nanoseconds.
    pub steal_ns: Option<u64>,
}

/// What goes from one hypervisor process to another, in this order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Parcel {
    /// First. Descriptor: the guest's memory.
    Header {
        /// Of everything that follows.
        version: u32,
        /// Bytes of state.
        state: u64,
        /// Sockets of functions.
        functions: u64,
        /// The receiver makes a copy of the memory.
        copy: bool,
    },
    /// Some bytes of the state; as many parcels as it takes.
    State {
        /// At most 32 KiB.
        #[serde(with = "crate::base64_bytes")]
        bytes: Vec<u8>,
    },
    /// Descriptors: the sockets of one to four functions; as many parcels as it takes.
    Functions,
}

/// What the host's processor and kernel offer to keep its tenants apart. The hypervisor makes use of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// Whether two threads of one core are in use.
    pub smt: bool,
    /// Whether threads can be told whom to share a core with.
    pub core_scheduling: bool,
    /// Flushing the L1 data cache when a thread leaves the processor.
    pub l1d_flush: Mitigation,
    /// Barring the predictors of one thread from another's (IBPB, STIBP).
    pub indirect_branch: Mitigation,
    /// Weaknesses that the kernel says are open, by its own names.
    pub vulnerable: Vec<String>,
    /// Why the host is not for production; empty: it is.
    pub refused: Vec<Fault>,
}

/// What the kernel says of one mitigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mitigation {
    /// The processor does not have the weakness.
    NotAffected,
    /// A thread can ask for it.
    Offered,
    /// It is on for everyone.
    Always,
    /// The processor or the kernel has none.
    Missing,
}
