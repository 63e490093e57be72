//! Log pages (§5.14.1) and the EBS volume statistics.

use std::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Identifiers of the log pages that are implemented.
pub mod id {
    /// Error Information.
    pub const ERRORS: u8 = 0x01;
    /// SMART / Health Information.
    pub const HEALTH: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    /// Commands Supported and Effects.
    pub const EFFECTS: u8 = 0x05;
    /// EBS volume statistics (vendor specific).
    pub const VOLUME_STATISTICS: u8 = 0xd0;
}

/// One entry of the Error Information log page.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default)]
#[repr(C)]
pub struct ErrorEntry {
    /// Number of this error since the controller was made, from 1.
    pub count: U64,
    /// Submission queue of the command.
    pub sq_id: U16,
    /// The command.
    pub cid: U16,
    /// Status field in bits 15:1.
    pub status: U16,
    /// Byte and bit of the parameter in error; FFFFh: not stated.
    pub location: U16,
    /// First LBA of the command.
    pub lba: U64,
    /// Namespace of the command.
    pub nsid: U32,
    /// Reserved and not used.
    pub reserved: [U32; 9],
}

/// SMART / Health Information log page.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub struct Health {
    pub critical_warning: u8,
    /// Kelvin; zero, because there is no sensor.
    pub composite_temperature: [u8; 2],
    pub available_spare: u8,
    pub available_spare_threshold: u8,
    pub percentage_used: u8,
    pub reserved6: [u8; 26],
    /// Thousands of 512-byte units, rounded up.
    pub data_units_read: U128,
    /// Thousands of 512-byte units, rounded up.
    pub data_units_written: U128,
    pub host_reads: U128,
    pub host_writes: U128,
    /// Minutes with a command outstanding.
    pub busy_time: U128,
    pub power_cycles: U128,
    pub power_on_hours: U128,
    pub unsafe_shutdowns: U128,
    pub media_errors: U128,
    pub error_entries: U128,
    pub reserved192: [u8; 320],
}

/// Magic number of the volume statistics page.
pub const STATISTICS_MAGIC: u32 = 0x3c23_b510;
/// Bins that a histogram has room for.
pub const HISTOGRAM_BINS: usize = 64;

/// EBS volume statistics (log page D0h). Times are in microseconds.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names say it")]
pub struct VolumeStatistics {
    pub magic: U32,
    pub version: U32,
    pub read_operations: U64,
    pub write_operations: U64,
    pub read_bytes: U64,
    pub write_bytes: U64,
    pub read_time: U64,
    pub write_time: U64,
    pub volume_iops_exceeded: U64,
    pub volume_throughput_exceeded: U64,
    pub instance_iops_exceeded: U64,
    pub instance_throughput_exceeded: U64,
    /// Reads and writes that wait to be completed, at this moment.
    pub queue_length: U64,
    pub reserved96: [u8; 416],
    pub read_latency: Histogram,
    pub write_latency: Histogram,
    /// How many histograms by I/O size there are: none.
    pub size_histograms: U32,
    pub size_classes: [U32; 8],
    pub reserved3636: [u8; 460],
}

/// Latency histogram: the first `bins` entries of `bin` count.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Histogram {
    pub bins: U64,
    pub bin: [HistogramBin; HISTOGRAM_BINS],
}

/// Completions that took `lower` up to, but not including, `upper` microseconds.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy)]
#[repr(C)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HistogramBin {
    pub lower: U64,
    pub upper: U64,
    pub count: U32,
    pub reserved: U32,
}

const _: () = assert!(
    size_of::<ErrorEntry>() == 64
        && size_of::<Health>() == 512
        && size_of::<VolumeStatistics>() == 4096
        && offset_of!(VolumeStatistics, read_latency) == 512
        && offset_of!(VolumeStatistics, write_latency) == 2056
        && offset_of!(VolumeStatistics, size_histograms) == 3600
);
