//! Root of trust of a host and its only door
