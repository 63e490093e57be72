//! `azote-hypervisor`: one instance. Standard input is the controller's socket.
fn main() {}
