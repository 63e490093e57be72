//! The console of an instance in a hypervisor of its own, at its tenant's side: output is opened and input sealed
//! here; the control plane, the host and its log carry ciphertext.

use super::{Console as Ask, tenant::Keys};
use crate::{
    cloud::{self, Cloud, Who},
    console::{LEAVE, raw},
    failure::{Doing, Failure},
    interrupt, out,
    out::Out,
    place::Place,
};
use host_api::{Api, Call, ReadConsole, Resource, SealedConsole, WriteConsole};
use ids::InstanceId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::isatty,
};
use seal::console::Tenant;
use serde_json::json;
use service::CallError;
use std::{
    io::{self, ErrorKind, Write},
    thread::sleep,
    time::Duration,
};

/// Life of a token that a session uses; its end brings another one.
const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// How soon output is asked for again: soon after there was some, later when there was none. Each read is in the
/// host's log, and more than one in a second is more than the monitor takes for usual at first.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(2);
/// Bytes of input in a message: a guest takes a few thousand ahead.
const CHUNK: usize = 1024;
/// How often input is sent anew that the guest had no room for, and how long in between.
const TRIES: u32 = 50;
const AGAIN: Duration = Duration::from_millis(200);

/// `azote instance console`.
pub(super) fn run(out: Out, place: &Place, cloud: &Cloud, ask: &Ask) -> Result<(), Failure> {
    let keys = Keys::of(place);
    let tenant = keys.tenant(&ask.instance, ask.trust)?;
    let instance = ask.instance.clone();
    let carrier = Calls { cloud, instance: instance.clone(), token: None };
    let mut session = Session { carrier, keys, instance, tenant, next: ask.after, lost: 0 };
    if let Some(text) = &ask.send {
        session.rest()?;
        session.send(format!("{text}\n").as_bytes())?;
    }
    if ask.follow {
        return session.follow(out);
    }
    if let Some(text) = &ask.send {
        let next = session.next;
        let words = format!("sent; its output: azote instance console {} --after {next}", ask.instance);
        out.result(&words, &json!({"sent": text.len() + 1, "next": next}));
        return Ok(());
    }
    let output = session.rest()?;
    session.tell_loss(out);
    let text = String::from_utf8_lossy(&output);
    let value = json!({"output": text, "lost": session.lost, "next": session.next});
    out.result(text.trim_end_matches('\n'), &value);
    Ok(())
}

/// Whoever brings sealed messages from and to an instance.
trait Carrier {
    /// Output from a byte on: where it ends, and the sealed message, which is empty if nothing is new.
    fn read(&mut self, after: u64) -> Result<(u64, Vec<u8>), Failure>;
    /// Sealed input.
    fn write(&mut self, sealed: &[u8]) -> Result<(), Failure>;
}

/// The control plane's calls at the host's door.
struct Calls<'a> {
    cloud: &'a Cloud,
    instance: InstanceId,
    token: Option<String>,
}

impl Calls<'_> {
    /// Makes a call with the session's token, or with another one when that is used up.
    fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer, Failure> {
        let used = self.token.is_some();
        match self.try_call(call) {
            Err(error) if used && ["token.used-up", "token.expired"].contains(&error.code()) => {
                self.token = None;
                self.try_call(call)
            }
            answer => answer,
        }
    }

    fn try_call<C: Call>(&mut self, call: &C) -> Result<C::Answer, Failure> {
        if self.token.is_none() {
            let ask = cloud::Ask {
                apis: vec![Api::ReadConsole, Api::WriteConsole],
                resources: vec![Resource::Instance(self.instance.clone())],
                audience: None,
                lifetime: TOKEN_LIFE,
            };
            self.token = Some(self.cloud.token(Who::ControlPlane, &ask)?);
        }
        self.cloud.knock(Who::ControlPlane, self.token.as_deref(), call)
    }
}

impl Carrier for Calls<'_> {
    fn read(&mut self, after: u64) -> Result<(u64, Vec<u8>), Failure> {
        let ask = ReadConsole { instance: self.instance.clone(), after };
        let answer = match self.call(&ask) {
            // A connection ends now and then, perhaps under a call. Reading twice is reading once; typing is not.
            Err(Failure::Call(CallError::Unreachable { .. })) => self.call(&ask),
            answer => answer,
        }?;
        Ok((answer.next, answer.sealed.to_bytes()))
    }

    fn write(&mut self, sealed: &[u8]) -> Result<(), Failure> {
        let sealed = SealedConsole::from_bytes(sealed).map_err(Failure::state)?;
        self.call(&WriteConsole { instance: self.instance.clone(), sealed }).map(drop)
    }
}

/// The tenant's side of a conversation with an instance.
struct Session<C> {
    carrier: C,
    keys: Keys,
    instance: InstanceId,
    tenant: Tenant,
    /// Bytes of output that were seen.
    next: u64,
    /// Bytes of output that were not kept for us.
    lost: u64,
}

