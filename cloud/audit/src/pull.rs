//! Reads the hosts' logs and the token service's journal, over and over, with tokens of its own; tells the hosts what
//! is safe, and carries alarms to where people see them. Every call that it makes is an entry before it is made.

use crate::{
    book::Input,
    caller::{Prepared, prepare},
    keeper::{Keeper, Unwritable, now, wall},
    tree,
};
use host_api::{AcknowledgeLog, Api, Call, LogPage, ReadLog, Resource, Sha256};
use ids::{HostId, Identity};
use monitor::{Alarm, Delivery, Pace, Sink, Source};
use service::{CallError, Client, Renewable, TlsError, Trust};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use token::PublicKey;
use tokens::client::{TokenAnswer, TokenRequest};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Longest file of sources that is read, in bytes.
const MAX_SOURCES: usize = 4 << 20;
/// How often the file of sources is read, and time is told.
const TICK: Duration = Duration::from_millis(500);
/// Readings at a time,
const AT_ONCE: usize = 64;
/// and of hosts that answer slowly or not at all: nobody else waits for them.
const SLOW_AT_ONCE: usize = 256;
/// Slow is what takes longer.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pages in one reading: a host that makes records without end gets no more than its turn.
const PAGES: usize = 64;
/// A host is told after so many records
const ACKNOWLEDGE_RECORDS: u64 = 256;
/// or after so long, if there are any.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(60);
/// A token is not used in the last seconds of its life.
const TOKEN_END: u64 = 30;

/// A source's address, and a host's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    address: SocketAddr,
    key: Option<PublicKey>,
}

/// The sources, one on a line: `tokens <ip:port>`, and for each host `host/h-… <ip:port> <public key>`.
pub type Sources = BTreeMap<Source, Place>;

/// Reads the file of sources. None, with the line that is wrong.
pub fn read_sources(text: &str) -> Result<Sources, usize> {
    let mut sources = Sources::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_ascii_whitespace();
        let source = words.next().and_then(|word| Source::try_from(word.to_owned()).ok());
        let address = words.next().and_then(|word| word.parse().ok());
        let key = words.next().map(|word| PublicKey::try_from(word.to_owned()));
        let (source, address) = source.zip(address).ok_or(number)?;
        let key = key.transpose().map_err(|_| number)?;
        let good = match source {
            Source::Host(_) => key.is_some(),
            Source::Tokens => key.is_none(),
            _ => false,
        };
        let new = sources.insert(source, Place { address, key }).is_none();
        if !good || !new || words.next().is_some() {
            return Err(number);
        }
    }
    Ok(sources)
}

/// What pulling needs.
pub struct Puller {
    /// The way to the log.
    pub keeper: Keeper,
    /// Who pulls.
    pub me: Arc<Renewable>,
    /// The environment's authority, and what it has revoked.
    pub trust: Arc<Trust>,
    /// The file of sources.
    pub sources: PathBuf,
    /// How often each source is read.
    pub every: Duration,
}

/// Why a source could not be read. It is tried again.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Log(#[from] Unwritable),
    #[error("the token service is not among the sources")]
    NoTokens,
    #[error("no random numbers")]
    Random,
}

/// Who may read now.
#[derive(Clone)]
struct Lanes {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

/// A task for each source, and what it reads.
type Tasks = BTreeMap<Source, (Place, Option<SocketAddr>, JoinHandle<()>)>;

impl Puller {
    /// Pulls until it is dropped; carries `alarms` to `sinks`.
    pub async fn run(self, sinks: Vec<Box<dyn Sink>>, mut alarms: mpsc::UnboundedReceiver<Alarm>) {
        let keeper = self.keeper.clone();
        let delivery = Delivery::start(sinks, &Pace::default(), move |undelivered| {
            let detail = format!("{} to {}: {}", undelivered.alarm, undelivered.sink, undelivered.reason);
            let observed = crate::entry::Observed::event(monitor::UNDELIVERED, &detail);
            keeper.tell(Input::Observed(Box::new(observed)));
        });
        let carry = async {
            while let Some(alarm) = alarms.recv().await {
                delivery.raise(&alarm);
            }
        };
        tokio::join!(carry, Arc::new(self).watch());
    }

