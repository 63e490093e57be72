//! `azote`: starts and stops an installation, and speaks for tenant, control plane and operator to its
//! services and its host. It holds the identities of people, which it reads from files of their own; it has no
//! way into a host but the controller's door. It stands outside every trust boundary of the host.
#![forbid(unsafe_code)]

mod args;
mod attest;
mod audit;
mod authority;
mod boot;
mod claims;
mod cloud;
mod console;
mod demo;
mod enrol;
mod exposure;
mod failure;
mod firmware;
mod guests;
mod host;
mod instance;
mod interrupt;
mod member;
mod out;
mod place;
mod rack;
mod release;
mod rights;
mod tokens;
mod up;
mod verbs;

use args::{Args, Verb};
use clap::{CommandFactory, FromArgMatches, error::ErrorKind, parser::ValueSource};
use failure::Failure;
use host::Host;
use out::Out;
use place::Place;
use std::process::ExitCode;

fn main() -> ExitCode {
    let parsed = Args::command().try_get_matches().and_then(|matches| {
        let given = !matches!(matches.value_source("state"), None | Some(ValueSource::DefaultValue));
        Ok((Args::from_arg_matches(&matches)?, given))
    });
    let (args, given) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let out = Out::new(args.json);
    match dispatch(out, &args, given) {
        Ok(()) if out::complete() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            out.failure(&error);
            ExitCode::FAILURE
        }
    }
}

/// Wrong usage, or a request for help.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked && std::env::args_os().any(|word| word == "--json") {
        let text = error.to_string();
        let document = out::failure_document("usage", text.trim().trim_start_matches("error: "));
        Out::new(true).result("", &document);
    } else {
        // A reader that has gone (`| head`) is content.
        let _ = error.print();
    }
    ExitCode::from(if asked { 0 } else { 2 })
}

fn dispatch(out: Out, args: &Args, given: bool) -> Result<(), Failure> {
    let place = || Place::new(&args.state);
    match &args.verb {
        Verb::Demo(demo) => demo::run(out, given.then_some(args.state.as_path()), demo),
        Verb::Up(ask) => {
            let place = place()?;
            up::up(out, &place, ask, false)?;
            let text = format!("up in {}; `azote status` shows the host", place.root().display());
            out.result(&text, &serde_json::json!({"up": place.root()}));
            Ok(())
        }
        Verb::Rights(verb) => rights::run(out, verb),
        Verb::Release(verb) => release::run(out, verb),
        Verb::Attest(ask) => attest::run(out, &place()?, ask),
        Verb::Authority(verb) => authority::run(out, &place()?, verb),
        Verb::Exposure(ask) => exposure::run(out, &place()?, ask),
        Verb::Claims(ask) => claims::run(out, &place()?, ask),
        Verb::Host(Host::Enroll { up, jumper }) => member::enroll(out, &place()?, up, *jumper),
        Verb::Host(Host::Renew) => member::renew(out, &place()?),
        Verb::Host(Host::Retire { host }) => member::retire(out, &place()?, host.as_ref()),
        Verb::Host(Host::Reset { ticket }) => member::reset(out, &place()?, ticket),
        Verb::Host(Host::Erasure { file, policy }) => member::erasure(out, &place()?, file, policy.as_ref()),
        Verb::Down => verbs::down(out, &place()?),
        Verb::Log(log) => audit::run(out, &place()?, log),
        Verb::Alarms { after } => audit::alarms(out, &place()?, *after),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "azote", &mut script);
            out::print(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        verb => verbs::run(out, &place()?, verb),
    }
}
