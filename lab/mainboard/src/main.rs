//! azote-mainboard

fn main() {}
