//! Knocks at a running host's door as fast as it opens: authenticated, authorised and durably logged calls, over TLS
//! connections that stay open, beside the disk alone in the same run: the syncs that a call cannot do without, and the
//! same of as many writers at a time who share them. What the calls send is made beforehand, so that the door is measured
//! and not its callers; how much of the CPU these take is told.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod caller;
mod disk;
mod knocks;
mod table;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use caller::Line;
use clap::Parser;
use ids::{HostId, Identity};
use knocks::{Knock, Knocker};
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};
use serde::Deserialize;
use service::{Credentials, client_config};
use std::{
    error::Error,
    fs,
    hint::black_box,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};
use table::{Measured, percentiles};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Calls that one token is good for.
const USES: u32 = 1000;

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
    #[arg(long, default_value_t = 3000)]
    calls: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Installation {
    host: HostId,
}

struct Place {
    state: PathBuf,
    host: HostId,
    knockers: Vec<(Knock, Knocker)>,
    door: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    /// Where the system tells how much CPU the controller took.
    controller: PathBuf,
    /// Whose key makes signatures, to see what one takes.
    me: Credentials,
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
        table::head();
    }
    for (knock, knocker) in &place.knockers {
        for callers in &args.callers {
            let each = args.calls / callers;
            let requests = || runtime.block_on(knocker.requests(&place.host, place.door, each));
            let held = (0..*callers).map(|_| requests()).collect::<Outcome<_>>()?;
            let measured = place.measure(*knock, held, each)?;
            if !args.json {
                measured.print();
            }
            all.push(measured);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        table::foot(&all);
    }
    Ok(())
}

impl Place {
    fn open(state: &Path) -> Outcome<Self> {
        let installation: Installation = serde_json::from_slice(&fs::read(state.join("installation.json"))?)?;
        let (host, ca) = (installation.host, fs::read_to_string(state.join("pki/ca.pem"))?);
        let address = |name: &str| -> Outcome<SocketAddr> {
            Ok(fs::read_to_string(state.join(format!("run/{name}.address")))?.trim().parse()?)
        };
        let controller = fs::read_to_string(state.join("run/controller.pid"))?;
        let pid = controller.split(' ').next().unwrap_or_default();
        let tokens = address("tokens")?;
        let knocker = |knock| Ok((knock, Knocker::new(knock, state, &ca, tokens)?));
        Ok(Self {
            knockers: Knock::ALL.into_iter().map(knocker).collect::<Outcome<_>>()?,
            door: address("controller")?,
            tls: Arc::new(client_config(&ca, &Identity::Host(host.clone()), None)?),
            controller: format!("/proc/{pid}/stat").into(),
            me: Credentials::read(&state.join("identities/auditor.pem"))?,
            state: state.to_owned(),
            host,
        })
    }

    /// As many callers at a time make their calls. The baselines are measured before and after, so that what else the
    /// machine does falls on both.
    fn measure(&self, knock: Knock, held: Vec<Vec<Vec<u8>>>, each: u32) -> Outcome<Measured> {
        let callers = u32::try_from(held.len())?;
        let mut disk = Disk::default();
        disk.measure(&self.state, callers, knock.syncs())?;
        let start = Arc::new(Barrier::new(held.len() + 1));
        let threads: Vec<_> = held
            .into_iter()
            .map(|requests| {
                let mut line = Line::open(&self.tls, self.door)?;
                let start = Arc::clone(&start);
                Ok(thread::spawn(move || {
                    start.wait();
                    requests
                        .iter()
                        .map(|request| line.call(request, knock.answer()))
                        .collect::<Outcome<Vec<_>>>()
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
        disk.measure(&self.state, callers, knock.syncs())?;
        let calls = callers * each;
        let cpu = [0, 1].map(|who: usize| (spent[who] - cpu[who]).as_secs_f64() * 1e6 / f64::from(calls));
        let [signatures, _] = percentiles(signatures(self.me.key().pair(), knock.syncs())?);
        let rate = f64::from(calls) / wall.as_secs_f64();
        Ok(Measured::new(knock, callers, percentiles(times), disk.percentiles(), cpu, signatures, rate))
    }

    /// How long the controller was on a CPU (`proc_pid_stat(5)`, fields 14 and 15).
    fn server_cpu(&self) -> Outcome<Duration> {
        let text = fs::read_to_string(&self.controller)?;
        let (_, fields) = text.rsplit_once(") ").ok_or("no process statistics")?;
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
    }
}

/// Times of the disk alone.
#[derive(Default)]
struct Disk {
    /// Each way of waiting for it by itself.
    alone: [Vec<Duration>; 2],
    together: Vec<Duration>,
}

impl Disk {
    fn measure(&mut self, state: &Path, callers: u32, syncs: u32) -> Outcome<()> {
        for (all, times) in self.alone.iter_mut().zip(disk::alone(state, syncs)?) {
            all.extend(times);
        }
        self.together.extend(disk::together(state, callers, syncs)?);
        Ok(())
    }

    /// Of the quicker way alone, and of appends that share writes.
    fn percentiles(self) -> [[f64; 2]; 2] {
        let [one, other] = self.alone.map(percentiles);
        [if other[0] < one[0] { other } else { one }, percentiles(self.together)]
    }
}

/// Times of what no call does without: one signature checked, and one made for each step to the disk.
fn signatures(key: &Ed25519KeyPair, made: u32) -> Outcome<Vec<Duration>> {
    let (message, public) = ([0x5a; 256], ParsedPublicKey::new(&ED25519, key.public_key())?);
    let once = |_| {
        let start = Instant::now();
        let signature = key.sign(&message);
        (1..made).for_each(|_| {
            black_box(key.sign(&message));
        });
        public.verify_sig(&message, signature.as_ref())?;
        Ok(start.elapsed())
    };
    (0..200).map(once).collect()
}

/// How long this process was on a CPU.
fn own_cpu() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}
