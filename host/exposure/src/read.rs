//! Reads `/proc`. What the kernel does not let this user read is kept as such.

use crate::{
    facts::{Connection, DELETED, Known, Open, Process, Survey},
    parse::{self, ListenerKind, MAX_BYTES, MAX_ENTRIES, ParseError, Socket, Stat},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Which processes to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that the installation's records in `run/` name, and all that they have started.
    Installation,
    /// Every one on the machine but the kernel's own and this one.
    Machine,
}

/// Why the survey could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// A text was not understood.
    #[error("{0}: {1}")]
    Parse(PathBuf, #[source] ParseError),
    /// No process of the installation runs.
    #[error("no process of {0} runs: `azote up` starts it")]
    NotUp(PathBuf),
}

type Result<T> = std::result::Result<T, ReadError>;

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| ReadError::Io(path.to_owned(), error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ReadError::Parse(path.to_owned(), ParseError::TooLong("a file of /proc")));
    }
    Ok(bytes)
}

fn parsed<T>(path: &Path, parse: impl Fn(&[u8]) -> std::result::Result<T, ParseError>) -> Result<T> {
    parse(&bytes(path)?).map_err(|error| ReadError::Parse(path.to_owned(), error))
}

/// The names in a folder.
fn names(path: &Path) -> Result<Vec<String>> {
    let failed = |error| ReadError::Io(path.to_owned(), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)?.take(MAX_ENTRIES) {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn link(path: &Path) -> Result<PathBuf> {
    fs::read_link(path).map_err(|error| ReadError::Io(path.to_owned(), error))
}

fn of(pid: u32, what: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(what)
}

/// Looks at the processes of `scope`.
pub fn survey(installation: &Path, scope: Scope) -> Result<Survey> {
    let me = std::process::id();
    let own = parsed(&of(me, "status"), parse::status)?;
    let all = stats()?;
    let pids: Vec<u32> = match scope {
        Scope::Machine => all.keys().copied().filter(|pid| *pid != me).collect(),
        Scope::Installation => family(&all, &recorded(installation, &all)),
    };
    if pids.is_empty() {
        return Err(ReadError::NotUp(installation.to_owned()));
    }
    let processes: Vec<Process> =
        pids.iter().filter_map(|pid| Some(process(*pid, all.get(pid)?))).filter(|it| alive(it.pid)).collect();
    let owned: BTreeSet<u64> = pids.iter().flat_map(|pid| inodes(*pid).unwrap_or_default()).collect();
    let ownerless = sockets(me).map(|sockets| {
        let listeners = sockets.into_iter().filter_map(|socket| match socket {
            Socket::Listener(listener) => Some(listener),
            Socket::Connected { .. } => None,
        });
        // Those of processes that are not looked at belong to them, where that can be seen.
        let others: BTreeSet<u64> = all.keys().flat_map(|pid| inodes(*pid).unwrap_or_default()).collect();
        listeners.filter(|it| !owned.contains(&it.inode) && !others.contains(&it.inode)).collect()
    });
    Ok(Survey {
        installation: installation.to_owned(),
        reader: own.users[1],
        inherited_filters: own.filters,
        ptrace_scope: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        setuid: crate::programs::setuid().into(),
        shells: crate::programs::shells(),
        processes,
        ownerless: ownerless.into(),
    })
}

/// All processes that live and are not the kernel's own.
fn stats() -> Result<BTreeMap<u32, Stat>> {
    let pids = names(Path::new("/proc"))?.into_iter().filter_map(|name| name.parse::<u32>().ok());
    let mut all = BTreeMap::new();
    for pid in pids {
        match parsed(&of(pid, "stat"), parse::stat) {
            Ok(stat) if !stat.kernel && !matches!(stat.state, 'Z' | 'X') => drop(all.insert(pid, stat)),
            // Ended meanwhile, or of no interest.
            Ok(_) | Err(ReadError::Io(..)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Processes that the records name and that are still the same ones: `pid boot ticks`.
fn recorded(installation: &Path, all: &BTreeMap<u32, Stat>) -> BTreeSet<u32> {
    let run = installation.join("run");
    let records = names(&run).unwrap_or_default().into_iter().filter(|name| name.ends_with(".pid"));
    let pid = |name: String| {
        let text = fs::read_to_string(run.join(name)).ok()?;
        let mut words = text.split_ascii_whitespace();
        let pid = words.next()?.parse().ok()?;
        let started: u64 = words.nth(1)?.parse().ok()?;
        all.get(&pid).filter(|stat| stat.started == started).map(|_| pid)
    };
    records.filter_map(pid).collect()
}

/// These, and all that descend from them.
fn family(all: &BTreeMap<u32, Stat>, heads: &BTreeSet<u32>) -> Vec<u32> {
    let mut members = heads.clone();
    loop {
        let before = members.len();
        let children: Vec<u32> =
            all.iter().filter(|(_, stat)| members.contains(&stat.parent)).map(|(pid, _)| *pid).collect();
        members.extend(children);
        if members.len() == before {
            return members.into_iter().collect();
        }
    }
}

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn process(pid: u32, stat: &Stat) -> Process {
    let program = link(&of(pid, "exe"));
    let files = files(pid);
    let sockets = inodes(pid).and_then(|inodes| Ok((inodes, sockets(pid)?)));
    let (mut listeners, mut connections) = (Vec::new(), Vec::new());
    let sockets = sockets.map(|(inodes, sockets)| {
        for socket in sockets {
            match socket {
                Socket::Listener(it) if inodes.contains(&it.inode) => listeners.push(it),
                Socket::Connected { inode, port, peer } if inodes.contains(&inode) => {
                    connections.push(Connection { port, peer });
                }
                _ => {}
            }
        }
    });
    let (listeners, connections) = match sockets {
        Ok(()) => (Known::Read(listeners), Known::Read(connections)),
        Err(error) => (Known::Unread(error.to_string()), Known::Unread(error.to_string())),
    };
    Process {
        pid,
        parent: stat.parent,
        name: name(pid, program.as_deref().ok(), stat),
        program: program.into(),
        threads: threads(pid).into(),
        terminal: stat.terminal,
        dumpable: dumpable(pid),
        executable: parsed(&of(pid, "maps"), parse::executable_maps).map(condense).into(),
        files: files.into(),
        listeners,
        connections,
        namespaces: namespaces(pid).into(),
    }
}

/// The file name of the program. A program that a dynamic linker was told to start is named after it, not after
/// the linker.
fn name(pid: u32, program: Option<&Path>, stat: &Stat) -> String {
    let base = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let words = bytes(&of(pid, "cmdline")).map(|bytes| parse::arguments(&bytes)).unwrap_or_default();
    let own = program.map(Path::to_owned).or_else(|| words.first().map(PathBuf::from));
    let own = own.as_deref().and_then(base).unwrap_or_default();
    let linked = || match words.as_slice() {
        [_, option, _, program, ..] if option == "--library-path" => base(Path::new(program)),
        _ => None,
    };
    let name = if own.starts_with("ld-linux") { linked() } else { None }.unwrap_or(own);
    // A measured image that was never a file, as the controller starts its cards.
    let file = name.strip_suffix(DELETED).unwrap_or(&name);
    let name = file.strip_prefix("memfd:").unwrap_or(file);
    if name.is_empty() { stat.name.clone() } else { name.to_owned() }
}

fn threads(pid: u32) -> Result<Vec<parse::Status>> {
    let folder = of(pid, "task");
    let mut threads = Vec::new();
    for thread in names(&folder)? {
        match parsed(&folder.join(&thread).join("status"), parse::status) {
            Ok(status) if !threads.contains(&status) => threads.push(status),
            // A thread like another one, or one that has ended.
            Ok(_) | Err(ReadError::Io(..)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(threads)
}

/// The kernel gives the files of a process that cannot be dumped to root.
fn dumpable(pid: u32) -> Known<bool> {
    let path = of(pid, "auxv");
    let owner = fs::metadata(&path).map_err(|error| ReadError::Io(path, error)).map(|it| it.uid());
    let user = parsed(&of(pid, "status"), parse::status).map(|status| status.users[1]);
    match (owner, user) {
        (Ok(0), Ok(0)) => {
            Known::Unread("it runs as root, of whose processes the kernel does not tell".to_owned())
        }
        (Ok(owner), Ok(user)) => Known::Read(owner == user),
        (Err(error), _) | (_, Err(error)) => Known::Unread(error.to_string()),
    }
}

/// Mappings of the same kind as one.
fn condense(mappings: Vec<parse::Mapping>) -> Vec<parse::Mapping> {
    let mut sums = BTreeMap::<(String, bool), u64>::new();
    for mapping in mappings {
        *sums.entry((mapping.file, mapping.writable)).or_default() += mapping.length;
    }
    sums.into_iter().map(|((file, writable), length)| parse::Mapping { file, writable, length }).collect()
}

fn files(pid: u32) -> Result<Vec<Open>> {
    let folder = of(pid, "fd");
    let mut files = BTreeSet::new();
    for number in names(&folder)? {
        // One that was closed meanwhile is none.
        let (Ok(target), Ok((readable, writable))) =
            (link(&folder.join(&number)), parsed(&of(pid, "fdinfo").join(&number), parse::descriptor_flags))
        else {
            continue;
        };
        files.insert(Open { target: target.to_string_lossy().into_owned(), readable, writable });
    }
    Ok(files.into_iter().collect())
}

/// Numbers of the sockets that a process holds.
fn inodes(pid: u32) -> Result<BTreeSet<u64>> {
    let folder = of(pid, "fd");
    let inode = |number: String| {
        let target = fs::read_link(folder.join(number)).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Ok(names(&folder)?.into_iter().filter_map(inode).collect())
}

/// The sockets of a process's network.
fn sockets(pid: u32) -> Result<Vec<Socket>> {
    let mut all = Vec::new();
    for (table, kind) in [
        ("tcp", ListenerKind::Tcp),
        ("tcp6", ListenerKind::Tcp),
        ("udp", ListenerKind::Udp),
        ("udp6", ListenerKind::Udp),
        ("udplite", ListenerKind::Udp),
        ("raw", ListenerKind::Raw),
        ("raw6", ListenerKind::Raw),
        ("unix", ListenerKind::Unix),
        ("packet", ListenerKind::Packet),
    ] {
        let path = of(pid, "net").join(table);
        let read = parsed(&path, |bytes| match kind {
            ListenerKind::Unix => parse::unix(bytes),
            ListenerKind::Packet => parse::packet(bytes),
            kind => parse::inet(bytes, kind),
        });
        match read {
            Ok(sockets) => all.extend(sockets),
            // A kernel without this protocol.
            Err(ReadError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound && alive(pid) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn namespaces(pid: u32) -> Result<BTreeMap<String, String>> {
    let folder = of(pid, "ns");
    let mut all = BTreeMap::new();
    for name in names(&folder)? {
        let target = link(&folder.join(&name))?;
        all.insert(name, target.to_string_lossy().into_owned());
    }
    Ok(all)
}
