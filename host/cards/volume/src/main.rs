//! azote-volume-card

fn main() {}
