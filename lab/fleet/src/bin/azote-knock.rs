//! Knocks at a running host's door as fast as it opens: authenticated, authorised and durably logged calls, over TLS
//! connections that stay open, beside `fdatasync` alone on the same disk in the same run.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use audit::caller::prepare;
use clap::Parser;
use host_api::{Api, LogPage, ReadLog, Resource};
use ids::{HostId, Identity};
use serde::{Deserialize, Serialize};
use service::{Client, Credentials};
use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use token::PublicKey;
use tokens::client::{TokenRequest, issue};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Calls that one token is good for.
const USES: u32 = 1000;
/// Bytes of one durable step in the baseline: about what a record takes in the host's log.
const RECORD: usize = 1024;
/// The call: it is logged like any other, and its answer is empty.
const NOTHING: ReadLog = ReadLog { after: u64::MAX };

/// Measures the door of a host that `azote up` started.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Folder of the installation.
    #[arg(long)]
    state: PathBuf,
    /// Callers at a time; one measurement for each.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    callers: Vec<u32>,
    /// Calls in each measurement.
    #[arg(long, default_value_t = 4000)]
    calls: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One measurement. Times are in microseconds.
#[derive(Serialize)]
struct Measured {
    callers: u32,
    calls: u32,
    calls_per_second: f64,
    p50: f64,
    p99: f64,
    /// Two `fdatasync`s, one after the other: a call is recorded before it is acted on, and its outcome after.
    sync_p50: f64,
    sync_p99: f64,
    ratio_p50: f64,
    ratio_p99: f64,
}

#[derive(Deserialize)]
struct Installation {
    host: HostId,
}

struct Caller {
    me: Credentials,
    name: Identity,
    host: HostId,
    door: Client,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args)))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Outcome<()> {
    let state = &args.state;
    let installation: Installation = serde_json::from_slice(&fs::read(state.join("installation.json"))?)?;
    let me = Credentials::read(&state.join("identities/auditor.pem"))?;
    let ca = fs::read_to_string(state.join("pki/ca.pem"))?;
    let client = |name: &str, server: Identity, me: Option<&Credentials>| -> Outcome<Client> {
        let address = fs::read_to_string(state.join(format!("run/{name}.address")))?;
        Ok(Client::new(&ca, server, address.trim().parse()?, me)?)
    };
    let tokens = client("tokens", "azote:service/tokens".parse()?, Some(&me))?;
    let host = installation.host;
    let door = client("controller", Identity::Host(host.clone()), None)?;
    let caller = Arc::new(Caller { name: me.identity()?, me, host, door });
    let mut all = Vec::new();
    if !args.json {
        println!("callers  calls/s   p50 µs   p99 µs   two syncs p50  p99      ratio p50  p99");
    }
    for callers in &args.callers {
        let measured = measure(&caller, &tokens, *callers, args.calls / callers, state).await?;
        if !args.json {
            println!(
                "{:<8} {:<9.0} {:<8.0} {:<8.0} {:<14.0} {:<8.0} {:<10.2} {:.2}",
                measured.callers,
                measured.calls_per_second,
                measured.p50,
                measured.p99,
                measured.sync_p50,
                measured.sync_p99,
                measured.ratio_p50,
                measured.ratio_p99
            );
        }
        all.push(measured);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// `callers` callers make `each` calls each. The baseline is measured before and after, so that what else the machine
/// does falls on both.
async fn measure(
    caller: &Arc<Caller>,
    tokens: &Client,
    callers: u32,
    each: u32,
    state: &Path,
) -> Outcome<Measured> {
    let mut syncs = sync_alone(state, 300)?;
    let mut held = Vec::new();
    for _ in 0..callers {
        held.push(caller.tokens(tokens, each.div_ceil(USES)).await?);
    }
    let mut running = JoinSet::new();
    let start = Instant::now();
    for tokens in held {
        let caller = caller.clone();
        running.spawn(async move { caller.knock(&tokens, each).await });
    }
    let mut times = Vec::new();
    while let Some(done) = running.join_next().await {
        times.extend(done??);
    }
    let wall = start.elapsed().as_secs_f64();
    syncs.extend(sync_alone(state, 300)?);
    let (calls, times, syncs) = (callers * each, Sorted::new(times), Sorted::new(syncs));
    Ok(Measured {
        callers,
        calls,
        calls_per_second: f64::from(calls) / wall,
        p50: times.at(50),
        p99: times.at(99),
        sync_p50: syncs.at(50),
        sync_p99: syncs.at(99),
        ratio_p50: times.at(50) / syncs.at(50),
        ratio_p99: times.at(99) / syncs.at(99),
    })
}

impl Caller {
    async fn tokens(&self, tokens: &Client, count: u32) -> Outcome<Vec<String>> {
        let mut all = Vec::new();
        for _ in 0..count {
            let request = TokenRequest {
                apis: vec![Api::ReadLog],
                resources: vec![Resource::Host(self.host.clone())],
                audience: self.host.clone(),
                lifetime_seconds: None,
                uses: Some(USES),
                ticket: None,
                public_key: PublicKey(self.me.key().public()),
            };
            all.push(issue(tokens, &request).await?.token);
        }
        Ok(all)
    }

    async fn knock(&self, tokens: &[String], calls: u32) -> Outcome<Vec<Duration>> {
        let mut times = Vec::new();
        let calls = tokens.iter().flat_map(|token| std::iter::repeat_n(token, USES as usize)).zip(0..calls);
        for (token, _) in calls {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            let by = (&self.name, self.me.key());
            let call = prepare(&NOTHING, &self.host, by, token, u64::try_from(now)?).ok_or("no proof")?;
            let start = Instant::now();
            let _: LogPage = call.send(&self.door, token).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

/// Times of two appends, each made durable by itself.
fn sync_alone(state: &Path, rounds: u32) -> Outcome<Vec<Duration>> {
    let path = state.join("knock.tmp");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..2 {
            file.write_all(&[0x5a; RECORD])?;
            file.sync_data()?;
        }
        times.push(start.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(times)
}

struct Sorted(Vec<Duration>);

impl Sorted {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// A percentile in microseconds.
    fn at(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}
