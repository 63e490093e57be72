//! The proofs, each with what is planted for it to find.

use super::{
    compare::sets,
    policies::{only, parse, plant, tables as tables_of, union, whole, without},
    space::{Kind, Shown, Space, allowed, ask, beyond, first},
};
use crate::{
    report::{Failure, Proved},
    solver::Solver,
};
use cedar_policy::{Effect, PolicySet};
use rights::{Action, Rights, floor};

/// The most that a policy can say.
const ANYTHING: &str = "permit (principal, action, resource);";
const TENETS: &str = include_str!("../../tenets.cedar");

fn release() -> Result<Rights, Failure> {
    Rights::embedded().map_err(|e| e.to_string())
}

/// Nothing may be shown.
fn none(what: &str, shown: Option<Shown>) -> Result<(), Failure> {
    shown.map_or(Ok(()), |shown| Err(format!("{what}: {}", shown.text())))
}

/// Something planted must be shown.
fn found(what: &str, shown: Option<&Shown>) -> Result<(), Failure> {
    shown.map_or_else(|| Err(format!("planted and not found: {what}")), |_| Ok(()))
}

fn kinds(count: usize) -> String {
    format!("all requests of {count} kinds")
}

/// A release, its schema and the widened one.
struct Scene {
    rights: Rights,
    whole: PolicySet,
    real: Space,
    wide: Space,
}

impl Scene {
    fn set() -> Result<Self, Failure> {
        let rights = release()?;
        let real = Space::new(rights.schema().clone());
        Ok(Self { whole: whole(&rights)?, real, wide: Space::wide()?, rights })
    }

    fn spaces(&self) -> [&Space; 2] {
        [&self.real, &self.wide]
    }

    fn size(&self) -> String {
        format!(
            "all requests of {} kinds, and of {} under the widened schema",
            self.real.kinds.len(),
            self.wide.kinds.len()
        )
    }
}

/// Policies that open things up in an emergency, as people write them.
const GLASS: [(&str, &str); 4] = [
    (
        "everything for keepers with a ticket",
        "permit (principal in Group::\"host-keepers\", action, resource) when { context has ticket };",
    ),
    (
        "everything when the boot check failed",
        "permit (principal, action, resource) when { context has attestation && context.attestation == Attestation::\"failed\" };",
    ),
    ("a group that is made in the emergency", "permit (principal in Group::\"sev1\", action, resource);"),
    (
        "every operator",
        "permit (principal is Operator, action in [Action::\"HostStatus\", Action::\"PowerCycleHost\"], resource);",
    ),
];

pub(super) fn content(solvers: &[Solver]) -> Result<Proved, Failure> {
    let scene = Scene::set()?;
    let on_content = |kind: &Kind| kind.resource == "CustomerContent";
    let of_others = |kind: &Kind| on_content(kind) && kind.principal != "Tenant";
    let real = scene.real.part(on_content).kinds.len();
    if real > 0 {
        return Err(format!("the schema itself has {real} kinds of requests for customer content"));
    }
    let (wide, others) = (scene.wide.part(on_content), scene.wide.part(of_others));
    none("allowed on customer content", allowed(solvers, &wide, &scene.whole)?)?;
    let anything = parse("any", ANYTHING)?;
    none("the floor lets through", allowed(solvers, &others, &union([&anything, &floor()])?)?)?;
    // Without a floor everything that is planted must be seen, kind by kind.
    let compiled = others.compile(&anything)?;
    let seen = ask(solvers, |session| {
        compiled
            .iter()
            .map(|set| Ok(usize::from(session.allowed(set)?.is_some())))
            .sum::<Result<usize, Failure>>()
    })?;
    if seen != others.kinds.len() {
        return Err(format!(
            "planted and not found: {} of {} without a floor",
            others.kinds.len() - seen,
            others.kinds.len()
        ));
    }
    for (what, policy) in GLASS.iter().take(3) {
        let bare = plant(scene.rights.policies(), policy)?;
        found(what, allowed(solvers, &others, &bare)?.as_ref())?;
        none(what, allowed(solvers, &others, &union([&bare, &floor()])?)?)?;
    }
    let weak = "forbid (principal, action, resource) when { resource is CustomerContent } unless { principal is Tenant || principal in Group::\"sev1\" };";
    let weak = union([&anything, &parse("weak", weak)?])?;
    found("a floor with a door in it", allowed(solvers, &others, &weak)?.as_ref())?;
    Ok(Proved {
        space: format!(
            "the {} kinds of requests of the schema, none for it, and {} of the widened schema",
            scene.real.kinds.len(),
            kinds(wide.kinds.len())
        ),
        found: format!("found {} of {} planted", seen + 4, others.kinds.len() + 4),
    })
}

pub(super) fn floor_holds(solvers: &[Solver]) -> Result<Proved, Failure> {
    let wide = Space::wide()?;
    let space = wide.part(|kind| match kind.resource.as_str() {
        "Volume" | "Instance" => !["Tenant", "ControlPlane"].contains(&kind.principal.as_str()),
        "Host" | "AuditLog" => kind.principal == "Tenant",
        _ => false,
    });
    let anything = parse("any", ANYTHING)?;
    none("the floor lets through", allowed(solvers, &space, &union([&anything, &floor()])?)?)?;
    let floor = floor();
    for policy in floor.policies().filter(|policy| policy.id().to_string() != "floor-content") {
        let holed = union([&anything, &without(&floor, policy.id())?])?;
        found(&format!("a floor without {}", policy.id()), allowed(solvers, &space, &holed)?.as_ref())?;
    }
    Ok(Proved {
        space: format!("{} of the widened schema", kinds(space.kinds.len())),
        found: format!("found {} of {0} planted", floor.policies().count() - 1),
    })
}

