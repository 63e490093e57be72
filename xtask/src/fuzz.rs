//! Coverage-guided fuzzing with libFuzzer on the stable compiler: the flags that cargo-fuzz sets, without
//! having to install it. `cargo fuzz` works in `fuzz/` too.

use crate::run::{Outcome, cargo, root, step};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread::{available_parallelism, scope},
};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Zsanitizer=address --cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions";

fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds all targets and runs one of them, or each.
pub(crate) fn run(only: Option<&str>, seconds: u32) -> Outcome {
    let names = targets()?;
    if let Some(only) = only
        && !names.iter().any(|name| name == only)
    {
        return Err(format!("no fuzz target {only}; there are: {}", names.join(", ")));
    }
    let out = root().join("target/fuzz");
    step(
        "fuzz build",
        cargo()
            .args([
                "build",
                "--release",
                "--target",
                TARGET,
                "--manifest-path",
                "fuzz/Cargo.toml",
                "--target-dir",
            ])
            .arg(&out)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", COVERAGE),
    )?;
    let chosen = names.iter().filter(|name| only.is_none_or(|only| *name == only));
    each(chosen, |name| {
        let found: PathBuf = out.join("found").join(name);
        fs::create_dir_all(&found).map_err(|e| format!("{}: {e}", found.display()))?;
        fuzz(name, seconds, &out, &found)
    })
}

/// Does it with each, as many at a time as there are processors; a target takes one. Begins no more after a failure.
fn each<'a>(names: impl Iterator<Item = &'a String> + Send, run: impl Fn(&str) -> Outcome + Sync) -> Outcome {
    let names = Mutex::new(names);
    let next = || names.lock().ok()?.next();
    let work = || {
        while let Some(name) = next() {
            if let Err(error) = run(name) {
                while next().is_some() {}
                return Err(error);
            }
        }
        Ok(())
    };
    scope(|scope| {
        let workers: Vec<_> =
            (0..available_parallelism().map_or(1, usize::from)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a worker panicked".to_owned())))
    })
}

/// Runs one target. Its chatter goes to a file; of it, what it did is shown, or how it failed.
fn fuzz(name: &str, seconds: u32, out: &Path, found: &Path) -> Outcome {
    println!("==> fuzz {name} for {seconds} s");
    let output = Command::new(out.join(TARGET).join("release").join(name))
        .args([
            &format!("-max_total_time={seconds}"),
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ])
        .arg(format!("-artifact_prefix={}/crash-{name}-", out.display()))
        .arg(found)
        .arg(root().join("fuzz/corpus").join(name))
        .output()
        .map_err(|e| format!("fuzz {name}: cannot start: {e}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let (path, lines) = (out.join(format!("{name}.log")), log.lines().collect::<Vec<_>>());
    fs::write(&path, log.as_bytes()).map_err(|e| format!("{}: {e}", path.display()))?;
    if !output.status.success() {
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        return Err(format!("fuzz {name} found something ({}):\n{tail}", path.display()));
    }
    let did: String = lines
        .iter()
        .filter_map(|line| line.strip_prefix("stat::number_of_"))
        .map(|line| format!("\n    {line}"))
        .collect();
    println!("==> fuzz {name}: done{did}");
    Ok(())
}
