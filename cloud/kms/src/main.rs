//! azote-kms

fn main() {}
