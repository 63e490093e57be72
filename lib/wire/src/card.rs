//! Controller to volume card. The controller carries sealed keys only: nothing in these messages is
//! customer content.

use ids::{HostId, VolumeId};
use serde::{Deserialize, Serialize};

/// What the controller asks of a volume card.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who are you? Answered with [`Reply::Hello`].
    Hello,
    /// Show `volume` as an NVMe function. One or two descriptors come along: the volume's backing file or block
    /// device (opened read-write, `O_DIRECT` where it can be), then the *listening* Unix stream socket on
    /// which the function speaks vfio-user. Without the latter it waits for [`Request::Connect`].
    /// Answered with [`Reply::Done`].
    Attach(Attach),
    /// Somebody connects to the function. One descriptor comes along: a *connected* Unix stream socket whose other end
    /// speaks vfio-user. Answered with [`Reply::Done`]; refused with `volume.connected` while somebody is connected,
    /// with `volume.unknown` if it is not attached, and with `request.malformed` if it has a listening socket.
    Connect {
        /// Which volume.
        volume: VolumeId,
    },
    /// Wipe the key, finish what is in flight, retire the socket. Refused with `volume.busy` while a guest
    /// driver has the controller enabled, unless `force` (a surprise removal).
    Detach {
        /// Which volume.
        volume: VolumeId,
        /// Detach although the guest still uses it.
        force: bool,
    },
    /// Numbers only. Answered with [`Reply::Status`].
    Status,
}

/// The parameters of [`Request::Attach`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The host that the key was sealed for: half of the context without which the key does not open.
    pub host: HostId,
    /// Which volume; its serial number follows from it.
    pub volume: VolumeId,
    /// The block-device name that the tenant asked for, `/dev/sdf` or `xvdf`: 1 to 32 printable ASCII bytes.
    pub device_name: String,
    /// Size of the volume in bytes, a multiple of 4096.
    pub size: u64,
    /// The 512-bit volume key, sealed to this card's key for this host and volume (`seal::seal`).
    #[serde(with = "crate::base64_bytes")]
    pub sealed_key: Vec<u8>,
}

/// What a card answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// The card's public key, made at start.
    Hello {
        /// HPKE public key (X25519, 32 bytes).
        #[serde(with = "crate::base64_bytes")]
        public_key: Vec<u8>,
    },
    /// Done.
    Done,
    /// The attached volumes.
    Status {
        /// One entry each.
        volumes: Vec<VolumeStatus>,
    },
    /// Refused or failed.
    Fault(crate::Fault),
}

/// State of one attached volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeStatus {
    /// Which volume.
    pub volume: VolumeId,
    /// How far the other side has come.
    pub state: FunctionState,
    /// Read commands completed.
    pub reads: u64,
    /// Write commands completed.
    pub writes: u64,
    /// Commands that failed.
    pub errors: u64,
}

/// How far the main board and its guest have come with a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionState {
    /// Nobody has connected to the function's socket.
    Waiting,
    /// A main board or VMM is connected; no driver has enabled the controller.
    Connected,
    /// A guest driver has enabled the controller.
    Enabled,
    /// The guest has shut the controller down in an orderly way.
    ShutDown,
}
