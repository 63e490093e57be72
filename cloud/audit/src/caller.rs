//! The callers' side: a call at a host's door is written down durably before it is made, and told to the audit
//! service afterwards. [`Journal`] is the file; whoever calls owns it.

use crate::entry::{Attempt, MAX_ATTEMPTS};
use host_api::{Call, Code, HttpCall, Request};
use ids::{HostId, Identity};
use service::{CallError, Client, Key};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Attempts that may wait for delivery. Beyond, no call is made.
pub const MAX_WAITING: usize = 10_000;

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
            Err(error @ CallError::Unreachable { .. }) => error.code().parse().ok()?,
            _ => return None,
        };
        Some(Attempt { code: Some(code), ..self.attempt.clone() })
    }
}

/// A caller's own log: a line of JSON for each attempt that the audit service has not been told of yet.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    waiting: Vec<Attempt>,
}

impl Journal {
    /// Opens the file, or makes it. An unfinished last line announces a call that was never made: it is cut off.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        let text = fs::read(path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let lines = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
        let waiting = lines.filter(|line| !line.is_empty()).map(serde_json::from_slice);
        let waiting = waiting.collect::<Result<_, _>>().map_err(io::Error::other)?;
        Ok(Self { path: path.to_owned(), file, waiting })
    }

    /// Writes an attempt down; it is durable when this returns.
    pub fn write(&mut self, attempt: &Attempt) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(io::Error::other(format!(
                "{MAX_WAITING} attempts wait for the audit service: see that it runs"
            )));
        }
        let mut line = serde_json::to_vec(attempt).map_err(io::Error::other)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.waiting.push(attempt.clone());
        Ok(())
    }

    /// The next attempts to tell of: those of one caller, who must tell of them.
    pub fn next(&self) -> Vec<Attempt> {
        let Some(first) = self.waiting.first() else { return Vec::new() };
        let same = self.waiting.iter().filter(|attempt| attempt.caller == first.caller);
        same.take(MAX_ATTEMPTS).cloned().collect()
    }

    /// The audit service holds these. Another process's lines stay.
    pub fn told(&mut self, attempts: &[Attempt]) -> io::Result<()> {
        self.waiting.retain(|attempt| !attempts.contains(attempt));
        let line =
            |attempt: &Attempt| serde_json::to_vec(attempt).map(|line| [line, b"\n".to_vec()].concat());
        let lines: Result<Vec<_>, _> = self.waiting.iter().map(line).collect();
        service::write_atomic(&self.path, &lines.map_err(io::Error::other)?.concat())?;
        self.file = OpenOptions::new().read(true).append(true).open(&self.path)?;
        Ok(())
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
        let mut journal = Journal::open(&path).unwrap();
        let all = [
            attempt(1, "azote:operator/alice"),
            attempt(2, "azote:service/a"),
            attempt(3, "azote:operator/alice"),
        ];
        all.iter().for_each(|attempt| journal.write(attempt).unwrap());
        drop(journal);
        let text = fs::read(&path).unwrap();
        fs::write(&path, [&text[..], b"{\"request\":\"00"].concat()).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.next(), [all[0].clone(), all[2].clone()], "one caller's at a time");
        journal.told(&journal.next()).unwrap();
        journal.write(&attempt(4, "azote:service/a")).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.next(), [all[1].clone(), attempt(4, "azote:service/a")]);
        journal.told(&journal.next()).unwrap();
        assert!(journal.next().is_empty() && fs::read(&path).unwrap().is_empty());
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
