//! azote-tokens

fn main() {}
