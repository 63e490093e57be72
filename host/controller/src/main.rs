//! azote-controller

fn main() {}
