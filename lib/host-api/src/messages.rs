//! The answers.

use crate::{
    AttestationKey, Code, DeviceName, Family, InstanceType, Label, LogHead, LogRecord, Pem, SealedConsole,
    Sentence, Sha256, SignedConfiguration, SignedManifest, SignedStatement, TpmStructure, datum::Listed,
    text::CardCertificate,
};
use ids::{HostId, InstanceId, Slot, VolumeId};

messages! {
    /// What the host is and does.
    HostStatus {
        /// The host.
        host: HostId,
        /// Whether it takes work. If not, it answers reads only.
        in_service: bool,
        /// Why it is out of service.
        out_of_service: Option<OutOfService>,
        /// Whether it takes no new volume and starts no instance.
        drained: bool,
        /// Number of the set of the token service's keys that it trusts; 0 for the one it was installed with.
        token_keys: u64,
        /// What the controller measured into the TPM, in order; replaying it gives the registers' values.
        measurements: Vec<Measured>,
        /// The registers' values, as the TPM gave them after the last measurement.
        registers: Vec<Register>,
        /// The release that the host runs.
        release: Option<ReleaseStatus>,
        /// The security chip.
        chip: Option<ChipStatus>,
        /// The main board.
        board: Option<BoardStatus>,
        /// The volume card.
        card: Option<CardStatus>,
        /// The host's certificate and those above it: who certifies the card.
        certificate: Pem,
        /// Volumes that are attached or were when their card failed.
        volumes: Vec<VolumeStatus>,
        /// Instances that were started.
        instances: Vec<InstanceStatus>,
        /// What runs instances beside each other; absent where only the main board runs one.
        hypervisor: Option<HypervisorStatus>,
        /// The host's log.
        log: LogStatus,
    }

    /// Why a host took itself out of service. Only a repaired host that boots anew comes back.
    OutOfService {
        /// Stable.
        code: Code,
        /// Which entry differs, and what to do.
        message: Sentence,
    }

    /// A register of the TPM.
    Register {
        /// Its number.
        pcr: u64,
        /// Its value.
        value: Sha256,
    }

    /// A release.
    ReleaseStatus {
        /// Its version, for people.
        version: Label,
        /// Its security version: the host goes back to none with a lower one.
        security_version: u64,
        /// What it is made for: production or non-production.
        environment: Label,
    }

    /// The images of the release that the host runs.
    FirmwareStatus {
        /// The release.
        release: Option<ReleaseStatus>,
        /// Its images.
        images: Vec<FirmwareImage>,
    }

    /// An image of a release.
    FirmwareImage {
        /// What it is: volume-card, hypervisor, mainboard-firmware.
        kind: Label,
        /// Its length in bytes.
        length: u64,
        /// Its hash.
        sha256: Sha256,
        /// Whether it is what it should be, in the store and in flash; absent if it was not read again. Those that
        /// start the host are read again at each start only.
        intact: Option<bool>,
    }

    /// One measurement.
    Measured {
        /// The register that was extended.
        pcr: u64,
        /// What was measured.
        what: Label,
        /// Its hash.
        sha256: Sha256,
    }

    /// What shows which host this is and what it runs (`attest::Evidence`).
    HostEvidence {
        /// `TPMS_ATTEST`: registers 8 to 12, for the nonce and the host's identity key.
        quote: TpmStructure,
        /// `TPMT_SIGNATURE` over it by the attestation key.
        signature: TpmStructure,
        /// The TPM's attestation key, `TPM2B_PUBLIC`.
        attestation_key: AttestationKey,
        /// What certifies that key: COSE_Sign1 by the environment's authority. Empty if there is none.
        attestation_certificate: AttestationKey,
        /// The host's certificate and those above it.
        certificate: Pem,
        /// What was measured, in order.
        events: Vec<Measured>,
        /// The signed manifest of the release. Empty if the host runs none.
        manifest: SignedManifest,
        /// The signed configuration. Empty if there is none.
        configuration: SignedConfiguration,
    }

    /// What proves that the host is no more (`attest::Erasure`).
    Erased {
        /// The certificate of erasure: COSE_Sign1 by the host's identity key.
        statement: SignedStatement,
        /// What its TPM says of that, after it was cleared.
        evidence: HostEvidence,
    }

    /// State of the security chip.
    ChipStatus {
        /// Whether it holds the main board in reset.
        reset_held: bool,
        /// Firmware writes by the main board that it refused since it started.
        refused_writes: u64,
        /// Hash of the main board's firmware when it was last measured.
        firmware: Sha256,
    }

    /// State of the main board.
    BoardStatus {
        /// Power and reset.
        power: Power,
        /// Occupied slots.
        slots: Vec<Slot>,
        /// What executes the guest.
        accelerator: Accelerator,
        /// Times that the board has started from its firmware.
        boots: u64,
    }

    /// The volume card.
    CardStatus {
        /// Hash of the image that it runs.
        image: Sha256,
        /// Certificate of its public key, made for this answer. Absent if the card is gone.
        certificate: Option<CardCertificate>,
    }

    /// What starts hypervisors, one for each instance.
    HypervisorStatus {
        /// Hash of the image that each of them runs.
        image: Sha256,
        /// The processors' virtualisation.
        virtualisation: Virtualisation,
        /// Threads of a core.
        threads_per_core: u64,
        /// Whole cores that no instance has or shares.
        free_cores: u64,
        /// Memory that no instance has, in MiB.
        free_memory_mib: u64,
        /// Accelerators, by family of instance types.
        accelerators: Vec<AcceleratorFamily>,
        /// What keeps tenants less apart than it should.
        weaknesses: Vec<Weakness>,
    }

    /// The accelerators of a family: functions of the host's hardware, each given to one instance.
    AcceleratorFamily {
        /// As the names of its instance types begin: `g4dn`.
        family: Family,
        /// How many there are.
        all: u64,
        /// How many of them no instance has.
        free: u64,
    }

    /// Something that is not as it should be.
    Weakness {
        /// Stable.
        code: Code,
        /// For people: what it means and what to do.
        message: Sentence,
    }

    /// State of an attached volume.
    VolumeStatus {
        /// The volume.
        volume: VolumeId,
        /// Whose it is; absent for the main board's.
        instance: Option<InstanceId>,
        /// Its slot on the main board or in the instance.
        slot: Slot,
        /// The device name that the tenant asked for.
        device_name: DeviceName,
        /// Size in bytes.
        size: u64,
        /// How far the guest has come.
        state: VolumeState,
        /// Read commands completed.
        reads: u64,
        /// Write commands completed.
        writes: u64,
        /// Commands that failed.
        errors: u64,
    }

    /// State of an instance.
    InstanceStatus {
        /// The instance.
        instance: InstanceId,
        /// Its root volume.
        root: VolumeId,
        /// Its type.
        instance_type: InstanceType,
        /// How far it has come.
        state: InstanceState,
        /// What its hypervisor loaded; absent on the main board.
        measurement: Option<InstanceMeasurement>,
        /// CPU credits that it can spend, in thousandths; absent for types that are not burstable.
        credits: Option<u64>,
        /// What keeps it less apart from others than it should.
        weaknesses: Vec<Weakness>,
    }

    /// What an instance started with.
    InstanceMeasurement {
        /// Hash of the kernel.
        kernel: Sha256,
        /// Hash of the initial RAM disk, if there is one.
        initrd: Option<Sha256>,
        /// Hash of the kernel's command line.
        command_line: Sha256,
    }

    /// Numbers of an instance since its hypervisor started.
    Statistics {
        /// Whether its processors run.
        state: MachineState,
        /// Of a processor that failed: KVM's exit reason, or the negative error number of running it.
        failed: Option<i32>,
        /// One entry for each virtual processor.
        cpus: Vec<CpuStatistics>,
        /// Slots in use.
        slots: Vec<SlotStatistics>,
    }

    /// Numbers of one virtual processor.
    CpuStatistics {
        /// Port reads.
        port_in: u64,
        /// Port writes.
        port_out: u64,
        /// Memory-mapped reads.
        mmio_read: u64,
        /// Memory-mapped writes.
        mmio_write: u64,
        /// Halts that left the kernel.
        halt: u64,
        /// Interruptions by the hypervisor: pauses.
        interrupted: u64,
        /// Anything else.
        other: u64,
        /// Time that it waited for a device's answer, in nanoseconds.
        wait_ns: u64,
        /// Processor time, in nanoseconds, where the system says it.
        cpu_ns: Option<u64>,
        /// Time in which it could have run and did not, in nanoseconds.
        steal_ns: Option<u64>,
    }

    /// A slot in use.
    SlotStatistics {
        /// Which.
        slot: Slot,
        /// How it is used.
        state: SlotState,
    }

    /// Console output of an instance.
    ConsoleOutput {
        /// Where the next read goes on, in bytes since the instance's start.
        next: u64,
        /// What was printed before that, sealed to the tenant; empty if nothing is new.
        sealed: SealedConsole,
    }

    /// State of the host's log.
    LogStatus {
        /// Sequence number of the last record.
        last: u64,
        /// Bytes written.
        bytes: u64,
        /// Bytes that it may hold. A full log refuses every request.
        capacity: u64,
    }

    /// A part of the host's log.
    LogPage {
        /// Records in order.
        records: Vec<LogRecord>,
        /// Sequence number of the last record that the log has now.
        last: u64,
        /// What comes before the first record that the log still has: earlier ones were acknowledged.
        base: LogHead,
        /// The last record that the log has now.
        head: LogHead,
    }

    /// Done.
    Done {}

    /// A refusal.
    ErrorBody {
        /// Stable, for programs.
        code: Code,
        /// For people: what to do.
        message: Sentence,
    }
}

