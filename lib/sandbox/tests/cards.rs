//! The sandbox files of the cards: once one has started, there is no way out of it.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use sandbox::Policy;

/// What opens, connects, starts, looks at or changes anything that a card was not given.
const WAYS_OUT: [&str; 27] = [
    "open",
    "openat",
    "openat2",
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "execve",
    "execveat",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "mount",
    "bpf",
    "io_uring_setup",
    "memfd_create",
    "unlinkat",
    "renameat2",
    "kill",
    "prctl",
    "ioctl",
    "pidfd_getfd",
];

fn names_no_way_out(text: &str) {
    let policy = Policy::parse(text).unwrap();
    assert!(policy.files.is_empty() && policy.sockets.is_empty());
    let named: Vec<&str> = policy.syscalls.iter().flat_map(|call| &call.names).map(String::as_str).collect();
    for call in WAYS_OUT {
        assert!(!named.contains(&call), "{call}");
    }
}

#[test]
fn the_sandbox_of_the_volume_card_names_no_way_out() {
    names_no_way_out(include_str!("../../../sandbox/volume-card.toml"));
}

#[test]
fn the_sandbox_of_the_attestation_card_names_no_way_out() {
    names_no_way_out(include_str!("../../../sandbox/attestation-card.toml"));
}
