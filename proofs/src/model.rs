//! Tokens, quotas and crashes: the token service, two hosts, and somebody who keeps every token and tries it everywhere,
//! in every order of events. The transitions are those that ship ([`tokens::ledger`], [`decision::quota`],
//! [`decision::admission`]); the model only brings events, keeps what is durable, and loses the rest in a crash.

mod world;

use crate::report::{Failure, Proof, Proved};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use world::{Action, LENGTH, Token, World};

/// What the model does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Signs before the quota is durable.
    EarlySignature,
    /// Forgets the quotas in a crash of the token service.
    LostQuota,
    /// Does not look for whom a token is.
    AnyAudience,
    /// Acts although the intent could not be recorded.
    ActFirst,
    /// Tells that it is done although the outcome could not be recorded.
    AnswerFirst,
    /// Tells one who observes although that could not be recorded.
    TellFirst,
    /// Does not count what the log says after a crash of a host.
    LostUses,
    /// Takes a shortened log for a whole one.
    ShortLog,
    /// Lets the clock go back over a crash.
    LostFloor,
}

const FAULTS: [Fault; 9] = [
    Fault::EarlySignature,
    Fault::LostQuota,
    Fault::AnyAudience,
    Fault::ActFirst,
    Fault::AnswerFirst,
    Fault::TellFirst,
    Fault::LostUses,
    Fault::ShortLog,
    Fault::LostFloor,
];

/// The size of a world that is explored to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope {
    /// Tokens that are asked for.
    pub(crate) tokens: usize,
    /// How often each may be used.
    pub(crate) uses: u64,
    /// The quota: uses in a window.
    pub(crate) limit: u64,
    /// The last second.
    pub(crate) end: u64,
    /// Calls under way on a host at the same time.
    pub(crate) calls: usize,
    /// Seconds by which a host's clock can jump back.
    pub(crate) lag: u64,
    pub(crate) fault: Option<Fault>,
}

/// Quotas alone; tokens from the service to the act; and one token that is used often, by calls that overtake each other,
/// on a host whose clock jumps.
const SCOPES: [Scope; 3] = [
    Scope { tokens: 5, uses: 1, limit: 2, end: 6, calls: 0, lag: 0, fault: None },
    Scope { tokens: 2, uses: 1, limit: 1, end: 3, calls: 1, lag: 0, fault: None },
    Scope { tokens: 1, uses: 2, limit: 2, end: 3, calls: 2, lag: 2, fault: None },
];

impl Model for Scope {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an act is on the host that the token is for", |_, world: &World| {
                world.acts.iter().all(|act| act.token.audience == act.host)
            }),
            Property::always("a token is used as often as it says, and no more", |_, world: &World| {
                world.signed.iter().all(|token| world.acts_with(token) <= token.uses)
            }),
            Property::always("no act from its expiry on", |_, world: &World| {
                world.acts.iter().all(|act| act.at < act.token.expires)
            }),
            Property::always(
                "what is done, or told to one who observes, has an intent of its own in the log",
                |_, world: &World| {
                    world.hosts.iter().enumerate().all(|(n, host)| world.acts_on(n) <= host.intents)
                },
            ),
            Property::always("who is told that it is done finds it in the log", |_, world: &World| {
                world.hosts.iter().all(|host| host.told <= host.outcomes)
            }),
            Property::always(
                "no more is signed in a window than its limit",
                |scope: &Scope, world: &World| {
                    world
                        .signed
                        .iter()
                        .all(|token| world.cost(|other| other.window == token.window) <= scope.limit)
                },
            ),
            Property::always(
                "no more than twice the limit in any stretch of a window's length",
                |scope: &Scope, world: &World| {
                    let within =
                        |from: u64| move |token: &Token| (from..from + LENGTH).contains(&token.issued);
                    world.signed.iter().all(|token| world.cost(within(token.issued)) <= 2 * scope.limit)
                },
            ),
            Property::sometimes("a host crashes, and then a call is done", |_, world: &World| {
                world.hosts.iter().any(|host| host.crashed && host.told > 0)
            }),
            Property::sometimes(
                "the token service crashes, and then a token is signed",
                |_, world: &World| world.crashed && !world.signed.is_empty(),
            ),
            Property::sometimes(
                "twice the limit is signed in three seconds",
                |scope: &Scope, world: &World| world.cost(|token| token.issued < 4) == 2 * scope.limit,
            ),
            Property::sometimes("a token is used up", |_, world: &World| {
                world.signed.iter().any(|token| world.acts_with(token) == token.uses)
            }),
        ]
    }
}

/// The proofs by exploration.
pub fn proofs<'a>() -> Vec<Proof<'a>> {
    vec![Proof::new(
        "no_order_of_crashes_breaks_a_promise",
        "no token is used elsewhere, more often or longer than it says; no quota is passed; nothing is done that is not recorded",
        explore,
    )]
}

fn explore() -> Result<Proved, Failure> {
    let (mut states, mut depth) = (0, 0);
    let mut never: BTreeSet<&str> = BTreeSet::new();
    let mut happened = BTreeSet::new();
    for scope in SCOPES {
        let checker = scope.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        for property in scope.properties() {
            match found.get(property.name) {
                Some(path) if property.expectation.discovery_is_failure() => {
                    return Err(format!("\"{}\" is broken by {}", property.name, trace(path)));
                }
                Some(_) => drop(happened.insert(property.name)),
                None if !property.expectation.discovery_is_failure() => drop(never.insert(property.name)),
                None => {}
            }
        }
        states += checker.unique_state_count();
        depth = depth.max(checker.max_depth());
    }
    if let Some(never) = never.difference(&happened).next() {
        return Err(format!("\"{never}\" never happens: the worlds are too small"));
    }
    for fault in FAULTS {
        planted(fault)?;
    }
    Ok(Proved {
        space: format!(
            "all {states} states of {} small worlds, up to {depth} events deep, with crashes between any two",
            SCOPES.len()
        ),
        found: format!("found {0} of {0} planted", FAULTS.len()),
    })
}

/// One of the worlds must show the fault.
fn planted(fault: Fault) -> Result<(), Failure> {
    for scope in SCOPES {
        let faulty = Scope { fault: Some(fault), ..scope };
        let checker = faulty.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let broken = |property: &Property<Scope>| {
            property.expectation.discovery_is_failure() && found.contains_key(property.name)
        };
        if faulty.properties().iter().any(broken) {
            return Ok(());
        }
    }
    Err(format!("planted and not found: {fault:?}"))
}

fn trace(path: &stateright::Path<World, Action>) -> String {
    let events: Vec<_> = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
    events.join(", ")
}
