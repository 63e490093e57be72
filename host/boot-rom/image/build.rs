//! Builds `azote-boot-rom` with the cargo and the compiler that build everything else, and puts it where cargo puts
//! programs.

use std::{env, fs, path::PathBuf, process::Command};

const NAME: &str = "azote-boot-rom";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../program");
    for watched in ["../program", "../src", "../Cargo.toml"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["build", "--release", "--locked", "--quiet"]).current_dir(&program);
    cargo.env("CARGO_TARGET_DIR", out.join("target"));
    // What the build around this one set for its own programs; the program's own flags are in its `.cargo`.
    for foreign in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(foreign);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the boot ROM does not build ({status})").into());
    }
    let built = out.join("target/x86_64-unknown-linux-gnu/release").join(NAME);
    fs::copy(&built, out.join(NAME))?;
    // `<profile>/build/<package>/out` lies three folders below the programs.
    let programs = out.ancestors().nth(3).ok_or("cargo puts build output elsewhere now")?;
    let beside = programs.join(format!("{NAME}.new"));
    fs::copy(&built, &beside)?;
    fs::rename(beside, programs.join(NAME))?;
    Ok(())
}
