//! What each stage of a host's start consists of, counted: the stages' own lines, and what they depend on.

use crate::run::{cargo, root};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The stages, each with the manifest of its package.
const STAGES: [(&str, &str); 3] = [
    ("azote-boot-rom", "host/boot-rom/program/Cargo.toml"),
    ("azote-stage1", "host/stage1/Cargo.toml"),
    ("azote-controller", "host/controller/Cargo.toml"),
];

/// A stage's size.
pub(crate) struct Size {
    /// The program.
    pub(crate) name: &'static str,
    /// Lines of this project's code in it, without tests, comments and empty lines.
    pub(crate) lines: usize,
    /// Of these, lines that may be `unsafe`: of crates that do not forbid it.
    pub(crate) not_forbidden: usize,
    /// This project's crates in it.
    pub(crate) own: usize,
    /// Others' crates in it.
    pub(crate) foreign: usize,
}

/// Counts every stage.
pub(crate) fn sizes() -> Result<Vec<Size>, String> {
    STAGES.into_iter().map(|(name, manifest)| size(name, manifest)).collect()
}

fn size(name: &'static str, manifest: &str) -> Result<Size, String> {
    let mut tree = cargo();
    tree.args(["tree", "--locked", "--prefix", "none", "--edges", "normal,no-proc-macro", "--format", "{p}"]);
    tree.args(["--target", "x86_64-unknown-linux-gnu", "--manifest-path"]).arg(root().join(manifest));
    let output = tree.output().map_err(|e| format!("cargo tree: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    let mut size = Size { name, lines: 0, not_forbidden: 0, own: 0, foreign: 0 };
    for line in crates.into_iter().filter(|line| !line.is_empty()) {
        let Some((_, path)) = line.split_once(" (/") else {
            size.foreign += 1;
            continue;
        };
        let sources = files(&Path::new("/").join(path.trim_end_matches(')')).join("src"))?;
        let text = |path: &PathBuf| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let texts: Vec<String> = sources.iter().map(text).collect::<Result<_, _>>()?;
        let lines: usize = texts.iter().map(|text| code(text)).sum();
        size.own += 1;
        size.lines += lines;
        if !texts.iter().any(|text| text.contains("#![forbid(unsafe_code)]")) {
            size.not_forbidden += lines;
        }
    }
    Ok(size)
}

/// The sources below a folder, but for files of tests.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Lines that are neither empty nor comments, up to the tests, which come last in a file.
fn code(text: &str) -> usize {
    let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_empty_lines_and_tests_do_not_count() {
        assert_eq!(code("//! A.\n\nfn a() {}\n    // why\n    b();\n#[cfg(test)]\nmod tests {}\n"), 2);
    }

    #[test]
    fn every_stage_has_code_and_the_first_has_least() {
        let sizes = sizes().unwrap();
        assert!(sizes.iter().all(|size| size.lines > 100 && size.own > 0 && size.foreign > 0));
        assert!(sizes.is_sorted_by(|a, b| a.lines < b.lines && a.foreign < b.foreign));
    }
}
