//! The life of one call on a host.
