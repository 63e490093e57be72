//! `azote`: starts and stops an installation, and speaks for tenant, control plane and operator to its
//! services and its host. It holds the identities of people, which it reads from files of their own; it has no
//! way into a host but the controller's door. It stands outside every trust boundary of the host.
#![forbid(unsafe_code)]

mod args;
mod cloud;
mod console;
mod demo;
mod failure;
mod out;
mod place;
mod rack;
mod up;
mod verbs;

use args::{Args, Verb};
use clap::{CommandFactory, Parser, parser::ValueSource};
use failure::{Doing, Failure};
use out::Out;
use place::Place;
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let given = !matches!(matches.value_source("state"), None | Some(ValueSource::DefaultValue));
    let args = Args::parse();
    let out = Out::new(args.json);
    match dispatch(out, &args, given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(out: Out, args: &Args, given: bool) -> Result<(), Failure> {
    let place = || Place::new(&args.state).doing("state folder");
    match &args.verb {
        Verb::Demo(demo) => demo::run(out, given.then_some(args.state.as_path()), demo),
        Verb::Up(board) => {
            let place = place()?;
            up::up(out, &place, board)?;
            out.result("up; `azote status` shows the host", &serde_json::json!({"up": place.root()}));
            Ok(())
        }
        Verb::Down => verbs::down(out, &place()?),
        Verb::Completions { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "azote", &mut std::io::stdout());
            Ok(())
        }
        verb => verbs::run(out, &place()?, verb),
    }
}
