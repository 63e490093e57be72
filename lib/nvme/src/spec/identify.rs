//! Identify data structures (§5.15.2) with EBS's vendor fields.

use std::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// PCI vendor and subsystem vendor identifier of EC2 devices.
pub const VENDOR: u16 = 0x1d0f;
/// PCI device identifier of an EBS volume.
pub const DEVICE: u16 = 0x8061;
/// PCI class code: NVM Express.
pub const CLASS_CODE: u32 = 0x01_08_02;
/// Model number of an EBS volume.
pub const MODEL: &str = "Amazon Elastic Block Store";
/// Firmware revision of an EBS volume.
pub const FIRMWARE: &str = "1.0";

/// Values of CNS that are implemented.
pub mod cns {
    /// Identify Namespace.
    pub const NAMESPACE: u8 = 0x00;
    /// Identify Controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespace identifiers.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Namespace identification descriptors.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
}

/// Identify Controller (CNS 01h).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's, lower case")]
pub struct IdentifyController {
    pub vid: U16,
    pub ssvid: U16,
    pub sn: [u8; 20],
    pub mn: [u8; 40],
    pub fr: [u8; 8],
    pub rab: u8,
    pub ieee: [u8; 3],
    pub cmic: u8,
    pub mdts: u8,
    pub cntlid: U16,
    pub ver: U32,
    pub rtd3r: U32,
    pub rtd3e: U32,
    pub oaes: U32,
    pub ctratt: U32,
    pub rrls: U16,
    pub reserved102: [u8; 9],
    pub cntrltype: u8,
    pub fguid: [u8; 16],
    pub crdt: [U16; 3],
    pub reserved134: [u8; 122],
    pub oacs: U16,
    pub acl: u8,
    pub aerl: u8,
    pub frmw: u8,
    pub lpa: u8,
    pub elpe: u8,
    pub npss: u8,
    pub avscc: u8,
    pub apsta: u8,
    pub wctemp: U16,
    pub cctemp: U16,
    pub mtfa: U16,
    pub hmpre: U32,
    pub hmmin: U32,
    pub tnvmcap: [u8; 16],
    pub unvmcap: [u8; 16],
    pub rpmbs: U32,
    pub edstt: U16,
    pub dsto: u8,
    pub fwug: u8,
    pub kas: U16,
    pub reserved322: [u8; 190],
    pub sqes: u8,
    pub cqes: u8,
    pub maxcmd: U16,
    pub nn: U32,
    pub oncs: U16,
    pub fuses: U16,
    pub fna: u8,
    pub vwc: u8,
    pub awun: U16,
    pub awupf: U16,
    pub nvscc: u8,
    pub nwpc: u8,
    pub acwu: U16,
    pub reserved534: [u8; 2],
    pub sgls: U32,
    pub mnan: U32,
    pub reserved544: [u8; 224],
    pub subnqn: [u8; 256],
    pub reserved1024: [u8; 1024],
    pub power_states: [[u8; 32]; 32],
    /// Vendor specific: the block-device name that the user asked for, padded with spaces.
    pub device_name: [u8; 32],
    pub vendor3104: [u8; 992],
}

const _: () = assert!(
    size_of::<IdentifyController>() == 4096
        && offset_of!(IdentifyController, oacs) == 256
        && offset_of!(IdentifyController, sqes) == 512
        && offset_of!(IdentifyController, subnqn) == 768
        && offset_of!(IdentifyController, device_name) == 3072
);

/// Identify Namespace (CNS 00h).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's, lower case")]
pub struct IdentifyNamespace {
    pub nsze: U64,
    pub ncap: U64,
    pub nuse: U64,
    pub nsfeat: u8,
    pub nlbaf: u8,
    pub flbas: u8,
    pub mc: u8,
    pub dpc: u8,
    pub dps: u8,
    pub nmic: u8,
    pub rescap: u8,
    pub fpi: u8,
    pub dlfeat: u8,
    pub reserved34: [u8; 94],
    /// LBA formats: metadata size 15:0, LBA data size 23:16 (a power of two), performance 25:24.
    pub lbaf: [U32; 16],
    pub reserved192: [u8; 3904],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096 && offset_of!(IdentifyNamespace, lbaf) == 128);
