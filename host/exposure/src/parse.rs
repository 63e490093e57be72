//! Parsers of what `/proc` says (`proc(5)`, `proc_pid_*(5)`): pure, bounded, and strict where a lie would matter.
//! Names in it are chosen by the processes that are looked at, so any byte may come.

mod sockets;

pub use sockets::{Listener, ListenerKind, Socket, inet, packet, unix};

use serde::Serialize;

/// Most entries that are read of one file.
pub const MAX_ENTRIES: usize = 65_536;
/// Most bytes that are read of one file.
pub const MAX_BYTES: u64 = 16 << 20;

/// Why a text of `/proc` was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not what this kernel interface says.
    #[error("{0} has another form than expected")]
    Form(&'static str),
    /// More than [`MAX_ENTRIES`].
    #[error("{0} has more than {MAX_ENTRIES} entries")]
    TooLong(&'static str),
}

/// The five capability sets of a thread, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Capabilities {
    /// Kept across `execve` of a file that takes them.
    pub inheritable: u64,
    /// Those that it may use.
    pub permitted: u64,
    /// Those in use.
    pub effective: u64,
    /// Those that `execve` can ever give.
    pub bounding: u64,
    /// Kept across `execve` of any file.
    pub ambient: u64,
}

/// What `/proc/<pid>/task/<tid>/status` says of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Real, effective, saved and file-system user.
    pub users: [u32; 4],
    /// The process that traces it; 0 for none.
    pub tracer: u32,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// `execve` gives nothing.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u8,
    /// How many filters.
    pub filters: u32,
}

fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, ParseError> {
    std::str::from_utf8(bytes).map_err(|_| ParseError::Form(what))
}

/// Reads a thread's status. Each field must be there exactly once: the name in its first line cannot forge a
/// second one, because the kernel escapes line feeds in it.
pub fn status(bytes: &[u8]) -> Result<Status, ParseError> {
    const WHAT: &str = "a status";
    let form = ParseError::Form(WHAT);
    let value = |name: &str| {
        let mut values = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"));
        match (values.next(), values.next()) {
            (Some(value), None) => text(value, WHAT).map(str::trim),
            _ => Err(form),
        }
    };
    let hex = |name| u64::from_str_radix(value(name)?, 16).map_err(|_| form);
    let number = |name| value(name)?.parse::<u32>().map_err(|_| form);
    let mut users = [0; 4];
    let mut given = value("Uid")?.split('\t');
    for user in &mut users {
        *user = given.next().and_then(|id| id.parse().ok()).ok_or(form)?;
    }
    Ok(Status {
        users,
        tracer: number("TracerPid")?,
        capabilities: Capabilities {
            inheritable: hex("CapInh")?,
            permitted: hex("CapPrm")?,
            effective: hex("CapEff")?,
            bounding: hex("CapBnd")?,
            ambient: hex("CapAmb")?,
        },
        no_new_privs: number("NoNewPrivs")? == 1,
        seccomp: u8::try_from(number("Seccomp")?).map_err(|_| form)?,
        filters: number("Seccomp_filters")?,
    })
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// At most 15 bytes, by the process's own choice.
    pub name: String,
    /// `Z` and `X` have ended.
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Device number of its controlling terminal; 0 for none.
    pub terminal: i32,
    /// A thread of the kernel's own.
    pub kernel: bool,
    /// Clock ticks from the boot to its start.
    pub started: u64,
}

/// Reads a process's stat.
pub fn stat(bytes: &[u8]) -> Result<Stat, ParseError> {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let form = ParseError::Form("a stat");
    // The name may hold anything, blanks and brackets too: it ends at the last one.
    let open = bytes.iter().position(|byte| *byte == b'(').ok_or(form)?;
    let close = bytes.iter().rposition(|byte| *byte == b')').filter(|close| *close > open).ok_or(form)?;
    let name = String::from_utf8_lossy(bytes.get(open + 1..close).ok_or(form)?).into_owned();
    let rest = text(bytes.get(close + 1..).ok_or(form)?, "a stat")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(64).collect();
    // Field n of the manual is number n - 3 here.
    let field = |number: usize| fields.get(number - 3).copied().ok_or(form);
    Ok(Stat {
        name,
        state: field(3)?.chars().next().ok_or(form)?,
        parent: field(4)?.parse().map_err(|_| form)?,
        terminal: field(7)?.parse().map_err(|_| form)?,
        kernel: field(9)?.parse::<u64>().map_err(|_| form)? & KERNEL_THREAD != 0,
        started: field(22)?.parse().map_err(|_| form)?,
    })
}

/// A mapping that can be executed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mapping {
    /// The file, `[vdso]` and its like, or nothing for anonymous memory.
    pub file: String,
    /// It can be written too.
    pub writable: bool,
    /// Bytes.
    pub length: u64,
}

/// Reads the executable mappings of `/proc/<pid>/maps`.
pub fn executable_maps(bytes: &[u8]) -> Result<Vec<Mapping>, ParseError> {
    const WHAT: &str = "a list of mappings";
    let form = ParseError::Form(WHAT);
    let mut found = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(6, |byte| *byte == b' ');
        let mut part = || parts.next().ok_or(form).and_then(|part| text(part, WHAT));
        let (range, rights) = (part()?, part()?);
        let (start, end) = range.split_once('-').ok_or(form)?;
        let address = |hex| u64::from_str_radix(hex, 16).map_err(|_| form);
        let length = address(end)?.checked_sub(address(start)?).ok_or(form)?;
        let &[_, write, execute, _] = rights.as_bytes() else { return Err(form) };
        for _offset_device_inode in 0..3 {
            part()?;
        }
        let name = parts.next().unwrap_or_default();
        if execute == b'x' {
            let file = String::from_utf8_lossy(name).trim_start().to_owned();
            found.push(Mapping { file, writable: write == b'w', length });
        }
        if found.len() > MAX_ENTRIES {
            return Err(ParseError::TooLong(WHAT));
        }
    }
    Ok(found)
}

/// How a descriptor is open: readable and writable, from `/proc/<pid>/fdinfo/<fd>`.
pub fn descriptor_flags(bytes: &[u8]) -> Result<(bool, bool), ParseError> {
    const PATH_ONLY: u32 = 0o10_000_000;
    let form = ParseError::Form("a descriptor's flags");
    let line =
        bytes.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"flags:")).ok_or(form)?;
    let flags = u32::from_str_radix(text(line, "a descriptor's flags")?.trim(), 8).map_err(|_| form)?;
    if flags & PATH_ONLY != 0 {
        return Ok((false, false));
    }
    match flags & 3 {
        0 => Ok((true, false)),
        1 => Ok((false, true)),
        2 => Ok((true, true)),
        // Neither: only `ioctl`.
        _ => Ok((false, false)),
    }
}

/// The arguments of a process, from `/proc/<pid>/cmdline`: by its own word.
pub fn arguments(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).take(256).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Every parser once, for the fuzzer.
#[doc(hidden)]
pub fn all(bytes: &[u8]) {
    let _ = (status(bytes), stat(bytes), executable_maps(bytes), descriptor_flags(bytes), arguments(bytes));
    for kind in [ListenerKind::Tcp, ListenerKind::Udp, ListenerKind::Raw] {
        let _ = inet(bytes, kind);
    }
    let _ = (unix(bytes), packet(bytes));
}

#[cfg(test)]
mod tests;