    /// Keeps one task for each source that the file names.
    async fn watch(self: Arc<Self>) {
        let [quick, slow] = [AT_ONCE, SLOW_AT_ONCE].map(|most| Arc::new(Semaphore::new(most)));
        let lanes = Lanes { quick, slow };
        let (mut tasks, mut last) = (Tasks::new(), None);
        loop {
            let text = fs::read(&self.sources).ok().filter(|text| text.len() <= MAX_SOURCES);
            if text != last {
                match text.as_ref().and_then(|text| str::from_utf8(text).ok()).map(read_sources) {
                    Some(Ok(sources)) => self.follow(sources, &mut tasks, &lanes).await,
                    Some(Err(line)) => {
                        tracing::warn!(line, "the file of sources is wrong: the one before stays");
                    }
                    None => tracing::warn!("the file of sources cannot be read: the one before stays"),
                }
                last = text;
            }
            if self.keeper.take(Input::Tick).await.is_err() {
                return;
            }
            sleep(TICK).await;
        }
    }

    async fn follow(self: &Arc<Self>, sources: Sources, tasks: &mut Tasks, lanes: &Lanes) {
        let tokens = sources.get(&Source::Tokens).map(|place| place.address);
        tasks.retain(|source, (place, issuer, task)| {
            let stays = sources.get(source) == Some(place) && *issuer == tokens && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        let hosts = sources.iter().filter_map(|(source, place)| match source {
            Source::Host(host) => Some(host.clone()).zip(place.key),
            _ => None,
        });
        let _ = self.keeper.take(Input::Hosts(hosts.collect())).await;
        for (source, place) in sources {
            tasks.entry(source.clone()).or_insert_with(|| {
                let read = self.clone().read(source, place, tokens, lanes.clone());
                (place, tokens, tokio::spawn(read))
            });
        }
    }

    /// Reads one source for ever.
    async fn read(self: Arc<Self>, source: Source, place: Place, tokens: Option<SocketAddr>, lanes: Lanes) {
        let mut host = match &source {
            Source::Host(host) => Some(Reader::new(host.clone(), place.address, tokens)),
            _ => None,
        };
        let (mut failed, mut slow) = (false, false);
        loop {
            let read = match &mut host {
                Some(reader) => reader.turn(&self, &lanes, &mut slow).await,
                None => self.read_journal(place.address).await,
            };
            match &read {
                Err(PullError::Log(_)) => return,
                Err(error) if !failed => tracing::warn!(%source, %error, "cannot be read"),
                _ => {}
            }
            failed = read.is_err();
            sleep(self.every).await;
        }
    }

    fn client(&self, server: Identity, address: SocketAddr) -> Result<Client, TlsError> {
        Client::new(&self.trust.pem(), server, address, Some(&self.me.credentials()))
    }

    fn token_service(&self, address: SocketAddr) -> Result<Client, PullError> {
        let name = "azote:service/tokens".parse().map_err(|_| PullError::NoTokens)?;
        Ok(self.client(name, address)?)
    }

    /// Reads the journal to its end, and says so.
    async fn read_journal(&self, address: SocketAddr) -> Result<(), PullError> {
        let client = self.token_service(address)?;
        let mut last = 0;
        loop {
            let (after, began) = (self.keeper.look(|book| book.journal()).await?, now());
            let page = tokens::client::issued(&client, after).await?;
            let (end, some) = (page.last, !page.entries.is_empty());
            self.keeper.take(Input::Journal { page: Box::new(page), began }).await?;
            let seq = self.keeper.look(|book| book.journal()).await?;
            if some {
                last = seq;
            }
            if seq >= end || seq == after {
                break;
            }
        }
        if last > 0 {
            tokens::client::acknowledge(&client, last).await?;
        }
        Ok(())
    }
}

/// Reads one host.
struct Reader {
    host: HostId,
    address: SocketAddr,
    tokens: Option<SocketAddr>,
    /// Its door, and whom was trusted when it was looked for.
    door: Option<(Client, Arc<str>)>,
    token: Option<TokenAnswer>,
    /// Up to which record the host was told, and when.
    told: Option<(u64, Instant)>,
}

impl Reader {
    fn new(host: HostId, address: SocketAddr, tokens: Option<SocketAddr>) -> Self {
        Self { host, address, tokens, door: None, token: None, told: None }
    }

    /// Reads its log when it is its turn. `slow` says whether it was the last time.
    async fn turn(&mut self, puller: &Puller, lanes: &Lanes, slow: &mut bool) -> Result<(), PullError> {
        let mut slot = if *slow { lanes.slow.acquire().await } else { lanes.quick.acquire().await };
        let began = Instant::now();
        let mut reading = pin!(self.read(puller));
        let mut read = timeout(PATIENCE, &mut reading).await;
        if read.is_err() {
            if !*slow {
                slot = lanes.slow.acquire().await;
            }
            read = Ok(reading.await);
        }
        drop(slot);
        *slow = began.elapsed() > PATIENCE;
        read.unwrap_or(Ok(()))
    }

    /// Reads its log to the end, or for so many pages.
    async fn read(&mut self, puller: &Puller) -> Result<(), PullError> {
        let mut seq = 0;
        for _ in 0..PAGES {
            let (host, began) = (self.host.clone(), now());
            let after = puller.keeper.look(move |book| book.host(&host)).await?;
            let page: LogPage = self.call(puller, &ReadLog { after }).await?;
            let end = page.last;
            let (host, page) = (self.host.clone(), Box::new(page));
            puller.keeper.take(Input::Page { host, page, began }).await?;
            let host = self.host.clone();
            seq = puller.keeper.look(move |book| book.host(&host)).await?;
            if seq >= end || seq == after {
                break;
            }
        }
        self.acknowledge(puller, seq).await
    }

    /// Tells the host what is durable under a checkpoint, now and then.
    async fn acknowledge(&mut self, puller: &Puller, seq: u64) -> Result<(), PullError> {
        let (told, at) = *self.told.get_or_insert((0, Instant::now()));
        let due = seq >= told + ACKNOWLEDGE_RECORDS || (seq > told && at.elapsed() >= ACKNOWLEDGE_TIME);
        if due {
            let checkpoint = Sha256::from_digest(&puller.keeper.snapshot().checkpoint.root);
            self.call(puller, &AcknowledgeLog { up_to: seq, checkpoint }).await?;
            self.told = Some((seq, Instant::now()));
        }
        Ok(())
    }

    /// Makes a call at the host's door: an entry first, then the call.
    async fn call<C: Call>(&mut self, puller: &Puller, call: &C) -> Result<C::Answer, PullError> {
        let token = self.token(puller).await?;
        let trusted = puller.trust.pem();
        if self.door.as_ref().is_none_or(|(_, then)| *then != trusted) {
            let door = Client::new(&trusted, Identity::Host(self.host.clone()), self.address, None)?;
            self.door = Some((door, trusted));
        }
        let Some((door, _)) = &self.door else { return Err(PullError::Random) };
        let credentials = puller.me.credentials();
        let me = (puller.me.identity(), credentials.key());
        let prepared: Prepared = prepare(call, &self.host, me, &token, wall()).ok_or(PullError::Random)?;
        puller.keeper.take(Input::Attempts(vec![prepared.attempt.clone()])).await?;
        let answer = prepared.send(door, &token).await;
        if let Some(withdrawn) = prepared.withdrawn(&answer) {
            puller.keeper.take(Input::Attempts(vec![withdrawn])).await?;
        }
        if answer.is_err() {
            self.token = None;
        }
        Ok(answer?)
    }

    async fn token(&mut self, puller: &Puller) -> Result<String, PullError> {
        let ends = wall() / 1000 + TOKEN_END;
        if let Some(answer) = self.token.as_mut().filter(|answer| answer.uses > 0 && answer.expires > ends) {
            answer.uses -= 1;
            return Ok(answer.token.clone());
        }
        let client = puller.token_service(self.tokens.ok_or(PullError::NoTokens)?)?;
        let request = TokenRequest {
            apis: vec![Api::ReadLog, Api::AcknowledgeLog],
            resources: vec![Resource::Host(self.host.clone())],
            audience: self.host.clone(),
            lifetime_seconds: None,
            uses: None,
            ticket: None,
            public_key: PublicKey(puller.me.credentials().key().public()),
        };
        let mut answer = tokens::client::issue(&client, &request).await?;
        answer.uses = answer.uses.saturating_sub(1);
        let token = answer.token.clone();
        self.token = Some(answer);
        Ok(token)
    }
}

/// The short name of a log with this key.
pub fn origin(key: &[u8; 32]) -> String {
    let digits: String = tree::sha256(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("azote/audit/{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_sources_is_read_strictly() {
        let host = format!("host/{}", HostId::from_random(1));
        let key = String::from(PublicKey([7; 32]));
        let good = format!("tokens 127.0.0.1:1\n{host} 127.0.0.1:2 {key}\n");
        let sources = read_sources(&good).unwrap();
        assert_eq!(sources.len(), 2);
        assert_eq!(sources.values().filter_map(|place| place.key).collect::<Vec<_>>(), [PublicKey([7; 32])]);
        assert!(read_sources("").unwrap().is_empty());
        for (bad, line) in [
            (format!("{good}tokens 127.0.0.1:3\n"), 3),
            (format!("tokens 127.0.0.1:1 {key}\n"), 1),
            (format!("{host} 127.0.0.1:2\n"), 1),
            (format!("{host} 127.0.0.1 {key}\n"), 1),
            ("monitor 127.0.0.1:1\n".to_owned(), 1),
            ("\n".to_owned(), 1),
        ] {
            assert_eq!(read_sources(&bad).unwrap_err(), line, "{bad}");
        }
    }
}
