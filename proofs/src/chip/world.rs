//! The world, and what one event makes of it.

use super::{
    flash::{Flashes, Tear, Wrong, digest_of, page},
    model::{Fault, Scope},
};
use chip_core::{Chip, Flash, Line, Master, Region, State, address};
use std::hash::{Hash, Hasher};

/// Images below this are known to be good.
pub(super) const GOOD: u8 = 2;
/// What somebody writes who writes past the chip.
const BAD: u8 = 2;

/// What the controller does next. It is dead, or does one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    Dead,
    /// Holds the lines, from this one on.
    Hold(usize),
    /// Measures both flashes, from this one on.
    Measure(usize),
    /// Compares, and lets the lines go, from this one on.
    Release(usize),
    Serving,
    /// Found what it does not know: everything stays as it is.
    OutOfService,
}

/// The controller, as far as it has to do with the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Controller {
    phase: Phase,
    /// What it measured, as image numbers.
    seen: [u8; 2],
}

/// What never may become true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Broken {
    /// A refused write is not in the record.
    pub(super) unrecorded: bool,
    /// A line moved that nobody moved.
    pub(super) moved: bool,
    /// An access changed what another master reads, or a flash.
    pub(super) reached: bool,
}

/// Everything. The chip's record is kept, and looked at in each step; it is no part of what tells worlds apart.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) chip: Chip<Flashes, 1>,
    controller: Controller,
    /// What each flash must hold: what it held, or exactly what was authorised.
    pub(super) expected: [u8; 2],
    /// What had been verified when a line was let go, in the order of [`Line::ALL`].
    pub(super) verified: [Option<[u8; 2]>; 3],
    pub(super) broken: Broken,
    /// What happened at least once.
    pub(super) updated: bool,
    pub(super) refused_alone: bool,
    deaths: u8,
    updates: u8,
    tampered: u8,
    cuts: u8,
}

