//! azote-security-chip

fn main() {}
