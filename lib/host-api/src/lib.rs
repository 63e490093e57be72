//! Requests and responses of a host's only door
