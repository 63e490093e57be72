//! The main job, end to end, with every promise checked: what `azote demo` does.

mod boots;
mod held;
mod refused;
mod report;
mod secret;

use crate::{
    args,
    cloud::Cloud,
    console::Console,
    failure::{Doing, Failure},
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
        return Err(Failure::State(format!(
            "{} exists: the demo wants a folder of its own",
            folder.display()
        )));
    }
    let place = Place::new(&folder).doing("state folder")?;
    let result = play(out, &place, args);
    if args.keep {
        out.line(&format!("\nstill up; look around with: azote --state {} status", folder.display()));
    } else {
        up::down(&place)?;
        std::fs::remove_dir_all(&folder).doing(folder.display())?;
    }
    if result? { Ok(()) } else { Err(Failure::Promise) }
}

fn play(out: Out, place: &Place, args: &args::Demo) -> Result<bool, Failure> {
    let parts = up::parts(out)?;
    let image = {
        let progress = out.progress("building the root image");
        image::build(&parts, &parts::default_dir(), &mut |at| progress.at(&at.to_string()))?
    };
    let mut stage = Stage { out, place, report: Report::new(out) };
    let rack = Rack::prepare(place, &parts)?;
    held::powered(&mut stage, &rack, &args.board)?;
    held::verified(&mut stage, &rack)?;
    let mut scene = boots::boots(&mut stage, &image)?;
    let second = boots::second_volume(&mut stage, &mut scene)?;
    secret::nowhere(&mut stage, &scene, &second)?;
    secret::refused(&mut stage, &scene, &second.volume)?;
    refused::tokens(&mut stage, &scene)?;
    refused::firmware(&mut stage, &mut scene)?;
    refused::stop(&mut stage, &scene)?;
    let log = refused::log(&mut stage, &scene)?;
    Ok(stage.report.finish(&log))
}
