//! The decision of the door, written once: token, time window, quota, resource.
#![forbid(unsafe_code)]
