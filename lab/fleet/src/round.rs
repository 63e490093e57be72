//! One round: every host of a fleet is called once, and every record of it is audited.

use crate::{
    Cost,
    cloud::{Cloud, call},
    host::{Host, Sent},
};
use audit::{book::Input, caller::Prepared, entry::Attempt, keeper};
use host_api::{Api, DetachVolume, ReadLog, Resource};
use ids::Identity;
use service::Key;
use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use token::PublicKey;
use tokens::client::{TokenAnswer, TokenRequest};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Calls under way at a time.
const AT_ONCE: usize = 128;
/// Attempts that a caller delivers at once.
const DELIVERY: usize = 256;

/// Somebody with a key.
struct Caller {
    name: Identity,
    key: Key,
}

/// A call with its token.
struct Made {
    token: String,
    prepared: Prepared,
}

pub(crate) async fn play(size: u32) -> Outcome<Cost> {
    let folder = tempfile::tempdir()?;
    let ids: Vec<_> = (0..size).map(|n| ids::HostId::from_random(u128::from(n))).collect();
    let mut cloud = Cloud::start(folder.path(), &ids).await?;
    let hosts: Result<Vec<_>, _> = (0..size).map(|n| Host::new(n, cloud.keys.clone())).collect();
    let mut hosts = hosts?;
    let known: BTreeMap<_, _> = hosts.iter().map(|host| (host.id.clone(), host.public())).collect();
    cloud.keeper.take(Input::Hosts(known)).await?;
    let before = cloud.keeper.snapshot().size();
    let caller = |name: &str| Ok::<_, Box<dyn Error>>(Caller { name: name.parse()?, key: Key::generate()? });
    let callers = [caller("azote:service/control-plane")?, caller("azote:service/audit")?];

    let start = Instant::now();
    let made = tokens(&cloud, &hosts, &callers).await?;
    let issued = start.elapsed();
    let attempts: Vec<Attempt> = made.iter().map(|made| made.prepared.attempt.clone()).collect();
    let told = Instant::now();
    deliver(&cloud, &callers, &attempts).await?;
    let told = told.elapsed();
    let checked = Instant::now();
    for (n, made) in made.iter().enumerate() {
        // First the control plane's calls, then the audit service's, host by host.
        let at = n % hosts.len();
        hosts.get_mut(at).map(|host| admit(host, made)).transpose()?;
    }
    let checked = checked.elapsed();
    let pulled = Instant::now();
    journal(&cloud, &callers).await?;
    pages(&cloud, &hosts).await?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    cloud.keeper.take(Input::Tick).await?;
    let pulled = pulled.elapsed();
    let round = start.elapsed();

    let entries = cloud.keeper.snapshot().size() - before;
    let unmatched = cloud.keeper.look(|book| book.open()).await?;
    let mut alarms = Vec::new();
    while let Ok(alarm) = cloud.alarms.try_recv() {
        // Every host at once is more than these callers ever did, and near what a fleet may.
        if !["unusual-rate", "quota-nearly-spent"].contains(&alarm.rule.as_str()) {
            alarms.push(alarm.rule.to_string());
        }
    }
    cloud.stop().await?;
    let (count, per) = (2 * size, |time: Duration, n: f64| time.as_secs_f64() * 1e6 / n);
    Ok(Cost {
        hosts: size,
        tokens: count,
        token_us: per(issued, f64::from(count)),
        check_us: per(checked, f64::from(count)),
        entries,
        entry_us: per(told + pulled, entries as f64),
        round_s: round.as_secs_f64(),
        store_bytes_per_host: bytes(&folder.path().join("tokens.redb"))? / u64::from(size),
        log_bytes_per_host: bytes(&folder.path().join("log"))? / u64::from(size),
        resident_mib: resident()?,
        unmatched,
        alarms,
    })
}

