//! Environments of Python packages (PyPI), one for each purpose, below `target/tools`.

use crate::run::{root, step};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes the environment `name` with what the file `requirements` wants, unless it is there; gives the folder of its
/// programs.
pub(crate) fn environment(name: &str, requirements: &Path) -> Result<PathBuf, String> {
    let home = root().join("target/tools").join(name);
    let (wanted, installed) = (root().join(requirements), home.join("installed.txt"));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if read(&installed) != read(&wanted) {
        step("python environment", Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        step(
            &format!("install {name}"),
            Command::new(home.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&wanted),
        )?;
        fs::copy(&wanted, &installed).map_err(|error| format!("{}: {error}", installed.display()))?;
    }
    Ok(home.join("bin"))
}
