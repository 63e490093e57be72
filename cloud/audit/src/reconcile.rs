//! Compares what callers say that they did with what hosts say was done, and tokens that hosts took with those that
//! the token service signed. An entry on one side only is a gap. No I/O, no clock: time is what it is told, in
//! milliseconds. It stands on the boundary to all of them: nobody's word counts for more than another's.

use crate::entry::Attempt;
use host_api::{Api, LogRecord, RecordKind, RequestId, TokenId};
use ids::{HostId, Identity};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// How long the second side may take.
pub const GRACE: u64 = 30_000;
/// How long a call that both sides told of is remembered, so that told again it is not taken for another.
pub const KEEP: u64 = 60 * 60 * 1000;
/// How long tokens are remembered: longer than any lives.
pub const KEEP_TOKENS: u64 = (token::MAX_LIFETIME + 600) * 1000;
/// Most calls that are remembered. Beyond, the oldest that waits is told as a gap, settled ones are forgotten.
pub const MAX_CALLS: usize = 4_000_000;
/// How soon a gap is looked at again if the other side was not asked yet.
const AGAIN: u64 = 1000;

/// What does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GapKind {
    /// A host recorded a call that no caller told of.
    Unclaimed,
    /// A caller told of a call that the host did not record.
    Unrecorded,
    /// Both told of it, differently.
    Differs,
    /// A host took a token that the token service did not issue to this subject for this host.
    Unissued,
}

impl GapKind {
    /// Stable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unclaimed => "audit.gap.unclaimed",
            Self::Unrecorded => "audit.gap.unrecorded",
            Self::Differs => "audit.gap.differs",
            Self::Unissued => "audit.gap.unissued",
        }
    }

    /// The kind with this code.
    pub fn of(code: &str) -> Option<Self> {
        [Self::Unclaimed, Self::Unrecorded, Self::Differs, Self::Unissued]
            .into_iter()
            .find(|k| k.code() == code)
    }

    /// In a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Unclaimed => "the host recorded a call that nobody told of having made",
            Self::Unrecorded => "a call was told of that the host did not record",
            Self::Differs => "caller and host tell different things of one call",
            Self::Unissued => "the host took a token that the token service did not issue so",
        }
    }
}

/// Something that is on one side only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// What does not match.
    pub kind: GapKind,
    /// At which host.
    pub host: HostId,
    /// Who, as far as one side said.
    pub subject: Option<Identity>,
    /// Which operation.
    pub api: Option<Api>,
    /// Which call.
    pub request: Option<RequestId>,
    /// Which token.
    pub token: Option<TokenId>,
}

/// What one side told of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    host: HostId,
    subject: Option<Identity>,
    api: Option<Api>,
}

/// A request's id is chosen by who makes the request. Whoever acts under one that was used up before, by a request that
/// was refused or by a call elsewhere, must not pass for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Call {
    /// Told of, and waits for the host.
    Caller(Box<Told>),
    /// Recorded as admitted, and waits for its caller.
    Host(Box<Told>),
    /// Recorded as refused, and waits for its caller.
    Refused(Box<Told>),
    /// Told of; it was refused, or did not come as far as the host. If a host says that it did, it must be the same.
    Answered(Box<Told>),
    /// Refused before it was known whose it was; nobody told of it.
    Stranger,
    /// Both sides told of it, or a gap was.
    Settled,
}

