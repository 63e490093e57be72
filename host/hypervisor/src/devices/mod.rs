//! Devices at fixed addresses.

pub mod generation;
pub mod power;
pub mod rtc;
pub mod serial;
