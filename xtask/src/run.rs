//! Building and running.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Why a task failed, for people.
pub(crate) type Outcome = Result<(), String>;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo puts programs, of `debug` or of `release` builds; `.cargo/config.toml` names the target.
pub(crate) fn programs(profile: &str) -> PathBuf {
    root().join("target/x86_64-unknown-linux-gnu").join(profile)
}

/// Runs a command in the root and says how long it took.
pub(crate) fn step(name: &str, command: &mut Command) -> Outcome {
    println!("==> {name}");
    let start = Instant::now();
    let status = command.current_dir(root()).status().map_err(|e| format!("{name}: cannot start: {e}"))?;
    if !status.success() {
        return Err(format!("{name} failed ({status})"));
    }
    println!("==> {name}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Gets the lab's parts, with progress.
pub(crate) fn parts() -> Outcome {
    let start = Instant::now();
    println!("==> lab parts");
    let parts = parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |at| println!("    {at}"))
        .map_err(|e| e.to_string())?;
    image::build(&parts, &parts::default_dir(), &mut |at| println!("    {at}")).map_err(|e| e.to_string())?;
    println!("==> lab parts: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Builds the shipped programs and runs the main job.
pub(crate) fn demo(args: &[String]) -> Outcome {
    step("build", cargo().args(["build", "--release", "--workspace", "--exclude", "xtask", "--bins"]))?;
    parts()?;
    step("demo", Command::new(programs("release").join("azote")).arg("demo").args(args))
}

/// Runs every test, then a short fuzz of every parser.
pub(crate) fn test(fuzz_seconds: u32, args: &[String]) -> Outcome {
    parts()?;
    // The integration tests start the programs themselves.
    step("build", cargo().args(["build", "--workspace", "--bins"]))?;
    step("tests", cargo().args(["test", "--workspace"]).args(args))?;
    if fuzz_seconds > 0 && args.is_empty() {
        crate::fuzz::run(None, fuzz_seconds)?;
    }
    Ok(())
}

/// Plays abuse against an installation of the programs as tests build them.
pub(crate) fn redteam(json: bool, name: Option<&str>) -> Outcome {
    against("abuse", "azote-redteam", json, name)
}

/// Changes what hosts start from.
pub(crate) fn tamper(json: bool, name: Option<&str>) -> Outcome {
    against("changes", "azote-tamper", json, name)
}

fn against(what: &str, program: &str, json: bool, name: Option<&str>) -> Outcome {
    workspace()?;
    parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |at| eprintln!("    {at}"))
        .map_err(|e| e.to_string())?;
    let mut play = Command::new(programs("debug").join(program));
    play.args(name);
    if json { quietly(play.arg("--json")) } else { step(what, &mut play) }
}

/// Builds all programs without a word of ours on standard output. A part of them would be built with other features of
/// their dependencies, so anew.
pub(crate) fn workspace() -> Outcome {
    quietly(cargo().args(["build", "--quiet", "--workspace", "--bins"]))
}

/// Runs a command in the root without a word of ours on standard output.
pub(crate) fn quietly(command: &mut Command) -> Outcome {
    let status = command.current_dir(root()).status();
    let status = status.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} failed ({status})", command.get_program().display()))
    }
}