pub(super) fn tables(solvers: &[Solver]) -> Result<Proved, Failure> {
    let scene = Scene::set()?;
    let table = tables_of(&scene.rights, false)?;
    for space in scene.spaces() {
        none("beyond the tables", beyond(solvers, space, &scene.whole, &table)?)?;
    }
    let (mut real, mut planted) = (0, 0);
    for group in &scene.rights.groups().groups {
        let name = group.name.as_str();
        for action in &group.operations {
            // A right that nobody could ever use would make the table a lie, and this proof an empty one.
            let others =
                format!("forbid (principal, action, resource) unless {{ principal in Group::\"{name}\" }};");
            let own = scene.real.part(|kind| kind.action == action.to_string());
            let shown = allowed(solvers, &own, &plant(&scene.whole, &others)?)?;
            found(&format!("{action} of {name}"), shown.as_ref())?;
            real += 1;
        }
        for action in Action::all().filter(|action| !group.operations.contains(action)) {
            let more =
                format!("permit (principal in Group::\"{name}\", action == Action::\"{action}\", resource);");
            let wide = scene.wide.part(|kind| kind.action == action.to_string());
            let shown = beyond(solvers, &wide, &plant(&scene.whole, &more)?, &table)?;
            found(&more, shown.as_ref())?;
            planted += 1;
        }
    }
    Ok(Proved {
        space: scene.size(),
        found: format!("{real} rights are rights; found {planted} of {planted} planted"),
    })
}

pub(super) fn glass(solvers: &[Solver]) -> Result<Proved, Failure> {
    let scene = Scene::set()?;
    let permits = only(scene.rights.policies(), Effect::Permit)?;
    let table = tables_of(&scene.rights, true)?;
    for space in scene.spaces() {
        none("a permit goes beyond", beyond(solvers, space, &permits, &table)?)?;
    }
    for (what, policy) in GLASS {
        found(what, beyond(solvers, &scene.real, &plant(&permits, policy)?, &table)?.as_ref())?;
    }
    let planted = GLASS.len();
    Ok(Proved { space: scene.size(), found: format!("found {planted} of {planted} planted") })
}

pub(super) fn tenets(solvers: &[Solver]) -> Result<Proved, Failure> {
    let scene = Scene::set()?;
    let tenets = parse("tenet", TENETS)?;
    none("beyond the tenets", beyond(solvers, &scene.real, &scene.whole, &tenets)?)?;
    // Each forbid of the configuration is there for a tenet.
    let forbids = only(scene.rights.policies(), Effect::Forbid)?;
    for policy in forbids.policies() {
        let open = without(&scene.whole, policy.id())?;
        let shown = beyond(solvers, &scene.real, &open, &tenets)?;
        found(&format!("the policies without {} (is there a tenet for it?)", policy.id()), shown.as_ref())?;
    }
    let more =
        "permit (principal in Group::\"host-keepers\", action == Action::\"PowerCycleHost\", resource);";
    found(more, beyond(solvers, &scene.real, &plant(&scene.whole, more)?, &tenets)?.as_ref())?;
    let planted = forbids.policies().count() + 1;
    Ok(Proved {
        space: kinds(scene.real.kinds.len()),
        found: format!("found {planted} of {planted} planted"),
    })
}

pub(super) fn errors(solvers: &[Solver]) -> Result<Proved, Failure> {
    let scene = Scene::set()?;
    let errs = |space: &Space, set: &PolicySet| -> Result<Option<Shown>, Failure> {
        let compiled = set.policies().map(|policy| space.compile_one(policy));
        let compiled: Vec<_> = compiled.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        ask(solvers, |session| first(compiled.iter().map(|policy| session.errs(policy))))
    };
    for space in scene.spaces() {
        none("ends in an error", errs(space, &scene.whole)?)?;
    }
    let policy = "permit (principal in Group::\"host-keepers\", action == Action::\"HostStatus\", resource) when { context.now.offset(duration(\"1d\")) > context.now };";
    found("a time beyond the last one", errs(&scene.real, &plant(&scene.whole, policy)?)?.as_ref())?;
    let count = scene.whole.policies().count();
    Ok(Proved {
        space: format!("{count} policies, {}", scene.size()),
        found: "found 1 of 1 planted".to_owned(),
    })
}

pub(super) fn changes(solvers: &[Solver]) -> Result<Proved, Failure> {
    let Scene { whole, real, .. } = Scene::set()?;
    let wider = plant(
        &whole,
        "permit (principal in Group::\"log-readers\", action == Action::\"DrainHost\", resource in Fleet::\"lab\") when { context.drained };",
    )?;
    let narrower = plant(
        &whole,
        "forbid (principal, action == Action::\"DetachVolume\", resource) when { context.attestation == Attestation::\"unknown\" };",
    )?;
    // Says in another way what the floor says: the text differs, the meaning does not.
    let same = plant(
        &whole,
        "forbid (principal, action, resource) when { resource is Volume && principal is Operator };",
    )?;
    let both = union([
        &wider,
        &parse(
            "more",
            "forbid (principal, action == Action::\"ReadLog\", resource) unless { context has ticket };",
        )?,
    ])?;
    let mut shown = Vec::new();
    for (word, proposed) in
        [("equal", &same), ("wider", &wider), ("narrower", &narrower), ("different", &both)]
    {
        let comparison = sets(solvers, &real, &whole, proposed)?;
        if comparison.word() != word {
            return Err(format!("a {word} set was taken for {comparison}"));
        }
        shown.push(word);
    }
    Ok(Proved { space: kinds(real.kinds.len()), found: format!("told apart: {}", shown.join(", ")) })
}
