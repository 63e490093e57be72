//! Every code that the API refuses with.

/// A refusal code, the HTTP status that goes with it, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalCode {
    /// Stable.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What to do.
    pub message: &'static str,
}

macro_rules! codes {
    ($($status:literal { $($code:literal $message:literal)* })*) => {
        &[$($(RefusalCode { code: $code, status: $status, message: $message }),*),*]
    };
}

/// The codes that the host itself and its components give. Those for tokens and proofs are
/// `token::Refusal`'s.
pub const CODES: &[RefusalCode] = codes! {
    400 {
        "request.malformed" "the request is not what this operation takes: compare it with the API document"
        "volume.size" "the size is not a multiple of 4096, or not the size of the volume's storage"
        "volume.name" "the device name is not 1 to 32 printable ASCII characters"
        "key.sealed" "the sealed key does not open: seal it again to this card's key for this host and volume"
        "instance.type" "there is no such instance type: `azote instance types` lists them"
        "console.sealed" "the console input does not open: read the output again, then seal for where it ended"
        "console.public-key" "not a console key: give the 32 bytes of an X25519 public key"
        "placement.type" "this host cannot give the type whole cores: choose another type or another host"
        "certificate.refused" "not certificates of this host's keys by its environment's authority: ask the authority for them"
        "key.halves-equal" "the two halves of the volume key are equal: make a new key"
    }
    408 {
        "request.timeout" "the request came too slowly: send it again"
    }
    413 {
        "request.too-large" "the request is longer than any of this API"
    }
    404 {
        "request.unknown" "there is no such operation: compare method and path with the API document"
        "volume.unknown" "this volume is not attached to this host"
        "volume.no-storage" "the storage of this volume is not on this host"
        "instance.unknown" "this instance was not started on this host"
        "console.none" "this instance keeps no console: start it with a console key"
    }
    409 {
        "volume.exists" "this volume is already attached to this host: detach it first"
        "volume.busy" "the guest still uses this volume: let it go there first, or force"
        "volume.root" "this is the root volume of a started instance: stop the instance first"
        "volume.storage-in-use" "the storage of this volume is in use by another process on this host"
        "volume.connected" "the volume's function is connected already: detach it first"
        "slot.taken" "another volume is in this slot: choose a free one"
        "slot.spent" "a guest had a function in this slot: it is free again when the instance has been stopped"
        "card.full" "the volume card shows as many volumes as it can: detach one"
        "instance.exists" "an instance is started on this host: stop it first"
        "instance.no-root" "the root volume is not attached: attach it first"
        "console.full" "the guest has not read what was typed before: send it again later"
        "instance.class" "metal has the main board for itself: stop what runs on this host, or choose another host"
        "instance.no-kernel" "this host has no kernel to start instances with: give its controller one, or choose another host"
        "instance.changing" "the instance is being started or stopped: wait, then look at the status"
        "log.ahead" "the host's log does not reach so far: acknowledge what was read"
        "hypervisor.absent" "this host runs no hypervisors, or not this instance: look at its status"
        "host.not-isolated" "this host cannot keep tenants apart: its status lists the weaknesses; choose another host"
        "placement.cores" "not enough free cores near each other: choose another host"
        "placement.memory" "not enough free memory near the cores: choose another host"
        "placement.accelerators" "not enough free accelerators of this family: choose another host"
        "host.in-use" "the host is not drained, or has volumes or instances: drain it and take them away first"
        "certificate.older" "the host has certificates that live longer: offer later ones"
        "host.drained" "the host is drained: resume it, or choose another"
        "chip.unverified" "the firmware in flash is not what was verified: the host needs repair"
    }
    500 {
        "internal" "the host failed: look at its status, then try again"
        "host.failed" "the host could not do it: look at its status, then try again"
        "volume.io" "the storage of this volume cannot be used: look at its file or device on the host"
        "card.fault" "the volume card failed: look at the host's status"
        "chip.fault" "the security chip failed: look at the host's status"
        "hypervisor.fault" "the instance's hypervisor failed: look at the host's status"
        "launcher.fault" "the host could not start or end a hypervisor: look at its status"
        "board.fault" "the main board failed: look at the host's status"
        "attestation.fault" "the attestation card failed: look at the host's status"
    }
    429 {
        "host.quota" "this host has done as many of these operations as it does in this time: wait"
    }
    503 {
        "log.unavailable" "the host cannot write its log and does nothing until it can: free or repair its log"
        "clock.ahead" "the host's clock was set forward: set it right, or start the controller again if it is right"
        "host.erased" "the host was reset and is no more: enrol it anew"
        "host.out-of-service" "the host took itself out of service: its status says why"
        "tpm.gone" "the host has no TPM that answers, so it can show nothing: power-cycle the host"
        "card.gone" "the volume card is gone: power-cycle the host"
        "attestation.gone" "the attestation card is gone: power-cycle the host"
        "hypervisor.gone" "the instance's hypervisor is gone: stop the instance, then start it again"
        "launcher.gone" "the host can start no hypervisor any more: power-cycle the host"
        "chip.gone" "the security chip is gone: power-cycle the host"
        "chip.board-silent" "the main board does not answer on the reset line: see that it is connected"
        "chip.board-failed" "the main board could not follow the reset line: look at the host's status"
        "board.gone" "the main board is gone: power-cycle the host"
    }
    504 {
        "service.slow" "no answer yet: the work goes on, look at the host's status"
    }
};

/// The row of a code, `None` for one that this API does not have.
pub fn refusal(code: &str) -> Option<&'static RefusalCode> {
    CODES.iter().find(|row| row.code == code)
}

/// Every code with its status, those for tokens and proofs included, as the document lists them.
pub(crate) fn all() -> impl Iterator<Item = (u16, &'static str)> {
    let of_tokens = token::Refusal::ALL.iter().map(|refusal| (refusal.status(), refusal.code()));
    CODES.iter().map(|row| (row.status, row.code)).chain(of_tokens)
}
