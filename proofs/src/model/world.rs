//! The world, and what one event makes of it.

use super::{Fault, Scope};
use decision::{
    Call, Charge, Reason, Times,
    admission::{Admission, Answer, Asked, Event, Gate, Record, Step},
};
use tokens::ledger::{Capacity, Charge as Quota, Durable, Ledger, Write};

/// The length of the quota's window in seconds.
pub(crate) const LENGTH: u64 = 2;
/// The life of a token in seconds.
const LIFE: u64 = 2;
const ROOM: Capacity = Capacity { entries: 1000, refusals: 900, strangers: 800 };

/// A token, signed or about to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) id: u8,
    /// The host that it is for.
    pub(crate) audience: usize,
    pub(crate) issued: u64,
    pub(crate) expires: u64,
    pub(crate) uses: u64,
    /// When the window began that its uses were taken from.
    pub(crate) window: u64,
}

/// Something that was done, or told to one who only observes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Act {
    pub(crate) token: Token,
    pub(crate) host: usize,
    /// The latest time that the host had seen when it decided, by its clock or in its log.
    pub(crate) at: u64,
}

/// A call under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Under {
    token: Token,
    observes: bool,
    at: u64,
    admission: Admission<Reason>,
    step: Step<Reason>,
}

impl Under {
    fn act(&self, host: usize) -> Act {
        Act { token: self.token.clone(), host, at: self.at }
    }
}

/// A host with its log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    gate: Gate,
    calls: Vec<Under>,
    /// Time and token of each record; the token only of intents.
    log: Vec<(u64, Option<u8>)>,
    /// Whether records were let go of.
    shortened: bool,
    lag: u64,
    /// The latest time that it has read: as in the controller, its clock does not go back while it runs.
    seen: u64,
    /// Intents that ever were durable.
    pub(crate) intents: usize,
    /// Outcomes that ever were durable.
    pub(crate) outcomes: usize,
    /// How often somebody was told that it is done.
    pub(crate) told: usize,
    pub(crate) crashed: bool,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    now: u64,
    ledger: Ledger,
    durable: Durable,
    /// Grants on their way to a signature: those before `stored` are durable.
    grants: Vec<(Write, Token)>,
    stored: usize,
    asked: usize,
    pub(crate) signed: Vec<Token>,
    pub(crate) hosts: [Host; 2],
    pub(crate) acts: Vec<Act>,
    pub(crate) crashed: bool,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A second goes by.
    Tick,
    /// Somebody asks for a token for the first host. The other is where such tokens are of no use.
    Ask,
    /// The next grant becomes durable.
    Store,
    /// The first grant is signed.
    Sign,
    /// The token service crashes.
    CrashTokens,
    /// Somebody calls a host with a token, to change something or only to observe.
    Present(usize, usize, bool),
    /// A call under way takes its next step; if that is a record, it is written or fails.
    Go(usize, usize, bool),
    /// A host crashes.
    CrashHost(usize),
    /// A host lets go of its oldest record.
    Shorten(usize),
    /// A host's clock jumps back.
    Back(usize),
}

impl Host {
    fn new() -> Self {
        Self {
            gate: Gate::restart(0, 0, 16),
            calls: Vec::new(),
            log: Vec::new(),
            shortened: false,
            lag: 0,
            seen: 0,
            intents: 0,
            outcomes: 0,
            told: 0,
            crashed: false,
        }
    }

    fn last(&self) -> u64 {
        self.log.last().map_or(0, |(time, _)| *time)
    }

    /// Reads the clock.
    fn time(&mut self, now: u64) -> u64 {
        self.seen = self.seen.max(now.saturating_sub(self.lag));
        self.seen
    }

