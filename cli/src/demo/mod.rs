//! The main job, end to end, with every promise checked: what `azote demo` does.

mod boots;
mod held;
pub(crate) mod recorded;
mod refused;
mod report;
mod secret;
mod shared;

use crate::{
    args,
    cloud::Cloud,
    console::Console,
    failure::{Doing, Failure},
    interrupt,
    out::Out,
    place::Place,
    up::{self, Rack},
};
use ids::{InstanceId, KeyId};
use report::Report;
use std::path::Path;
use volumes::Volume;

/// What the steps share.
struct Stage<'a> {
    out: Out,
    place: &'a Place,
    report: Report,
}

/// A host that is up, with a tenant's instance on it.
struct Scene {
    cloud: Cloud,
    console: Console,
    key: KeyId,
    root: Volume,
    instance: InstanceId,
}

/// Runs the demo in a folder of its own, or in `given`.
pub(crate) fn run(out: Out, given: Option<&Path>, args: &args::Demo) -> Result<(), Failure> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir().join(format!("azote-demo-{:08x}", up::random()? & 0xffff_ffff)),
    };
    if folder.exists() {
        let message = format!("{} exists: the demo wants a folder of its own", folder.display());
        return Err(Failure::Advice("state.foreign", message));
    }
    let place = Place::new(&folder)?;
    let result = play(out, &place, args);
    let ended = if args.keep && matches!(result, Ok(_) | Err(Failure::Promise)) {
        out.line(&format!("\nstill up; look around with: azote --state {} status", folder.display()));
        Ok(())
    } else {
        end(&place, args.keep)
    };
    // Why it failed matters more than what could not be tidied up.
    let held = result?;
    ended?;
    if held { Ok(()) } else { Err(Failure::Promise) }
}

/// Stops what runs, and removes the folder unless it is to be looked at.
fn end(place: &Place, keep: bool) -> Result<(), Failure> {
    up::down(place)?;
    if !keep && place.root().exists() {
        std::fs::remove_dir_all(place.root()).doing(place.root().display())?;
    }
    Ok(())
}

fn play(out: Out, place: &Place, args: &args::Demo) -> Result<bool, Failure> {
    let parts = up::parts(out)?;
    let image = {
        let progress = out.progress("building the root image");
        image::build(&parts, &parts::default_dir(), &mut |at| progress.at(&at.to_string()))?
    };
    let mut stage = Stage { out, place, report: Report::new(out) };
    interrupt::watch().doing("signals")?;
    let rack = Rack::prepare(out, place, &parts, None, None)?;
    held::powered(&mut stage, &rack, &args.board)?;
    held::verified(&mut stage, &rack, &args.board)?;
    rack.look_after()?;
    let mut scene = boots::boots(&mut stage, &image)?;
    let second = boots::second_volume(&mut stage, &mut scene)?;
    secret::nowhere(&mut stage, &scene, &second)?;
    secret::refused(&mut stage, &scene, &second.volume)?;
    refused::tokens(&mut stage, &scene)?;
    let attack = refused::firmware(&mut stage, &mut scene)?;
    refused::stop(&mut stage, &scene)?;
    let log = recorded::log(&mut stage, &scene, &attack)?;
    shared::linux(&mut stage)?;
    Ok(stage.report.finish(&log))
}
