//! Two releases of the solver that the proofs ask, of different origin.

use crate::{
    Error, Progress,
    apt::{Apt, file_error, run},
    fetch::{once, unpack, write},
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The Debian release with the older one.
const SUITE: &str = "bookworm";
/// The newer one, a wheel of PyPI: it has the solver's library, not its program.
const WHEEL: &str = "cvc5==1.4.2";

/// The programs of both releases. Each reads SMT-LIB on its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solvers {
    /// Debian's.
    pub debian: PathBuf,
    /// PyPI's.
    pub pypi: PathBuf,
}

/// Both solvers, in `dir`; fetches what is missing (about 60 MB). `shim` is the Python program that makes a program of
/// the wheel. Wants apt and a `python3` that can make virtual environments; not root.
pub fn solvers(dir: &Path, shim: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Solvers, Error> {
    let dir = &std::path::absolute(dir).map_err(|e| file_error(dir, e))?;
    let shim = std::path::absolute(shim).map_err(|e| file_error(shim, e))?;
    once(dir, "cvc5-debian", SUITE, |fresh| debian(fresh, progress))?;
    once(dir, "cvc5-pypi", &format!("{WHEEL} {}", shim.display()), |fresh| {
        progress(Progress { step: "fetching the wheel", percent: 0 });
        // Virtual environments cannot be moved: it is made where it will stay.
        pypi(fresh, &dir.join("cvc5-pypi.venv"), &shim)
    })?;
    Ok(Solvers { debian: dir.join("cvc5-debian/cvc5"), pypi: dir.join("cvc5-pypi/cvc5") })
}

fn debian(fresh: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
    let state = fresh.join("apt");
    let apt = Apt::new(&state, &[SUITE])?;
    apt.update(progress)?;
    apt.fetch(SUITE, &["cvc5"], progress)?;
    let versions = unpack(&apt, &fresh.join("tree"), progress)?;
    fs::remove_dir_all(&state).map_err(|e| file_error(&state, e))?;
    write(&fresh.join("versions"), &versions)?;
    // Started by the C library that came with it, wherever the folder lies.
    script(
        &fresh.join("cvc5"),
        "tree=$(dirname \"$0\")/tree\n\
         libraries=$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu\n\
         exec \"$tree/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\" --library-path \"$libraries\" \"$tree/usr/bin/cvc5\" \"$@\"\n",
    )
}

fn pypi(fresh: &Path, home: &Path, shim: &Path) -> Result<(), Error> {
    const STEP: &str = "making a virtual environment (python3 with its venv module)";
    const FETCH: &str = "fetching the solver's wheel with pip";
    if home.exists() {
        fs::remove_dir_all(home).map_err(|e| file_error(home, e))?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(home), STEP)?;
    let python = home.join("bin/python");
    run(
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", WHEEL]),
        FETCH,
    )?;
    let program = format!("exec '{}' '{}' \"$@\"\n", python.display(), shim.display());
    script(&fresh.join("cvc5"), &program)
}

fn script(path: &Path, text: &str) -> Result<(), Error> {
    write(path, &format!("#!/bin/sh\n{text}"))?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(|e| file_error(path, e))
}
