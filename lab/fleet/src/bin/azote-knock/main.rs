//! Knocks at a running host's door as fast as it opens: authenticated, authorised and durably logged calls, over TLS
//! connections that stay open, beside `fdatasync` alone on the same disk in the same run. What the calls send is made
//! beforehand, so that the door is measured and not its callers; how much of the CPU these take is told.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod caller;
mod disk;

use audit::caller::prepare;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use caller::Line;
use clap::Parser;
use host_api::{Api, ReadLog, Resource};
use ids::{HostId, Identity};
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use service::{Client, Credentials, client_config};
use std::{
    error::Error,
    fs,
    hint::black_box,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use token::{PROOF_HEADER, PublicKey, TOKEN_HEADER};
use tokens::client::{TokenRequest, issue};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Calls that one token is good for.
const USES: u32 = 1000;
/// The call: it is logged like any other, and its answer is short.
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
    /// The same while as many others do so as there are other callers, each with a file of their own.
    crowd_p50: f64,
    crowd_p99: f64,
    crowd_ratio_p50: f64,
    crowd_ratio_p99: f64,
    /// CPU time of one call.
    client_cpu: f64,
    server_cpu: f64,
    /// The signatures of one call: a proof to check, and two records to sign.
    signatures: f64,
    /// No median is below: two `fdatasync`s and the signatures of a call, one after the other; or, if that is longer,
    /// what this machine's CPUs take for one call of every caller.
    floor: f64,
}

#[derive(Deserialize)]
struct Installation {
    host: HostId,
}

