//! What was found on the machine, before anybody judges it.

use crate::parse::{Listener, Mapping, Status};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// What the kernel puts behind the path of a file that is gone, or was never in a folder.
pub(crate) const DELETED: &str = " (deleted)";

/// Something that was read, or why it could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known<T> {
    /// What it is.
    Read(T),
    /// Why nobody knows.
    Unread(String),
}

impl<T> Known<T> {
    /// What was read.
    pub fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Unread(_) => None,
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Known<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Read(value),
            Err(error) => Self::Unread(error.to_string()),
        }
    }
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Open {
    /// What it leads to: a path, or what the kernel calls it.
    pub target: String,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
}

impl Open {
    /// A file, folder or device of the file system.
    pub fn is_path(&self) -> bool {
        self.target.starts_with('/')
    }

    /// A terminal, or the machine's console.
    pub fn is_terminal(&self) -> bool {
        ["/dev/pts/", "/dev/tty", "/dev/console", "/dev/ptmx", "/dev/vc"]
            .iter()
            .any(|terminal| self.target.starts_with(terminal))
    }
}

/// A connected network socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Connection {
    /// The process's own port.
    pub port: u16,
    /// The other end.
    pub peer: SocketAddr,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// The file name of its program; where that cannot be read, what the process itself says.
    pub name: String,
    /// Its program.
    pub program: Known<PathBuf>,
    /// Each of its threads.
    pub threads: Known<Vec<Status>>,
    /// Device number of its controlling terminal; 0 for none.
    pub terminal: i32,
    /// Others of its user may look into it and take it over. Not to be told of root's.
    pub dumpable: Known<bool>,
    /// Mappings that can be executed.
    pub executable: Known<Vec<Mapping>>,
    /// What it holds open.
    pub files: Known<Vec<Open>>,
    /// Where it can be reached.
    pub listeners: Known<Vec<Listener>>,
    /// Whom it is connected to over the network.
    pub connections: Known<Vec<Connection>>,
    /// Namespaces by kind.
    pub namespaces: Known<BTreeMap<String, String>>,
}

/// A survey of processes and of what is around them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// The folder of the installation.
    pub installation: PathBuf,
    /// Who looked.
    pub reader: u32,
    /// System-call filters that every process here has from whoever started them all.
    pub inherited_filters: u32,
    /// `kernel.yama.ptrace_scope`; without it, whoever may read a process may take it over.
    pub ptrace_scope: Option<u8>,
    /// Programs that run as somebody else than who starts them.
    pub setuid: Known<Vec<PathBuf>>,
    /// Shells on this machine.
    pub shells: Vec<PathBuf>,
    /// The processes.
    pub processes: Vec<Process>,
    /// Listening sockets of this network whose process is not among those whose descriptors could be read.
    pub ownerless: Known<Vec<Listener>>,
}
