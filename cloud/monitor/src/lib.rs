//! The monitor: evaluates rules over audit records as they arrive and raises alarms.
#![forbid(unsafe_code)]