impl Call {
    fn waits(&self) -> bool {
        matches!(self, Self::Caller(_) | Self::Host(_) | Self::Refused(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Token {
    Issued(Option<(Identity, HostId)>),
    /// Seen at a host, not in the journal.
    Seen(Box<Told>),
    Settled,
}

/// The state of the comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reconciler {
    grace: u64,
    calls: HashMap<RequestId, Call>,
    tokens: HashMap<TokenId, Token>,
    /// When each is looked at, in that order, and when it fell or falls due.
    waiting: VecDeque<(u64, u64, Subject)>,
    /// In the order in which they are forgotten.
    settled: VecDeque<(u64, RequestId)>,
    known: VecDeque<(u64, TokenId)>,
    /// When the last reading of each log to its end began.
    #[serde(skip)]
    read: HashMap<Option<HostId>, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Subject {
    Call(RequestId),
    Token(TokenId),
}

impl Reconciler {
    /// Nothing told yet.
    pub fn new(grace: u64) -> Self {
        Self {
            grace,
            calls: HashMap::new(),
            tokens: HashMap::new(),
            waiting: VecDeque::new(),
            settled: VecDeque::new(),
            known: VecDeque::new(),
            read: HashMap::new(),
        }
    }

    /// A caller's word. Gives what does not match at once.
    pub fn attempt(&mut self, now: u64, attempt: &Attempt) -> Option<Gap> {
        let told = Told {
            host: attempt.host.clone(),
            subject: Some(attempt.caller.clone()),
            api: Some(attempt.api),
        };
        let gap = |host: &Told| differs(host, &told, &attempt.request);
        match (self.calls.get(&attempt.request), &attempt.code) {
            // It did not come as far as the host, and the host has not said otherwise.
            (Some(Call::Caller(before)), Some(_)) if **before == told => {
                self.end_call(now, &attempt.request, Call::Answered(Box::new(told)));
            }
            (None, None) => self.wait_for_call(now, &attempt.request, Call::Caller(Box::new(told))),
            (Some(Call::Host(host)), None) => {
                let gap = gap(host);
                self.settle_call(now, &attempt.request);
                return gap;
            }
            (Some(Call::Refused(host)), None) => {
                let gap = gap(host);
                self.end_call(now, &attempt.request, Call::Answered(Box::new(told)));
                return gap;
            }
            (Some(Call::Stranger), None) => {
                self.end_call(now, &attempt.request, Call::Answered(Box::new(told)));
            }
            _ => {}
        }
        None
    }

    /// A host's record. Gives what does not match at once.
    pub fn record(&mut self, now: u64, host: &HostId, record: &LogRecord) -> Vec<Gap> {
        let asked = matches!(record.kind, RecordKind::Intent | RecordKind::Refusal);
        let told = || Told { host: host.clone(), subject: record.subject.clone(), api: record.api };
        let mut gaps = Vec::new();
        if let Some(request) = record.request.as_ref().filter(|_| asked) {
            gaps.extend(match record.kind {
                RecordKind::Intent => self.admitted(now, told(), request),
                _ => self.refused(now, told(), request),
            });
        }
        // What a host refused it did not take.
        if let Some(id) = record.token.as_ref().filter(|_| record.kind == RecordKind::Intent) {
            match self.tokens.get(id) {
                None => {
                    self.tokens.insert(id.clone(), Token::Seen(Box::new(told())));
                    self.wait(now, Subject::Token(id.clone()));
                }
                Some(Token::Issued(to)) => gaps.extend(unissued(to.as_ref(), &told(), id)),
                Some(Token::Seen(_) | Token::Settled) => {}
            }
        }
        gaps
    }

    /// A host says that it admitted a request.
    fn admitted(&mut self, now: u64, told: Told, request: &RequestId) -> Option<Gap> {
        match self.calls.get(request) {
            None | Some(Call::Stranger) => self.wait_for_call(now, request, Call::Host(Box::new(told))),
            Some(Call::Refused(_)) => {
                self.calls.insert(request.clone(), Call::Host(Box::new(told)));
            }
            Some(Call::Caller(caller) | Call::Answered(caller)) => {
                let gap = differs(&told, caller, request);
                self.settle_call(now, request);
                return gap;
            }
            // Nobody tells of two calls under one id, and no host admits the same request twice.
            Some(Call::Host(_) | Call::Settled) => {
                return Some(told.gap(GapKind::Differs, Some(request), None));
            }
        }
        None
    }

    /// A host says that it refused a request.
    fn refused(&mut self, now: u64, told: Told, request: &RequestId) -> Option<Gap> {
        match self.calls.get(request) {
            None => self.wait_for_call(now, request, Call::Refused(Box::new(told))),
            Some(Call::Caller(caller)) => {
                let (gap, caller) = (differs(&told, caller, request), caller.clone());
                self.end_call(now, request, Call::Answered(caller));
                return gap;
            }
            Some(_) => {}
        }
        None
    }

    /// A decision of the token service. Gives what does not match at once.
    pub fn issued(&mut self, now: u64, entry: &tokens::Entry) -> Option<Gap> {
        let id: TokenId =
            entry.token.as_ref().filter(|_| entry.kind == tokens::Kind::Issued)?.parse().ok()?;
        let to = entry.subject.clone().zip(entry.audience.clone());
        let before = self.tokens.insert(id.clone(), Token::Issued(to.clone()));
        self.known.push_back((now + KEEP_TOKENS, id.clone()));
        match before {
            Some(Token::Seen(told)) => unissued(to.as_ref(), &told, &id),
            _ => None,
        }
    }

    /// A host's log (or the journal: `None`) was read to its end, and the reading began at `began`.
    pub fn read(&mut self, log: Option<&HostId>, began: u64) {
        self.read.insert(log.cloned(), began);
    }

    /// Whether a caller told of this call before.
    pub fn knows(&self, attempt: &Attempt) -> bool {
        match self.calls.get(&attempt.request) {
            None | Some(Call::Host(_) | Call::Refused(_) | Call::Stranger) => false,
            Some(Call::Caller(_)) => attempt.code.is_none(),
            Some(Call::Answered(_) | Call::Settled) => true,
        }
    }

    /// The gaps that are due. They stay until they are [settled](Self::settle). A host that is not `known` is waited
    /// for no longer than its time: it will never be read.
    pub fn due(&mut self, now: u64, known: impl Fn(&HostId) -> bool) -> Vec<Gap> {
        let (mut gaps, mut again) = (Vec::new(), Vec::new());
        let excess = self.calls.len().saturating_sub(MAX_CALLS).saturating_sub(self.settled.len());
        for _ in 0..self.waiting.len() {
            let crowded = gaps.len() < excess;
            let next = self.waiting.pop_front_if(|(at, ..)| *at <= now || crowded);
            let Some((_, at, subject)) = next else { break };
            if let Some(request) = self.stranger(&subject) {
                self.end_call(now, &request, Call::Stranger);
            }
            match self.judge(&subject, at, (!crowded).then_some(now), &known) {
                Some(Ok(gap)) => gaps.push(gap),
                Some(Err(())) => again.push((now + AGAIN, at, subject)),
                None => {}
            }
        }
        again.into_iter().rev().for_each(|waits| self.waiting.push_front(waits));
        self.forget(now);
        gaps
    }

    /// A request that a host refused before it knew whose it was. Nobody need tell of it; but who did is answered.
    fn stranger(&self, subject: &Subject) -> Option<RequestId> {
        let Subject::Call(request) = subject else { return None };
        let unknown = matches!(self.calls.get(request), Some(Call::Refused(told)) if told.subject.is_none());
        unknown.then(|| request.clone())
    }

    /// What waits is a gap, or was settled (`None`), or its other side was not read since it fell due (`Err`). Without
    /// `now` there is no room to wait any more.
    fn judge(
        &self,
        subject: &Subject,
        at: u64,
        now: Option<u64>,
        known: impl Fn(&HostId) -> bool,
    ) -> Option<Result<Gap, ()>> {
        let read = |log: &Option<HostId>| {
            now.is_none_or(|now| at > now) || self.read.get(log).is_some_and(|began| *began >= at)
        };
        match subject {
            Subject::Call(request) => match self.calls.get(request)? {
                Call::Settled | Call::Answered(_) | Call::Stranger => None,
                Call::Host(told) | Call::Refused(told) => {
                    Some(Ok(told.gap(GapKind::Unclaimed, Some(request), None)))
                }
                Call::Caller(told) if !known(&told.host) || read(&Some(told.host.clone())) => {
                    Some(Ok(told.gap(GapKind::Unrecorded, Some(request), None)))
                }
                Call::Caller(_) => Some(Err(())),
            },
            Subject::Token(id) => match self.tokens.get(id)? {
                Token::Seen(told) if read(&None) => Some(Ok(told.gap(GapKind::Unissued, None, Some(id)))),
                Token::Seen(_) => Some(Err(())),
                Token::Issued(_) | Token::Settled => None,
            },
        }
    }

    /// A gap was told of.
    pub fn settle(&mut self, now: u64, request: Option<&RequestId>, token: Option<&TokenId>) {
        if let Some(request) = request {
            self.settle_call(now, request);
        }
        if let Some(id) = token {
            self.tokens.insert(id.clone(), Token::Settled);
            self.known.push_back((now + KEEP_TOKENS, id.clone()));
        }
    }

    /// After a pause in which nobody could tell anything, all have the whole grace again.
    pub fn resume(&mut self, now: u64) {
        let due = now + self.grace;
        self.waiting.iter_mut().for_each(|(at, since, _)| (*at, *since) = (due, due));
    }

    /// How many calls and tokens wait for their other side.
    pub fn open(&self) -> usize {
        self.waiting.len()
    }

    fn wait_for_call(&mut self, now: u64, request: &RequestId, call: Call) {
        self.calls.insert(request.clone(), call);
        self.wait(now, Subject::Call(request.clone()));
    }

    fn wait(&mut self, now: u64, subject: Subject) {
        let due = now + self.grace;
        self.waiting.push_back((due, due, subject));
    }

    fn settle_call(&mut self, now: u64, request: &RequestId) {
        self.end_call(now, request, Call::Settled);
    }

    fn end_call(&mut self, now: u64, request: &RequestId, as_what: Call) {
        self.calls.insert(request.clone(), as_what);
        self.settled.push_back((now + KEEP, request.clone()));
    }

    fn forget(&mut self, now: u64) {
        while let Some((at, request)) = self.settled.front()
            && (*at <= now || self.calls.len() > MAX_CALLS)
        {
            // It may wait again under the same id.
            if self.calls.get(request).is_some_and(|call| !call.waits()) {
                self.calls.remove(request);
            }
            self.settled.pop_front();
        }
        while let Some((at, id)) = self.known.front()
            && (*at <= now || self.tokens.len() > MAX_CALLS)
        {
            self.tokens.remove(id);
            self.known.pop_front();
        }
    }
}

impl Told {
    fn gap(&self, kind: GapKind, request: Option<&RequestId>, token: Option<&TokenId>) -> Gap {
        Gap {
            kind,
            host: self.host.clone(),
            subject: self.subject.clone(),
            api: self.api,
            request: request.cloned(),
            token: token.cloned(),
        }
    }
}

/// A host that refused before it knew whose call it was names no subject.
fn differs(host: &Told, caller: &Told, request: &RequestId) -> Option<Gap> {
    let same = host.host == caller.host
        && host.api == caller.api
        && (host.subject.is_none() || host.subject == caller.subject);
    (!same).then(|| host.gap(GapKind::Differs, Some(request), None))
}

fn unissued(to: Option<&(Identity, HostId)>, told: &Told, id: &TokenId) -> Option<Gap> {
    let same = to.is_some_and(|(subject, host)| Some(subject) == told.subject.as_ref() && *host == told.host);
    (!same).then(|| told.gap(GapKind::Unissued, None, Some(id)))
}

#[cfg(test)]
mod tests;