/// Most instances on a host.
pub const MAX_INSTANCES: usize = 256;

impl Listed for InstanceStatus {
    const MOST: usize = MAX_INSTANCES;
}

impl Listed for VolumeStatus {
    const MOST: usize = 256;
}

impl Listed for Weakness {
    const MOST: usize = 32;
}

impl Listed for AcceleratorFamily {
    const MOST: usize = 16;
}

impl Listed for CpuStatistics {
    const MOST: usize = 255;
}

impl Listed for SlotStatistics {
    const MOST: usize = <Slot as Listed>::MOST;
}

impl Listed for Register {
    const MOST: usize = 8;
}

impl Listed for FirmwareImage {
    const MOST: usize = 32;
}

impl Listed for Measured {
    const MOST: usize = 64;
}

choices! {
    /// Power state of the main board.
    Power: State {
        /// Powered, processors held in reset.
        Held = "held",
        /// Processors run.
        Running = "running",
        /// The guest switched itself off.
        Off = "off",
    }

    /// What executes the guest.
    Accelerator: State {
        /// Hardware virtualisation.
        Kvm = "kvm",
        /// Emulation.
        Tcg = "tcg",
        /// Something else.
        Other = "other",
    }

    /// How far a volume has come.
    VolumeState: State {
        /// Attached; the main board has not connected.
        Waiting = "waiting",
        /// The main board is connected; no guest driver has enabled the function.
        Connected = "connected",
        /// A guest driver uses it.
        Enabled = "enabled",
        /// The guest has shut the function down.
        ShutDown = "shut-down",
        /// Its card died, or an attach or detach stopped half way: detach it.
        Failed = "failed",
    }

    /// How far an instance has come.
    InstanceState: State {
        /// Its guest runs, or waits for its turn.
        Running = "running",
        /// Being stopped.
        Stopping = "stopping",
        /// The guest switched itself off; stop it, or start it again.
        Off = "off",
        /// Its hypervisor failed or ended: stop it.
        Failed = "failed",
    }

    /// Whether the processors of an instance run.
    MachineState: State {
        /// They stand still: it is not the instance's turn.
        Paused = "paused",
        /// They run.
        Running = "running",
        /// The guest switched itself off.
        Off = "off",
        /// The guest asked for a reset.
        Reset = "reset",
        /// A processor cannot go on.
        Failed = "failed",
    }

    /// How a slot is used.
    SlotState: State {
        /// A function is in it.
        Present = "present",
        /// The guest was asked to let go of it and has not done so.
        Leaving = "leaving",
        /// The card has gone; the guest still holds on.
        Lost = "lost",
    }

    /// The processors' virtualisation.
    Virtualisation: State {
        /// Intel VT-x.
        Vmx = "vmx",
        /// AMD-V.
        Svm = "svm",
        /// Another.
        Other = "other",
        /// None: no hypervisor can run.
        None = "none",
    }

    /// What a burstable instance does when no credits are left.
    CreditMode: Parameter {
        /// It runs at its baseline.
        Standard = "standard",
        /// It goes on, and pays.
        Unlimited = "unlimited",
    }
}