/// What tells worlds apart.
type Key<'a> =
    (State, &'a Flashes, Controller, ([u8; 2], [Option<[u8; 2]>; 3], Broken), ([bool; 2], [u8; 4]));

impl World {
    fn key(&self) -> Key<'_> {
        (
            self.chip.state(),
            self.chip.flash(),
            self.controller,
            (self.expected, self.verified, self.broken),
            ([self.updated, self.refused_alone], [self.deaths, self.updates, self.tampered, self.cuts]),
        )
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// What a master can do on its buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    WriteEnable,
    /// Programs a page with zeros: of the variables, or of the code.
    Program {
        code: bool,
    },
    EraseAll,
    /// A command that the chip does not know.
    Unknown,
    /// Writes a page where the flash is mapped.
    Map {
        code: bool,
    },
    /// Writes the reset controller.
    Reset,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A master accesses a flash: its own or the other's.
    Access(Master, Master, Access),
    /// The guest resets the processors.
    GuestReset,
    /// The controller takes its next step.
    Step,
    /// The serving controller starts again with holding.
    PowerCycle,
    /// The controller wants an update: of this flash, authorising this image, with that one beside it.
    Update(Master, u8, u8),
    /// The controller dies.
    Die,
    /// And starts again.
    Start,
    /// Somebody writes a flash past the chip.
    Tamper(Master),
    /// The next update is torn.
    Tear(Tear),
    /// The power is cut, and comes back. The controller dies with it.
    PowerCut,
}

impl World {
    pub(super) fn new(scope: &Scope) -> Self {
        let wrong = Wrong {
            reads_back_what_was_sent: scope.fault == Some(Fault::BlindReadBack),
            serves_the_flash: scope.fault == Some(Fault::LiveFlash),
            keeps_variables: scope.fault == Some(Fault::KeptVariables),
        };
        Self {
            chip: Chip::new(Flashes::new([0; 2], wrong)),
            controller: Controller { phase: Phase::Hold(0), seen: [0; 2] },
            expected: [0; 2],
            verified: [None; 3],
            broken: Broken::default(),
            updated: false,
            refused_alone: false,
            deaths: 0,
            updates: 0,
            tampered: 0,
            cuts: 0,
        }
    }

    pub(super) fn controller_is_dead(&self) -> bool {
        self.controller.phase == Phase::Dead
    }

    /// The controller died before and serves again.
    pub(super) fn serves_again(&self) -> bool {
        self.deaths > 0 && self.controller.phase == Phase::Serving
    }

    pub(super) fn is_out_of_service(&self) -> bool {
        self.controller.phase == Phase::OutOfService
    }

    pub(super) fn actions(&self, scope: &Scope, actions: &mut Vec<Action>) {
        let accesses = [
            Access::WriteEnable,
            Access::Program { code: false },
            Access::Program { code: true },
            Access::EraseAll,
            Access::Unknown,
        ];
        for master in Master::ALL {
            for owner in Master::ALL {
                actions.extend(accesses.map(|access| Action::Access(master, owner, access)));
            }
            actions.push(Action::Access(master, master, Access::Reset));
        }
        let map = |code| Action::Access(Master::Cpu, Master::Cpu, Access::Map { code });
        actions.extend([map(false), map(true), Action::GuestReset]);
        match self.controller.phase {
            Phase::Dead => actions.push(Action::Start),
            phase => {
                actions.push(Action::Step);
                actions.extend((phase == Phase::Serving).then_some(Action::PowerCycle));
                actions.extend((self.deaths < scope.deaths).then_some(Action::Die));
                if self.updates < scope.updates {
                    for of in Master::ALL {
                        actions.extend([(1, 1), (1, 0), (1, BAD)].map(|(a, b)| Action::Update(of, a, b)));
                    }
                }
            }
        }
        if self.tampered < scope.tampers {
            actions.extend(Master::ALL.map(Action::Tamper));
        }
        if scope.tears && self.updates < scope.updates && self.chip.flash().tear.is_none() {
            actions.extend([Tear::Told, Tear::Silent].map(Action::Tear));
        }
        actions.extend((self.cuts < scope.cuts).then_some(Action::PowerCut));
    }

    /// The world after an event; `None` if nothing happens.
    pub(super) fn after(&self, scope: &Scope, action: Action) -> Option<Self> {
        let mut next = self.clone();
        match action {
            Action::Access(master, owner, access) => next.access(scope, master, owner, access),
            Action::GuestReset => next.chip.restarted(Master::Cpu),
            Action::Step => next.step(scope)?,
            Action::PowerCycle => next.controller.phase = Phase::Hold(0),
            Action::Update(of, authorised, image) => next.update(scope, of, authorised, image),
            Action::Die => {
                next.controller.phase = Phase::Dead;
                next.deaths += 1;
                if scope.fault == Some(Fault::DeathHolds) {
                    next.chip.hold(Line::Cpu);
                }
            }
            Action::Start => next.controller = Controller { phase: Phase::Hold(0), seen: [0; 2] },
            Action::Tamper(of) => {
                next.tampered += 1;
                next.expected[of as usize] = BAD;
                next.flashes(|flashes| flashes.write(of, BAD));
            }
            Action::Tear(tear) => next.flashes(|flashes| flashes.tear = Some(tear)),
            Action::PowerCut => {
                next.cuts += 1;
                next.controller.phase = Phase::Dead;
                let Flashes { code, wrong, .. } = *next.chip.flash();
                next.chip = Chip::new(Flashes::new(code, wrong));
                next.verified = [None; 3];
            }
        }
        // Only these move lines.
        let moves = matches!(action, Action::Step | Action::PowerCut);
        next.broken.moved |= !moves && next.lines() != self.lines();
        for (line, verified) in Line::ALL.into_iter().zip(&mut next.verified) {
            if next.chip.holds(line) {
                *verified = None;
            }
        }
        (next != *self).then_some(next)
    }

    fn lines(&self) -> [bool; 3] {
        Line::ALL.map(|line| self.chip.holds(line))
    }

    /// Changes the flashes past the chip.
    fn flashes(&mut self, change: impl FnOnce(&mut Flashes)) {
        change(self.chip.past_the_chip());
    }

    fn access(&mut self, scope: &Scope, master: Master, owner: Master, access: Access) {
        let before = self.chip.flash().clone();
        let refused = self.chip.record().refused_writes();
        let enabled = self.chip.state().write_enabled(master);
        let select = owner as u8;
        let own = master == owner;
        let address = |code: bool| if code && owner == Master::Cpu { 1 } else { 0 };
        // What the chip must count: all that would change something, but for the processors' own variables.
        let mut attempt = enabled || !own;
        match access {
            Access::WriteEnable => {
                self.chip.spi(master, select, &[6], &mut []);
                attempt = false;
            }
            // Somebody keeps it from the chip.
            Access::Program { code: true } if scope.fault == Some(Fault::Unrecorded) => {}
            Access::Program { code } => {
                self.chip.spi(master, select, &[2, 0, address(code), 0, 0], &mut []);
                let variables = owner == Master::Cpu && !code;
                attempt &= !(variables && own && !self.chip.holds(Line::Cpu));
            }
            Access::EraseAll => self.chip.spi(master, select, &[0x60], &mut []),
            Access::Unknown => {
                self.chip.spi(master, select, &[1, 0], &mut []);
                // To the other's flash it may be a read as well; that is refused too.
                attempt &= own;
            }
            Access::Map { code } => {
                let region = if code { Region::Code(Master::Cpu) } else { Region::Variables };
                let done = self.chip.map_write(region, 0, page(0));
                attempt = done.is_err();
                self.broken.reached |= done.is_ok() && code;
            }
            Access::Reset => {
                self.chip.i2c(master, address::RESET, &[2, 7], &mut []);
                attempt = true;
            }
        }
        if scope.fault == Some(Fault::WrittenThrough) && attempt && access == (Access::Program { code: true })
        {
            self.flashes(|flashes| flashes.write(owner, BAD));
        }
        if scope.fault == Some(Fault::OthersVariables)
            && master == Master::Bmc
            && access == (Access::Program { code: false })
        {
            self.flashes(|flashes| flashes.overlay(0, page(0)));
        }
        let counted = self.chip.record().refused_writes() > refused;
        self.broken.unrecorded |= attempt && !counted;
        self.refused_alone |= attempt && counted && self.controller.phase == Phase::Dead;
        let after = self.chip.flash();
        let variables_changed = after.variables != before.variables;
        self.broken.reached |= after.code != before.code
            || after.served != before.served
            || variables_changed && (master != Master::Cpu || self.chip.holds(Line::Cpu));
    }

    /// What a controller does: hold, measure, compare, release, serve.
    fn step(&mut self, scope: &Scope) -> Option<()> {
        let Controller { phase, seen } = self.controller;
        self.controller.phase = match phase {
            Phase::Dead | Phase::OutOfService | Phase::Serving => return None,
            Phase::Hold(n) => {
                // In the order in which the controller holds them.
                let order = [Line::Cpu, Line::Board, Line::Bmc];
                self.chip.hold(order[n]);
                if n + 1 < order.len() { Phase::Hold(n + 1) } else { Phase::Measure(0) }
            }
            Phase::Measure(n) => {
                self.controller.seen[n] = self.chip.measure(Master::ALL[n]).ok()?[0];
                if n == 0 { Phase::Measure(1) } else { Phase::Release(0) }
            }
            Phase::Release(n) => {
                let known = match scope.fault {
                    Some(Fault::AnyFirmware) => true,
                    Some(Fault::OneFirmware) => seen[0] < GOOD,
                    _ => seen.iter().all(|image| *image < GOOD),
                };
                if known && self.release(scope, Line::ALL[n], seen) {
                    if n + 1 < Line::ALL.len() { Phase::Release(n + 1) } else { Phase::Serving }
                } else {
                    Phase::OutOfService
                }
            }
        };
        Some(())
    }

    fn release(&mut self, scope: &Scope, line: Line, seen: [u8; 2]) -> bool {
        let named = match scope.fault {
            // Names what is there, not what it saw.
            Some(Fault::LateLook) => self.chip.flash().code,
            _ => seen,
        };
        let released = self.chip.release(line, &named.map(digest_of)).is_ok();
        let place = Line::ALL.iter().position(|other| *other == line);
        if let Some(verified) = place.and_then(|place| self.verified.get_mut(place)).filter(|_| released) {
            *verified = Some(seen);
        }
        released
    }

    fn update(&mut self, scope: &Scope, of: Master, authorised: u8, image: u8) {
        self.updates += 1;
        let held = self.chip.holds(of.line());
        let tear = self.chip.flash().tear;
        let allowed = held && authorised == image;
        if allowed {
            self.expected[of as usize] = if tear.is_some() { super::flash::TORN } else { image };
        }
        match scope.fault {
            Some(Fault::OwnDigest) => drop(self.chip.update(of, &digest_of(image), page(image))),
            Some(Fault::UnderARunningProcessor) if authorised == image => {
                self.flashes(|flashes| flashes.write(of, image));
            }
            _ => {
                let done = self.chip.update(of, &digest_of(authorised), page(image)).is_ok();
                self.updated |= done;
            }
        }
    }
}
