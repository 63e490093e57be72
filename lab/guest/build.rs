//! Links the image of the self-checking guest, for bare x86-64, with the compiler that builds everything else:
//! no further target needs to be installed.

use std::{env, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=machine");
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("machine");
    let image = PathBuf::from(env::var("OUT_DIR")?).join("guest.elf");
    let script = folder.join("link.ld");
    let link = format!(
        "-Clink-args=-nostartfiles -nostdlib -static -no-pie -Wl,-T,{} -Wl,--build-id=none -Wl,--gc-sections",
        script.display()
    );
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--edition=2024", "--crate-name=guest_machine", "--crate-type=bin", "--cfg=image"]);
    rustc.args(["--target=x86_64-unknown-linux-gnu", "-Cpanic=abort", "-Copt-level=s", "-Clto=fat"]);
    rustc.args(["-Ccodegen-units=1", "-Crelocation-model=static", "-Cstrip=symbols", "-Dwarnings"]);
    rustc.arg(link).arg(folder.join("src/lib.rs")).arg("-o").arg(&image);
    let status = rustc.status()?;
    if status.success() { Ok(()) } else { Err(format!("the guest does not build ({status})").into()) }
}
