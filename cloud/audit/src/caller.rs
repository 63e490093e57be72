//! The callers' side: a call at a host's door is written down durably before it is made, and told to the audit
//! service afterwards. [`Journal`] is the file; whoever calls owns it.

use crate::entry::{Attempt, MAX_ATTEMPTS};
use host_api::{Call, Code, HttpCall, Request};
use ids::{HostId, Identity};
use rustix::fs::{FlockOperation, flock};
use service::{CallError, Client, Key};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// How many bytes of attempts may wait for delivery. Beyond, no call is made.
pub const MAX_WAITING: usize = 4 << 20;

/// A call that is ready to be made.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The request.
    pub http: HttpCall,
    /// What is sent along to prove possession of the token's key.
    pub proof: String,
    /// What is to be written down of it first.
    pub attempt: Attempt,
}

/// Makes a call ready: `caller` will make it at `host` with `token`, which is bound to `key`. `now` is in
/// milliseconds of Unix time. None if the system gives no random numbers.
pub fn prepare<C: Call>(
    call: &C,
    host: &HostId,
    (caller, key): (&Identity, &Key),
    token: &str,
    now: u64,
) -> Option<Prepared> {
    let http = call.http();
    let covered = token::Call { method: http.method.name(), path: &http.target, body: &http.body, token };
    let proof = covered.prove(key.pair(), now / 1000)?;
    let request: Request = call.clone().into();
    let attempt = Attempt {
        request: token::ProofId::peek(&proof)?.id_text().parse().ok()?,
        token: None,
        api: C::API,
        host: host.clone(),
        resources: request.resources(host),
        time: now,
        caller: caller.clone(),
        code: None,
    };
    Some(Prepared { http, proof, attempt })
}

impl Prepared {
    /// Makes the call.
    pub async fn send<R: serde::de::DeserializeOwned>(
        &self,
        door: &Client,
        token: &str,
    ) -> Result<R, CallError> {
        let bearer = format!("Bearer {token}");
        let headers = [(token::TOKEN_HEADER, bearer.as_str()), (token::PROOF_HEADER, self.proof.as_str())];
        door.call(self.http.method.name(), &self.http.target, self.http.body.clone(), &headers).await
    }

    /// What is to be written down afterwards, if the call did not come as far as the host.
    pub fn withdrawn<R>(&self, answer: &Result<R, CallError>) -> Option<Attempt> {
        let code: Code = match answer {
            Err(error @ (CallError::Unreachable { .. } | CallError::Outdated(_))) => {
                error.code().parse().ok()?
            }
            _ => return None,
        };
        Some(Attempt { code: Some(code), ..self.attempt.clone() })
    }
}

/// A caller's own log: a line of JSON for each attempt that the audit service has not been told of yet. Several
/// processes may share it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    lock: File,
}

impl Journal {
    /// Takes the file, which need not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let lock =
            options.write(true).create(true).truncate(false).mode(0o600).open(path.with_extension("lock"))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Writes an attempt down; it is durable when this returns.
    pub fn write(&self, attempt: &Attempt) -> io::Result<()> {
        let _held = Held::new(&self.lock)?;
        let mut options = OpenOptions::new();
        let new = !self.path.exists();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if text.len() > MAX_WAITING {
            return Err(io::Error::other("too many attempts wait for the audit service: see that it runs"));
        }
        // An unfinished last line announces a call that was never made.
        file.set_len(whole(&text).len() as u64)?;
        let line = serde_json::to_vec(attempt).map_err(io::Error::other)?;
        file.write_all(&[line, b"\n".to_vec()].concat())?;
        file.sync_data()?;
        if new { self.sync_folder() } else { Ok(()) }
    }

    /// The next attempts to tell of: those of one caller, who must tell of them.
    pub fn next(&self) -> io::Result<Vec<Attempt>> {
        let _held = Held::new(&self.lock)?;
        let waiting = self.read()?;
        let Some(first) = waiting.first().map(|attempt| attempt.caller.clone()) else { return Ok(waiting) };
        Ok(waiting.into_iter().filter(|attempt| attempt.caller == first).take(MAX_ATTEMPTS).collect())
    }

    /// The audit service holds these.
    pub fn told(&self, attempts: &[Attempt]) -> io::Result<()> {
        let _held = Held::new(&self.lock)?;
        let waiting = self.read()?.into_iter().filter(|attempt| !attempts.contains(attempt));
        let line = |attempt| serde_json::to_vec(&attempt).map(|line| [line, b"\n".to_vec()].concat());
        let lines: Result<Vec<_>, _> = waiting.map(line).collect();
        service::write_atomic(&self.path, &lines.map_err(io::Error::other)?.concat())
    }

    fn read(&self) -> io::Result<Vec<Attempt>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let lines = whole(&text).split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(serde_json::from_slice).collect::<Result<_, _>>().map_err(io::Error::other)
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

/// The text up to its last line feed.
fn whole(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text.get(..end).unwrap_or_default()
}

/// The lock, until it is dropped.
struct Held<'a>(&'a File);

impl<'a> Held<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        flock(file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Closing the file lets go of it, too.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_api::Api;

    fn attempt(n: u8, caller: &str) -> Attempt {
        Attempt {
            request: format!("{n:032x}").parse().unwrap(),
            token: None,
            api: Api::HostStatus,
            host: HostId::from_random(1),
            resources: vec![host_api::Resource::Host(HostId::from_random(1))],
            time: 7,
            caller: caller.parse().unwrap(),
            code: None,
        }
    }

    #[test]
    fn attempts_wait_over_a_restart_until_they_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attempts");
        let journal = Journal::open(&path).unwrap();
        let all = [
            attempt(1, "azote:operator/alice"),
            attempt(2, "azote:service/a"),
            attempt(3, "azote:operator/alice"),
        ];
        all.iter().for_each(|attempt| journal.write(attempt).unwrap());
        let text = fs::read(&path).unwrap();
        fs::write(&path, [&text[..], b"{\"request\":\"00"].concat()).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.next().unwrap(), [all[0].clone(), all[2].clone()], "one caller's at a time");
        journal.told(&journal.next().unwrap()).unwrap();
        Journal::open(&path).unwrap().write(&attempt(4, "azote:service/a")).unwrap();
        assert_eq!(journal.next().unwrap(), [all[1].clone(), attempt(4, "azote:service/a")]);
        journal.told(&journal.next().unwrap()).unwrap();
        assert!(journal.next().unwrap().is_empty() && fs::read(&path).unwrap().is_empty());
    }

    #[test]
    fn a_call_and_its_record_have_the_same_id() {
        let (key, host) = (Key::from_seed(&[1; 32]).unwrap(), HostId::from_random(1));
        let caller = "azote:operator/alice".parse().unwrap();
        let made = prepare(&host_api::ReadLog { after: 3 }, &host, (&caller, &key), "token", 5000).unwrap();
        assert_eq!(token::ProofId::peek(&made.proof).unwrap().id_text(), made.attempt.request.to_string());
        assert_eq!((made.attempt.api, made.http.target.as_str()), (Api::ReadLog, "/v1/log?after=3"));
        let gone = CallError::Unreachable { server: caller, reason: String::new() };
        assert_eq!(made.withdrawn::<()>(&Err(gone)).unwrap().code.unwrap().as_str(), "call.unreachable");
        assert_eq!(made.withdrawn(&Ok(())), None);
    }
}