struct Place {
    state: PathBuf,
    host: HostId,
    me: Credentials,
    name: Identity,
    tokens: Client,
    door: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    /// Where the system tells how much CPU the controller took.
    controller: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let place = Place::open(&args.state)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Vec::new();
    if !args.json {
        println!(
            "         calls              two syncs                       crowd of syncs                  CPU µs/call\n\
             callers  p50 µs   p99 µs   p50      p99      ratios        p50      p99      ratios        client door   signatures  floor    calls/s"
        );
    }
    for callers in &args.callers {
        let each = args.calls / callers;
        let held = (0..*callers).map(|_| runtime.block_on(place.requests(each))).collect::<Outcome<_>>()?;
        let measured = place.measure(held, each)?;
        if !args.json {
            measured.print();
        }
        all.push(measured);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

impl Measured {
    fn print(&self) {
        let Self { callers, p50, p99, client_cpu, server_cpu, signatures, floor, calls_per_second, .. } =
            self;
        let ratios = |p50: f64, p99: f64| format!("{p50:.2} {p99:.2}");
        println!(
            "{callers:<8} {p50:<8.0} {p99:<8.0} {:<8.0} {:<8.0} {:<13} {:<8.0} {:<8.0} {:<13} {client_cpu:<6.0} {server_cpu:<6.0} {signatures:<11.0} {floor:<8.0} {calls_per_second:.0}",
            self.sync_p50,
            self.sync_p99,
            ratios(self.ratio_p50, self.ratio_p99),
            self.crowd_p50,
            self.crowd_p99,
            ratios(self.crowd_ratio_p50, self.crowd_ratio_p99),
        );
    }
}

impl Place {
    fn open(state: &Path) -> Outcome<Self> {
        let installation: Installation = serde_json::from_slice(&fs::read(state.join("installation.json"))?)?;
        let (host, me) = (installation.host, Credentials::read(&state.join("identities/auditor.pem"))?);
        let ca = fs::read_to_string(state.join("pki/ca.pem"))?;
        let address = |name: &str| -> Outcome<SocketAddr> {
            Ok(fs::read_to_string(state.join(format!("run/{name}.address")))?.trim().parse()?)
        };
        let controller = fs::read_to_string(state.join("run/controller.pid"))?;
        let pid = controller.split(' ').next().unwrap_or_default();
        Ok(Self {
            tokens: Client::new(&ca, "azote:service/tokens".parse()?, address("tokens")?, Some(&me))?,
            door: address("controller")?,
            tls: Arc::new(client_config(&ca, &Identity::Host(host.clone()), None)?),
            controller: format!("/proc/{pid}/stat").into(),
            name: me.identity()?,
            state: state.to_owned(),
            host,
            me,
        })
    }

    /// So many calls, as they go over the line.
    async fn requests(&self, calls: u32) -> Outcome<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        for begun in (0..calls).step_by(USES as usize) {
            let request = TokenRequest {
                apis: vec![Api::ReadLog],
                resources: vec![Resource::Host(self.host.clone())],
                audience: self.host.clone(),
                lifetime_seconds: None,
                uses: Some(USES),
                ticket: None,
                public_key: PublicKey(self.me.key().public()),
            };
            let token = issue(&self.tokens, &request).await?.token;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?;
            for _ in begun..calls.min(begun + USES) {
                let by = (&self.name, self.me.key());
                let call = prepare(&NOTHING, &self.host, by, &token, now).ok_or("no proof")?;
                let (method, target, proof) = (call.http.method.name(), call.http.target, call.proof);
                let text = format!(
                    "{method} {target} HTTP/1.1\r\nhost: {}\r\n{TOKEN_HEADER}: Bearer {token}\r\n{PROOF_HEADER}: {proof}\r\n\r\n",
                    self.door
                );
                all.push(text.into_bytes());
            }
        }
        Ok(all)
    }

    /// As many callers at a time make their calls. The baselines are measured before and after, so that what else the
    /// machine does falls on both.
    fn measure(&self, held: Vec<Vec<Vec<u8>>>, each: u32) -> Outcome<Measured> {
        let callers = u32::try_from(held.len())?;
        let (mut syncs, mut crowd) = (disk::alone(&self.state)?, disk::crowd(&self.state, callers)?);
        let start = Arc::new(Barrier::new(held.len() + 1));
        let threads: Vec<_> = held
            .into_iter()
            .map(|requests| {
                let mut line = Line::open(&self.tls, self.door)?;
                let start = Arc::clone(&start);
                Ok(thread::spawn(move || {
                    start.wait();
                    requests.iter().map(|request| line.call(request)).collect::<Outcome<Vec<_>>>()
                }))
            })
            .collect::<Outcome<_>>()?;
        start.wait();
        let (began, cpu) = (Instant::now(), [own_cpu(), self.server_cpu()?]);
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().map_err(|_| "a caller panicked")??);
        }
        let (wall, spent) = (began.elapsed(), [own_cpu(), self.server_cpu()?]);
        syncs.extend(disk::alone(&self.state)?);
        crowd.extend(disk::crowd(&self.state, callers)?);
        let (calls, cpus) = (callers * each, thread::available_parallelism()?.get());
        let [signatures, _] = percentiles(signatures(self.me.key().pair())?);
        let [client_cpu, server_cpu] =
            [0, 1].map(|who: usize| (spent[who] - cpu[who]).as_secs_f64() * 1e6 / f64::from(calls));
        let [[p50, p99], [sync_p50, sync_p99], [crowd_p50, crowd_p99]] =
            [times, syncs, crowd].map(percentiles);
        Ok(Measured {
            callers,
            calls,
            calls_per_second: f64::from(calls) / wall.as_secs_f64(),
            p50,
            p99,
            sync_p50,
            sync_p99,
            ratio_p50: p50 / sync_p50,
            ratio_p99: p99 / sync_p99,
            crowd_p50,
            crowd_p99,
            crowd_ratio_p50: p50 / crowd_p50,
            crowd_ratio_p99: p99 / crowd_p99,
            client_cpu,
            server_cpu,
            signatures,
            floor: (sync_p50 + signatures).max(f64::from(callers) * (client_cpu + server_cpu) / cpus as f64),
        })
    }

    /// How long the controller was on a CPU (`proc_pid_stat(5)`, fields 14 and 15).
    fn server_cpu(&self) -> Outcome<Duration> {
        let text = fs::read_to_string(&self.controller)?;
        let (_, fields) = text.rsplit_once(") ").ok_or("no process statistics")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
    }
}

/// Times of what no call does without: one signature checked and two made.
fn signatures(key: &Ed25519KeyPair) -> Outcome<Vec<Duration>> {
    let (message, public) = ([0x5a; 256], ParsedPublicKey::new(&ED25519, key.public_key())?);
    let once = |_| {
        let start = Instant::now();
        let signature = key.sign(&message);
        black_box(key.sign(&message));
        public.verify_sig(&message, signature.as_ref())?;
        Ok(start.elapsed())
    };
    (0..200).map(once).collect()
}

/// How long this process was on a CPU.
fn own_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Median and 99th percentile in microseconds.
fn percentiles(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    })
}