impl<C: Carrier> Session<C> {
    /// Opens output from byte `after` on: where it begins, and the bytes. Whoever carries it may withhold it, and no
    /// more than that.
    fn read(&mut self, after: u64) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        let (next, sealed) = self.carrier.read(after)?;
        if sealed.is_empty() {
            return Ok(None);
        }
        let before = self.tenant.machine().copied();
        let output = self.tenant.open(next, &sealed)?;
        if let Some(machine) = self.tenant.machine().filter(|machine| before.as_ref() != Some(*machine)) {
            self.keys.remember(&self.instance, machine)?;
        }
        Ok(Some((output.at, output.bytes)))
    }

    /// Output that was not seen yet, if there is some.
    fn fresh(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let Some((at, bytes)) = self.read(self.next)? else { return Ok(None) };
        self.lost += at.saturating_sub(self.next);
        let known = usize::try_from(self.next.saturating_sub(at)).unwrap_or(usize::MAX);
        self.next = self.next.max(at + bytes.len() as u64);
        Ok(bytes.get(known..).filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec))
    }

    /// All output up to now.
    fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(bytes) = self.fresh()? {
            all.extend(bytes);
        }
        Ok(all)
    }

    /// Types. What the guest has no room for waits a while.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for chunk in bytes.chunks(CHUNK) {
            let mut tries = 0;
            while let Err(error) = self.send_once(chunk) {
                tries += 1;
                if tries == TRIES || !["console.full", "console.sealed"].contains(&error.code()) {
                    return Err(error);
                }
                sleep(AGAIN);
                interrupt::check()?;
                // Every message of the machine says how much input it has taken; the last byte is enough.
                self.read(self.next.saturating_sub(1))?;
            }
        }
        Ok(())
    }

    fn send_once(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sealed = self.tenant.seal(bytes)?.ok_or_else(|| {
            let message =
                "the instance has printed nothing yet, so its key is not known: wait for its first output";
            Failure::Advice("console.silent", message.to_owned())
        })?;
        self.carrier.write(&sealed)
    }

    fn tell_loss(&self, out: Out) {
        if self.lost > 0 {
            out.remark(&format!("{} bytes of earlier output were not kept", self.lost));
        }
    }

    /// Goes on until somebody wants it to end.
    fn follow(&mut self, out: Out) -> Result<(), Failure> {
        if !out.is_json() && isatty(io::stdin()) && isatty(io::stdout()) {
            out.remark("the instance's console; Ctrl-] leaves it");
            let talked = raw(|| self.talk()).doing("terminal")?;
            out.remark("\nleft the console; the instance goes on");
            return talked;
        }
        interrupt::watch().doing("signals")?;
        let mut pause = SOON;
        while !interrupt::asked() {
            let at = self.next;
            match self.fresh()? {
                Some(bytes) if out.is_json() => {
                    let text = String::from_utf8_lossy(&bytes);
                    out::print(&json!({"at": at, "output": text, "next": self.next}).to_string());
                    pause = SOON;
                }
                Some(bytes) if !written(&bytes)? => return Ok(()),
                Some(_) => pause = SOON,
                None => pause = (pause * 2).min(LATE),
            }
            sleep(pause);
        }
        Ok(())
    }

    /// Joins the terminal, which is raw, to the instance.
    fn talk(&mut self) -> Result<(), Failure> {
        let (input, mut pause, mut typed) = (io::stdin(), SOON, Vec::new());
        loop {
            match self.fresh()? {
                Some(bytes) if !written(&bytes)? => return Ok(()),
                Some(_) => pause = SOON,
                None => pause = (pause * 2).min(LATE),
            }
            if !typed.is_empty() && self.tenant.machine().is_some() {
                self.send(&std::mem::take(&mut typed))?;
            }
            let wait = Timespec::try_from(pause).map_err(Failure::state)?;
            let mut waiting = [PollFd::new(&input, PollFlags::IN)];
            match poll(&mut waiting, Some(&wait)) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.doing("terminal")?,
            };
            if waiting.iter().all(|input| input.revents().is_empty()) {
                continue;
            }
            let mut bytes = [0; CHUNK];
            let count = rustix::io::read(&input, &mut bytes).doing("terminal")?;
            let bytes = bytes.get(..count).unwrap_or_default();
            let keys = bytes.split(|key| *key == LEAVE).next().unwrap_or_default();
            typed.extend_from_slice(keys);
            if keys.len() < count || count == 0 {
                return Ok(());
            }
            pause = SOON;
        }
    }
}

/// Prints what the guest wrote as it is; false if nobody reads it any more.
fn written(bytes: &[u8]) -> Result<bool, Failure> {
    let mut output = io::stdout();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.doing("standard output").map(|()| true),
    }
}

#[cfg(test)]
mod tests;
