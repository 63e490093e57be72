//! The answers.

use crate::{
    Code, DeviceName, Label, LogHead, LogRecord, Pem, Sentence, Sha256, datum::Listed, text::CardCertificate,
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
        /// The measuring register's value, as the TPM gave it after the last measurement.
        pcr: Option<Sha256>,
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
        /// The instance that was started.
        instance: Option<InstanceStatus>,
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

    /// One measurement.
    Measured {
        /// The register that was extended.
        pcr: u64,
        /// What was measured.
        what: Label,
        /// Its hash.
        sha256: Sha256,
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

    /// State of an attached volume.
    VolumeStatus {
        /// The volume.
        volume: VolumeId,
        /// Its slot on the main board.
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

    /// State of the instance.
    InstanceStatus {
        /// The instance.
        instance: InstanceId,
        /// Its root volume.
        root: VolumeId,
        /// How far it has come.
        state: InstanceState,
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

/// The host has as many slots as volumes at most.
impl Listed for VolumeStatus {
    const MOST: usize = <Slot as Listed>::MOST;
}

impl Listed for Measured {
    const MOST: usize = 16;
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
        /// Reset is released.
        Running = "running",
        /// Being stopped.
        Stopping = "stopping",
        /// The guest switched itself off; stop it, or start it again.
        Off = "off",
    }
}
