//! Two masters, a controller that dies and comes back, somebody who writes the flash past the chip, torn updates and
//! cut power, in every order. The chip is the one that ships ([`chip_core::Chip`]); the model only brings events.

use super::{
    flash::{TORN, VARIABLES},
    world::{Action, GOOD, World},
};
use crate::report::{Failure, Proved};
use chip_core::{Line, Master};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;

/// What the model does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Refused writes reach the flash nevertheless.
    WrittenThrough,
    /// What the BMC writes reaches the processors' variables.
    OthersVariables,
    /// Refused writes are not counted.
    Unrecorded,
    /// The image is authorised by its own digest.
    OwnDigest,
    /// Firmware is written while its processor runs.
    UnderARunningProcessor,
    /// What is read back after an update is what was sent.
    BlindReadBack,
    /// The board reads the flash as it is, not as it was measured.
    LiveFlash,
    /// Variables outlive a hold.
    KeptVariables,
    /// Firmware is released that is not known.
    AnyFirmware,
    /// Only the processors' firmware is compared.
    OneFirmware,
    /// What is named at release is what is there then.
    LateLook,
    /// The chip lets the processors be held when the controller dies.
    DeathHolds,
}

const FAULTS: [Fault; 12] = [
    Fault::WrittenThrough,
    Fault::OthersVariables,
    Fault::Unrecorded,
    Fault::OwnDigest,
    Fault::UnderARunningProcessor,
    Fault::BlindReadBack,
    Fault::LiveFlash,
    Fault::KeptVariables,
    Fault::AnyFirmware,
    Fault::OneFirmware,
    Fault::LateLook,
    Fault::DeathHolds,
];

/// The size of a world that is explored to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// How often the controller dies.
    pub(super) deaths: u8,
    /// How often it wants an update.
    pub(super) updates: u8,
    /// How often somebody writes the flash past the chip.
    pub(super) tampers: u8,
    /// Whether updates are torn.
    pub(super) tears: bool,
    /// How often the power is cut.
    pub(super) cuts: u8,
    pub(super) fault: Option<Fault>,
}

const SCOPE: Scope = Scope { deaths: 1, updates: 2, tampers: 1, tears: true, cuts: 1, fault: None };

impl Model for Scope {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no write reaches flash without authorisation of those exact bytes",
                |_, world: &World| world.chip.flash().code == world.expected,
            ),
            Property::always("reset is never released before verification", |_, world: &World| {
                Line::ALL.iter().zip(world.verified).all(|(line, verified)| {
                    world.chip.holds(*line)
                        || verified.is_some_and(|images| images.iter().all(|image| *image < GOOD))
                })
            }),
            Property::always("what runs is what was verified", |_, world: &World| {
                Master::ALL.into_iter().all(|master| {
                    world.chip.running(master).is_none_or(|digest| {
                        let served = world.chip.flash().served[master as usize];
                        digest == super::flash::digest_of(served) && served < GOOD
                    })
                })
            }),
            Property::always("processors run on a released board only", |_, world: &World| {
                world.chip.holds(Line::Cpu) || !world.chip.holds(Line::Board)
            }),
            Property::always("variables do not outlive a hold", |_, world: &World| {
                !world.chip.holds(Line::Cpu) || world.chip.flash().variables == VARIABLES
            }),
            Property::always("every refused write is recorded", |_, world: &World| !world.broken.unrecorded),
            Property::always("nobody but controller and power moves a line", |_, world: &World| {
                !world.broken.moved
            }),
            Property::always("no access changes what others read", |_, world: &World| !world.broken.reached),
            Property::sometimes("an update is done", |_, world: &World| world.updated),
            Property::sometimes("a write is refused while no controller lives", |_, world: &World| {
                world.refused_alone && world.controller_is_dead() && !world.chip.holds(Line::Cpu)
            }),
            Property::sometimes("a controller that came back serves", |_, world: &World| {
                world.serves_again() && world.chip.flash().code != [0; 2]
            }),
            Property::sometimes("a torn flash stays held", |_, world: &World| {
                world.is_out_of_service() && world.chip.flash().code[0] == TORN && world.chip.holds(Line::Cpu)
            }),
            Property::sometimes("the BMC runs while the processors are held", |_, world: &World| {
                !world.chip.holds(Line::Bmc) && world.chip.holds(Line::Cpu)
            }),
            Property::sometimes("variables are written", |_, world: &World| {
                world.chip.flash().variables != VARIABLES
            }),
        ]
    }
}

/// Explores everything; then wants each planted fault found.
pub(super) fn explore() -> Result<Proved, Failure> {
    let checker = SCOPE.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    for property in SCOPE.properties() {
        let failure = property.expectation.discovery_is_failure();
        match found.get(property.name) {
            Some(path) if failure => {
                return Err(format!("\"{}\" is broken by {:?}", property.name, path.clone().into_actions()));
            }
            None if !failure => {
                return Err(format!("\"{}\" never happens: the world is too small", property.name));
            }
            _ => {}
        }
    }
    let mut broken = BTreeSet::new();
    for fault in FAULTS {
        broken.insert(planted(fault)?);
    }
    let always = SCOPE.properties().into_iter().filter(|p| p.expectation.discovery_is_failure()).count();
    Ok(Proved {
        space: format!(
            "all {} states of a world of two masters, a dying controller, {} updates, tampering and a power cut, up to {} events deep",
            checker.unique_state_count(),
            SCOPE.updates,
            checker.max_depth()
        ),
        found: format!("found {0} of {0} planted, by {1} of {always} properties", FAULTS.len(), broken.len()),
    })
}

/// The property that shows the fault.
fn planted(fault: Fault) -> Result<&'static str, Failure> {
    let faulty = Scope { fault: Some(fault), ..SCOPE };
    let checker = faulty.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let broken = |property: &Property<Scope>| {
        property.expectation.discovery_is_failure() && found.contains_key(property.name)
    };
    let first = faulty.properties().into_iter().find(broken);
    first.map(|property| property.name).ok_or_else(|| format!("planted and not found: {fault:?}"))
}
