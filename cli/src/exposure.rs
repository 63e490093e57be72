//! `azote exposure`: what the processes of this installation expose, and what of it no sandbox file names.

use crate::{failure::Failure, out::Out, place::Place};
use clap::Args;
use exposure::{Allowances, Expectations, Report, SANDBOXES, STAND_INS, Scope, judge, survey};

#[derive(Args)]
pub(crate) struct Exposure {
    /// Look at every process of the machine, not only those of this installation.
    #[arg(long)]
    all: bool,
    /// Tell what could not be read, and do not fail for it. Only root may read everything.
    #[arg(long)]
    allow_unread: bool,
}

/// `azote exposure`.
pub(crate) fn run(out: Out, place: &Place, ask: &Exposure) -> Result<(), Failure> {
    let scope = if ask.all { Scope::Machine } else { Scope::Installation };
    let (report, expected) = look(place, scope, Allowances { unread: ask.allow_unread })?;
    out.result(&report.text(&expected), &report);
    if report.holds {
        Ok(())
    } else {
        Err(Failure::Reported(
            "exposure.found",
            "something is exposed that no sandbox file names: see ✘ above; what is meant is named in `sandbox/`",
        ))
    }
}

/// Surveys and judges.
pub(crate) fn look(
    place: &Place,
    scope: Scope,
    allowed: Allowances,
) -> Result<(Report, Expectations), Failure> {
    let expected = Expectations::parse(SANDBOXES, STAND_INS).map_err(Failure::state)?;
    let survey = survey(place.root(), scope).map_err(|error| match error {
        exposure::ReadError::NotUp(_) => Failure::Advice("host.not-up", error.to_string()),
        other => Failure::state(other),
    })?;
    let findings = judge(&survey, &expected, allowed);
    Ok((Report::new(survey, findings), expected))
}