    /// Starts again from the log.
    fn restart(&mut self, fault: Option<Fault>) {
        let since = self.log.first().filter(|_| self.shortened && fault != Some(Fault::ShortLog));
        let floor = if fault == Some(Fault::LostFloor) { 0 } else { self.last() };
        self.seen = floor;
        self.gate = Gate::restart(floor, since.map_or(0, |(time, _)| time + 1), 16);
        for (time, token) in self.log.iter().filter(|_| fault != Some(Fault::LostUses)) {
            if let Some(token) = token {
                self.gate.recount([*token; 16], time + LIFE + 1);
            }
        }
        self.calls.clear();
        self.crashed = true;
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            now: 1,
            ledger: Ledger::restart(ROOM, Durable::default()),
            durable: Durable::default(),
            grants: Vec::new(),
            stored: 0,
            asked: 0,
            signed: Vec::new(),
            hosts: [Host::new(), Host::new()],
            acts: Vec::new(),
            crashed: false,
        }
    }

    /// How much the signed tokens that `which` says took from the quota.
    pub(crate) fn cost(&self, which: impl Fn(&Token) -> bool) -> u64 {
        self.signed.iter().filter(|token| which(token)).map(|token| token.uses).sum()
    }

    pub(crate) fn acts_with(&self, token: &Token) -> u64 {
        self.acts.iter().filter(|act| act.token.id == token.id).map(|_| 1).sum()
    }

    pub(crate) fn acts_on(&self, host: usize) -> usize {
        self.acts.iter().filter(|act| act.host == host).count()
    }

    /// What can happen now.
    pub(crate) fn actions(&self, scope: &Scope, actions: &mut Vec<Action>) {
        if self.now < scope.end {
            actions.push(Action::Tick);
        }
        if self.asked < scope.tokens {
            actions.push(Action::Ask);
        }
        actions.extend((self.stored < self.grants.len()).then_some(Action::Store));
        if !self.grants.is_empty() {
            actions.extend([Action::Sign, Action::CrashTokens]);
        }
        for (n, host) in self.hosts.iter().enumerate() {
            if host.calls.len() < scope.calls {
                let calls = (0..self.signed.len()).flat_map(|token| [(token, false), (token, true)]);
                actions.extend(calls.map(|(token, observes)| Action::Present(n, token, observes)));
            }
            for (call, under) in host.calls.iter().enumerate() {
                actions.push(Action::Go(n, call, true));
                actions.extend(matches!(under.step, Step::Write(_)).then_some(Action::Go(n, call, false)));
            }
            actions.extend((scope.calls > 0).then_some(Action::CrashHost(n)));
            // A log is let go of up to a checkpoint, which is a record itself.
            actions.extend((host.log.len() > 1).then_some(Action::Shorten(n)));
            actions.extend((host.lag < scope.lag).then_some(Action::Back(n)));
        }
    }

    /// The world after an event; `None` if nothing happens.
    pub(crate) fn after(&self, scope: &Scope, action: Action) -> Option<Self> {
        let mut next = self.clone();
        match action {
            Action::Tick => next.now += 1,
            Action::Ask => next.ask(scope)?,
            Action::Store => {
                let (write, _) = next.grants.get(next.stored)?;
                next.durable.apply(write);
                next.ledger.durable(write.seq);
                next.stored += 1;
            }
            Action::Sign => {
                let (write, token) = next.grants.first()?.clone();
                let allowed = next.ledger.permit(&write).is_some();
                (allowed || scope.fault == Some(Fault::EarlySignature)).then_some(())?;
                next.grants.remove(0);
                next.stored = next.stored.saturating_sub(1);
                next.signed.push(token);
                next.signed.sort();
            }
            Action::CrashTokens => {
                (next.grants, next.stored, next.crashed) = (Vec::new(), 0, true);
                if scope.fault == Some(Fault::LostQuota) {
                    next.durable.windows.clear();
                }
                next.ledger = Ledger::restart(ROOM, next.durable.clone());
            }
            Action::Present(host, token, observes) => next.present(scope, host, token, observes)?,
            Action::Go(host, call, written) => next.go(scope, host, call, written)?,
            Action::CrashHost(host) => next.hosts.get_mut(host)?.restart(scope.fault),
            Action::Shorten(host) => {
                let host = next.hosts.get_mut(host)?;
                host.log.remove(0);
                host.shortened = true;
            }
            Action::Back(host) => next.hosts.get_mut(host)?.lag = scope.lag,
        }
        Some(next)
    }

    fn ask(&mut self, scope: &Scope) -> Option<()> {
        let quota = Quota { quota: "q".to_owned(), limit: scope.limit, window: LENGTH, cost: scope.uses };
        let write = self.ledger.grant(&[quota], self.now).ok()?;
        let window = write.windows.first().map_or(0, |(_, window)| window.start);
        let id = u8::try_from(self.asked).ok()?;
        let (issued, expires) = (self.now, self.now + LIFE);
        self.asked += 1;
        self.grants.push((write, Token { id, audience: 0, issued, expires, uses: scope.uses, window }));
        Some(())
    }

    fn present(&mut self, scope: &Scope, at: usize, token: usize, observes: bool) -> Option<()> {
        let token = self.signed.get(token)?.clone();
        let host = self.hosts.get_mut(at)?;
        let now = host.time(self.now);
        let call = Call {
            times: Times {
                now,
                floor: 0,
                skew: 1,
                issued: token.issued,
                not_before: token.issued,
                expires: token.expires,
                max_life: LIFE,
            },
            audience: token.audience == at || scope.fault == Some(Fault::AnyAudience),
            holder: true,
            fresh: true,
            operation: true,
            resource: true,
            content: false,
            recorded: false,
            charge: Charge { used: 0, cost: 1, limit: token.uses },
        };
        let (admission, step) = host.gate.admit(Ok(Asked { token: [token.id; 16], call, observes }));
        // A refusal is written down and told; nothing else comes of it.
        if !matches!(step, Step::Write(Record::Refusal(_))) {
            let at = now.max(host.last());
            host.calls.push(Under { token, observes, at, admission, step });
        }
        Some(())
    }

    fn go(&mut self, scope: &Scope, at: usize, call: usize, written: bool) -> Option<()> {
        let host = self.hosts.get_mut(at)?;
        let under = host.calls.get(call)?.clone();
        let event = match &under.step {
            Step::Write(record) => {
                let time = host.time(self.now).max(host.last());
                let (wrong, intent, outcome) = match record {
                    Record::Intent => (Fault::ActFirst, true, false),
                    Record::Observation(_) => (Fault::TellFirst, true, true),
                    Record::Outcome(_) | Record::Refusal(_) => (Fault::AnswerFirst, false, true),
                };
                if written {
                    host.log.extend(intent.then_some((time, Some(under.token.id))));
                    host.log.extend(outcome.then_some((time, None)));
                    host.intents += usize::from(intent);
                    host.outcomes += usize::from(outcome);
                }
                if written || scope.fault == Some(wrong) { Event::Durable } else { Event::Unlogged }
            }
            Step::Act => {
                self.acts.push(under.act(at));
                self.acts.sort();
                Event::Acted(Ok(()))
            }
            Step::Observe => Event::Acted(Ok(())),
            Step::Answer(answer) => {
                let done = *answer == Answer::Done;
                host.told += usize::from(done);
                host.calls.remove(call);
                if done && under.observes {
                    self.acts.push(under.act(at));
                    self.acts.sort();
                }
                return Some(());
            }
        };
        let (admission, step) = under.admission.next(event);
        *host.calls.get_mut(call)? = Under { admission, step, ..under };
        Some(())
    }
}
