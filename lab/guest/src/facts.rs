//! How large the hypervisor is: what can be counted without running it.

use crate::{Error, bench::Row, scenario::Programs};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The source tree that this was built from.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Size, lines, dependencies, system calls.
pub fn all(programs: &Programs, firecracker: Option<&Path>) -> Result<Vec<Row>, Error> {
    let ours = loaded(&programs.hypervisor())?;
    let mut size = Row::new("program size as loaded, without symbols", "KiB", Some(ours), None);
    if let Some(program) = firecracker {
        size.peers.insert("Firecracker", loaded(program)?);
    }
    let mut code = Row::new("lines of code, without tests, comments and blank lines", "lines", None, None);
    let lines = lines(&tree().join("host/hypervisor/src"))?;
    code.azote = Some(f64::from(lines));
    let mut crates =
        Row::new("packages that it is built from, its own libraries included", "packages", None, None);
    crates.azote = packages();
    if crates.azote.is_none() {
        crates.note =
            "not measured; `cargo tree -p hypervisor -e normal,no-proc-macro` lists them".to_owned();
    }
    let mut rows = vec![size, code, crates];
    rows.extend(calls()?);
    Ok(rows)
}

/// What an ELF file puts into memory, in KiB.
fn loaded(program: &Path) -> Result<f64, Error> {
    let file = fs::read(program)?;
    let bad = || Error::Unexpected(format!("{}: not an ELF file", program.display()));
    let bytes = |at: usize, len: usize| file.get(at..at.checked_add(len)?);
    let long = |at: usize| bytes(at, 8)?.try_into().ok().map(u64::from_le_bytes);
    let short = |at: usize| bytes(at, 2)?.try_into().ok().map(u16::from_le_bytes);
    let table = long(32).and_then(|at| usize::try_from(at).ok()).ok_or_else(bad)?;
    let mut total = 0;
    for entry in 0..usize::from(short(56).ok_or_else(bad)?) {
        let at = table.saturating_add(56 * entry);
        if bytes(at, 4).ok_or_else(bad)? == 1u32.to_le_bytes() {
            total += long(at.saturating_add(32)).ok_or_else(bad)? / 1024;
        }
    }
    Ok(f64::from(u32::try_from(total).map_err(|_| bad())?))
}

/// Lines in the Rust files under `folder` that are neither blank nor comments, each file up to its tests.
fn lines(folder: &Path) -> Result<u32, Error> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            total += lines(&path)?;
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = fs::read_to_string(&path)?;
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let counts = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
            total += u32::try_from(code.lines().filter(counts).count()).unwrap_or(u32::MAX);
        }
    }
    Ok(total)
}

/// How many packages end up in the program; none without cargo.
fn packages() -> Option<f64> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree_of = Command::new(cargo);
    tree_of.args(["tree", "--offline", "-p", "hypervisor", "-e", "normal,no-proc-macro", "--prefix", "none"]);
    let output = tree_of.current_dir(tree()).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: BTreeSet<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    Some(f64::from(u32::try_from(names.len().checked_sub(1)?).ok()?))
}

/// Different system calls that the sandbox lets an optimised program make: all, and those that are left when processors
/// run.
fn calls() -> Result<[Row; 2], Error> {
    let text = fs::read_to_string(tree().join("sandbox/hypervisor.toml"))?;
    let file: Sandbox = toml::from_str(&text).map_err(|error| Error::Unexpected(error.to_string()))?;
    let count = |early: bool, fail: bool| {
        let rules = file.syscall.iter().filter(|rule| !rule.debug);
        let rules = rules.filter(|rule| early || !rule.early && rule.kept_for.is_none());
        let rules = rules.filter(|rule| rule.fails.is_some() == fail);
        rules.flat_map(|rule| &rule.names).collect::<BTreeSet<_>>().len()
    };
    let row = |what, early, goal| {
        let made = u32::try_from(count(early, false)).ok().map(f64::from);
        let mut row = Row::new(what, "calls", made, Some(goal));
        row.note = format!("{} more fail without being made", count(early, true));
        row
    };
    Ok([
        row("system calls before the processors run", true, 30.0),
        row("system calls while they run", false, 15.0),
    ])
}

#[derive(serde::Deserialize)]
struct Sandbox {
    syscall: Vec<Rule>,
}

#[derive(serde::Deserialize)]
struct Rule {
    names: Vec<String>,
    fails: Option<String>,
    /// Most machines give it up.
    kept_for: Option<String>,
    #[serde(default)]
    early: bool,
    #[serde(default)]
    debug: bool,
}
