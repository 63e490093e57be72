//! Guests under the hypervisor of this tree.

use crate::{
    documents,
    run::{Outcome, cargo, programs, quietly, step, workspace},
};
use clap::Subcommand;
use std::{path::Path, process::Command};

/// Which guest.
#[derive(Subcommand)]
pub(crate) enum Guest {
    /// Debian's cloud kernel, unmodified, its root on a volume card: directly on VMX or SVM, elsewhere in an emulated
    /// machine with SVM.
    Linux,
    /// The self-checking guest with a function of the host's hardware (VFIO), in an emulated machine with an IOMMU and
    /// SR-IOV.
    Passthrough,
    /// Debian's next kernel, whose own driver takes the attestation card's function, on the main board and under the
    /// hypervisor; others' code checks the documents that it got.
    Attestation,
    /// The TPM client against the kernel's TPM device, CRB and TIS, in emulated machines that have one.
    Tpm,
}

/// What runs under the hypervisor, and it: packages.
const PACKAGES: [&str; 7] = ["-p", "hypervisor", "-p", "volume-card", "-p", "guest", "--bins"];

/// Builds what is needed and runs a guest: the self-checking one, if none is named.
pub(crate) fn run(what: Option<&Guest>, json: bool) -> Outcome {
    match what {
        None => quietly(cargo().args(["build", "--quiet"]).args(PACKAGES)),
        Some(_) => workspace(),
    }?;
    if let Some(Guest::Tpm) = what {
        quietly(cargo().args(["build", "--quiet", "--workspace", "--example", "tpm-check"]))?;
    }
    let mut run = Command::new(programs("debug").join("azote-guest"));
    if what.is_some() {
        parts()?;
    }
    run.arg(match what {
        None => "check",
        Some(Guest::Attestation) => "attestation",
        Some(Guest::Linux) => "linux",
        Some(Guest::Passthrough) => "passthrough",
        Some(Guest::Tpm) => "tpm",
    });
    let documents = documents::folder("documents-guest")?;
    if let Some(Guest::Attestation) = what {
        run.arg("--client").arg(documents::build("nsm-client")?).arg("--documents").arg(&documents);
    }
    if json {
        return quietly(run.arg("--json"));
    }
    step("guest", &mut run)?;
    let checked = matches!(what, Some(Guest::Attestation)).then_some(["board", "machine"]);
    checked.into_iter().flatten().try_for_each(|way| documents::check(&documents.join(way)))
}

/// Gets the lab's parts without a word on standard output.
fn parts() -> Outcome {
    let got = parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |at| eprintln!("    {at}"));
    got.map(drop).map_err(|error| error.to_string())
}

/// Builds optimised programs and measures.
pub(crate) fn bench(firecracker: Option<&Path>, json: bool) -> Outcome {
    quietly(cargo().args(["build", "--quiet", "--release"]).args(PACKAGES))?;
    parts()?;
    let mut bench = Command::new(programs("release").join("azote-guest"));
    bench.arg("bench");
    if let Some(program) = firecracker {
        let program = std::path::absolute(program).map_err(|error| error.to_string())?;
        bench.arg("--firecracker").arg(program);
    }
    if json { quietly(bench.arg("--json")) } else { step("hypervisor", &mut bench) }
}