/// Both callers get a token for each host, and make their call ready.
async fn tokens(cloud: &Cloud, hosts: &[Host], callers: &[Caller; 2]) -> Outcome<Vec<Made>> {
    let [control_plane, audit] = callers;
    let mut wanted = Vec::new();
    for host in hosts {
        let volume = Resource::Volume(host.volume.clone());
        wanted.push((control_plane, host, Api::DetachVolume, volume));
    }
    for host in hosts {
        wanted.push((audit, host, Api::ReadLog, Resource::Host(host.id.clone())));
    }
    let mut answers: BTreeMap<usize, String> = BTreeMap::new();
    let mut running = JoinSet::new();
    for (n, (caller, host, api, resource)) in wanted.iter().enumerate() {
        let request = TokenRequest {
            apis: vec![*api],
            resources: vec![resource.clone()],
            audience: host.id.clone(),
            lifetime_seconds: None,
            uses: None,
            ticket: None,
            public_key: PublicKey(caller.key.public()),
        };
        if running.len() >= AT_ONCE {
            answers.extend(running.join_next().await.transpose()?.transpose()?);
        }
        let (service, name) = (cloud.tokens(), caller.name.clone());
        running.spawn(async move {
            let answer: Result<TokenAnswer, String> =
                call(service, &name, "POST", "/v1/tokens", Some(&request)).await;
            answer.map(|answer| (n, answer.token))
        });
    }
    while let Some(answer) = running.join_next().await {
        answers.extend([answer??]);
    }
    let calls = wanted.iter().zip(answers.into_values());
    calls.map(|((caller, host, api, _), token)| make(caller, host, *api, token)).collect()
}

fn make(caller: &Caller, host: &Host, api: Api, token: String) -> Outcome<Made> {
    let by = (&caller.name, &caller.key);
    let (id, now) = (&host.id, keeper::now());
    let prepared = match api {
        Api::ReadLog => audit::caller::prepare(&ReadLog { after: 0 }, id, by, &token, now),
        _ => {
            let detach = DetachVolume { volume: host.volume.clone(), force: false };
            audit::caller::prepare(&detach, id, by, &token, now)
        }
    };
    Ok(Made { token, prepared: prepared.ok_or("no random numbers")? })
}

/// The callers tell the audit service what they are about to do.
async fn deliver(cloud: &Cloud, callers: &[Caller; 2], attempts: &[Attempt]) -> Outcome<()> {
    for caller in callers {
        let own: Vec<_> = attempts.iter().filter(|attempt| attempt.caller == caller.name).collect();
        for part in own.chunks(DELIVERY) {
            let _: audit::client::Taken =
                call(cloud.audit(), &caller.name, "POST", "/v1/attempts", Some(&part)).await?;
        }
    }
    Ok(())
}

/// The host checks a call, and records it.
fn admit(host: &mut Host, made: &Made) -> Outcome<()> {
    let Prepared { http, proof, attempt } = &made.prepared;
    let sent = Sent {
        call: token::Call {
            method: http.method.name(),
            path: &http.target,
            body: &http.body,
            token: &made.token,
        },
        proof,
        api: attempt.api,
        resources: attempt.resources.clone(),
        request: attempt.request.clone(),
    };
    let claims = host.check(&sent, keeper::now() / 1000)?;
    host.record(&sent, &claims)
}

/// The audit service reads the token service's journal.
async fn journal(cloud: &Cloud, callers: &[Caller; 2]) -> Outcome<()> {
    let [_, audit] = callers;
    let mut after = 0;
    loop {
        let target = format!("/v1/issued?after={after}");
        let page: tokens::Page = call(cloud.tokens(), &audit.name, "GET", &target, None::<&()>).await?;
        let Some(last) = page.entries.last() else { return Ok(()) };
        after = last.seq;
        let input = Input::Journal { page: Box::new(page), began: keeper::now() };
        cloud.keeper.take(input).await?;
    }
}

/// The audit service reads every host's log.
async fn pages(cloud: &Cloud, hosts: &[Host]) -> Outcome<()> {
    let mut running = JoinSet::new();
    for host in hosts {
        if running.len() >= AT_ONCE {
            running.join_next().await.transpose()?.transpose()?;
        }
        let keeper = Arc::new(cloud.keeper.clone());
        let input = Input::Page { host: host.id.clone(), page: Box::new(host.page()), began: keeper::now() };
        running.spawn(async move { keeper.take(input).await });
    }
    while let Some(taken) = running.join_next().await {
        taken??;
    }
    Ok(())
}

/// Bytes of a file, or of all files below a folder.
fn bytes(path: &Path) -> io::Result<u64> {
    let found = fs::metadata(path)?;
    if found.is_file() {
        return Ok(found.len());
    }
    fs::read_dir(path)?.map(|entry| bytes(&entry?.path())).sum()
}

/// The largest resident size of this process so far, in MiB.
fn resident() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024)
}
