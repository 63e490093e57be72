//! The sandbox file.

use crate::{SandboxError, filter, privileges};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A sandbox file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whose it is.
    pub process: Process,
    /// Files and folders (with all below them).
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// TCP.
    #[serde(default, rename = "socket")]
    pub sockets: Vec<Socket>,
    /// Sockets on which it listens once it is confined, made before or given to it.
    #[serde(default, rename = "listen")]
    pub listens: Vec<Listen>,
    /// Files that it holds open once it is confined, opened before or given to it.
    #[serde(default, rename = "hold")]
    pub holds: Vec<File>,
    /// Capabilities that it keeps.
    #[serde(default, rename = "capability")]
    pub capabilities: Vec<Capability>,
    /// System calls.
    #[serde(rename = "syscall")]
    pub syscalls: Vec<Syscall>,
    /// It starts programs, which set their own handler of SIGSYS.
    #[serde(skip)]
    pub(crate) starts: bool,
}

/// The head of a sandbox file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program's name.
    pub name: String,
    /// Whether to go on without Landlock.
    #[serde(default)]
    pub landlock: Landlock,
}

/// What to do on a kernel without Landlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landlock {
    /// Do not start.
    #[default]
    Required,
    /// Go on with the system-call filter alone.
    BestEffort,
    /// Do not ask for it: the filter permits nothing that it governs. No file can say so.
    #[serde(skip)]
    Unneeded,
}

/// One permitted path.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The path; `{name}` is filled in by the process.
    pub path: String,
    /// What may be done below it.
    pub access: Access,
    /// The reason.
    pub why: String,
}

/// Kinds of file access. Executing is none of them: what may be started is an image in memory, no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read files, list folders.
    Read,
    /// Read, write, create, rename, remove, and make Unix sockets.
    Write,
}

/// Sockets that others may reach it by. Entering the sandbox does not look at them: whoever surveys the host does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// A path, or `address:port`; `*` stands for anything without a slash, `{installation}` for its folder
    /// (in paths of held files also `**`, at the end, for anything).
    pub at: String,
    /// The reason.
    pub why: String,
}

/// One capability that is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// Its name in `capabilities(7)`, without `CAP_`.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// One permitted use of TCP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Which direction.
    pub kind: SocketKind,
    /// Which ports; absent: all.
    pub ports: Option<Vec<u16>>,
    /// The reason.
    pub why: String,
}

/// Directions of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketKind {
    /// Bind and listen.
    TcpListen,
    /// Connect.
    TcpConnect,
}

/// Permitted system calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syscall {
    /// Their names.
    pub names: Vec<String>,
    /// Conditions on the arguments, all of which must hold.
    #[serde(default)]
    pub args: Vec<Comparison>,
    /// The call fails with this instead of being made: for what a library tries and can do without.
    pub fails: Option<Failure>,
    /// Only until [`Policy::narrow`].
    #[serde(default)]
    pub early: bool,
    /// Only until [`Policy::narrow`], unless the process keeps what has this name.
    pub kept_for: Option<String>,
    /// Only in builds with debug assertions: what the standard library checks there. Other builds do not know the rule.
    #[serde(default)]
    pub debug: bool,
    /// The reason.
    pub why: String,
}

/// How a call fails that is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Failure {
    Eacces,
    Enoent,
    Enosys,
    /// It says 0 without having done anything: how `brk` fails, which never says an error, and how what is done already
    /// is done again.
    Zero,
}

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Which argument, from 0.
    pub index: u8,
    /// How to compare.
    pub op: Operator,
    /// What to compare with.
    pub value: u64,
    /// With `masked-eq`: the bits to look at.
    pub mask: Option<u64>,
    /// How many bits of the argument count.
    #[serde(default)]
    pub width: Width,
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Operator {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
}

/// Width of a compared argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "u8")]
pub enum Width {
    /// The low 32 bits.
    W32,
    /// All of it.
    #[default]
    W64,
}

impl TryFrom<u8> for Width {
    type Error = &'static str;
    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        match bits {
            32 => Ok(Self::W32),
            64 => Ok(Self::W64),
            _ => Err("width is 32 or 64"),
        }
    }
}

impl Policy {
    /// Reads a sandbox file and checks that every rule says why. Whether it makes a filter shows when the process enters,
    /// or by [`Policy::filters`].
    pub fn parse(text: &str) -> Result<Self, SandboxError> {
        let mut policy: Self =
            toml::from_str(text).map_err(|error| SandboxError::Policy(error.to_string()))?;
        policy.syscalls.retain(|call| !call.debug || cfg!(debug_assertions));
        let whys = policy.files.iter().map(|file| &file.why);
        let whys = whys.chain(policy.sockets.iter().map(|socket| &socket.why));
        let whys = whys.chain(policy.listens.iter().map(|listen| &listen.why));
        let whys = whys.chain(policy.holds.iter().map(|hold| &hold.why));
        let whys = whys.chain(policy.capabilities.iter().map(|capability| &capability.why));
        if whys.chain(policy.syscalls.iter().map(|call| &call.why)).any(|why| why.trim().is_empty()) {
            return Err(SandboxError::Policy("every rule must say why".to_owned()));
        }
        privileges::kept(&policy)?;
        Ok(policy)
    }

    /// Makes the filters: how many the kernel holds for a process that has entered. After [`Policy::narrow`] there are
    /// more.
    pub fn filters(&self) -> Result<usize, SandboxError> {
        Ok(filter::compile(self)?.len())
    }

    /// The set of capabilities that it keeps, as the kernel writes it.
    pub fn kept(&self) -> Result<u64, SandboxError> {
        Ok(privileges::kept(self)?.bits())
    }

    /// Permits also what programs may do that this one starts: a filter is inherited, and theirs comes on top of it.
    pub fn starting(mut self, other: &Self) -> Self {
        self.starts = true;
        self.syscalls.extend(other.syscalls.iter().cloned().map(|call| Syscall { early: false, ..call }));
        // What may be done without a condition needs none; what may be done under one does not just fail.
        let named = |calls: &[Syscall], which: fn(&Syscall) -> bool| -> BTreeSet<String> {
            calls.iter().filter(|call| which(call)).flat_map(|call| call.names.clone()).collect()
        };
        let made = named(&self.syscalls, |call| call.fails.is_none());
        let free = named(&self.syscalls, |call| call.fails.is_none() && call.args.is_empty());
        for call in &mut self.syscalls {
            let without = if call.fails.is_some() { &made } else { &free };
            let conditional = call.fails.is_some() || !call.args.is_empty();
            call.names.retain(|name| !(conditional && without.contains(name)));
        }
        self.syscalls.retain(|call| !call.names.is_empty());
        self
    }

    /// What is left of it after [`Policy::narrow`].
    pub(crate) fn narrowed(&self, keep: &[&str]) -> Self {
        let mut narrow = self.clone();
        let kept = |call: &Syscall| call.kept_for.as_deref().is_none_or(|what| keep.contains(&what));
        narrow.syscalls.retain(|call| !call.early && kept(call));
        narrow
    }

    /// Whether a call may be made, under whatever conditions.
    pub fn allows(&self, call: &str) -> bool {
        self.syscalls.iter().any(|rule| rule.fails.is_none() && rule.names.iter().any(|name| name == call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the one process that starts others may do besides, for them: one image, as users of a range, and their ends.
    fn meant_for_starting(name: &str, is: &dyn Fn(u8, Operator, Option<u64>, u64) -> bool) -> bool {
        match name {
            "execve" => true,
            "kill" => is(1, Operator::Eq, None, 9),
            "setuid" | "setgid" => is(0, Operator::MaskedEq, Some(0xffff_ff00), 0x4a5a_0000),
            "setgroups" => is(0, Operator::Eq, None, 0),
            _ => false,
        }
    }

    /// What is in no sandbox file.
    const NEVER: &[&str] = &[
        "bpf",
        "chroot",
        "connect",
        "execve",
        "execveat",
        "fork",
        "io_uring_setup",
        "kill",
        "mount",
        "open",
        "pidfd_getfd",
        "pidfd_open",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "setgid",
        "setgroups",
        "setns",
        "setuid",
        "tkill",
        "unshare",
        "userfaultfd",
        "vfork",
    ];

    /// What no process of this system may be able to do once it is confined, whatever its file says.
    #[test]
    fn no_sandbox_file_lets_its_process_out() {
        let condition = |call: &Syscall, index, op, mask, value| {
            call.args.iter().any(|a| (a.index, a.op, a.mask, a.value) == (index, op, mask, value))
        };
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sandbox");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let policy = Policy::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
            files += 1;
            policy.filters().and(policy.narrowed(&[]).filters()).unwrap();
            // The one process that is off the hosts and pulls. Nothing on a host ever connects outward.
            let pulls = policy.process.name == "azote-audit";
            assert!(pulls || policy.sockets.is_empty(), "{}", path.display());
            // The one process that starts others, one image of them, as other users.
            let starts = policy.process.name == "azote-launcher";
            assert!(starts || policy.capabilities.is_empty(), "{}", path.display());
            for call in policy.syscalls.iter().filter(|call| call.fails.is_none()) {
                for name in &call.names {
                    let confined = match name.as_str() {
                        // With an address these connect, by TCP fast open, or send a datagram anywhere.
                        "sendto" => condition(call, 4, Operator::Eq, None, 0),
                        // Datagram sockets need no connect to send to a path.
                        "connect" => pulls,
                        name if starts
                            && meant_for_starting(name, &|i, op, m, v| condition(call, i, op, m, v)) =>
                        {
                            true
                        }
                        // A pair has no address.
                        "socketpair" if condition(call, 1, Operator::MaskedEq, Some(0xf), 5) => {
                            condition(call, 0, Operator::Eq, None, 1)
                        }
                        "socket" | "socketpair" => {
                            let family = |number| condition(call, 0, Operator::Eq, None, number);
                            (family(1) || pulls && (family(2) || family(10)))
                                && condition(call, 1, Operator::MaskedEq, Some(0xf), 1)
                        }
                        // Its flags are out of a filter's sight: it can fork, and make namespaces.
                        "clone3" => false,
                        // To whom it goes, Landlock says; SIGRTMIN ends or stops nothing that expects it.
                        "tgkill" => condition(call, 2, Operator::Eq, None, 34),
                        "clone" => call.args.iter().any(|a| a.index == 0 && a.op == Operator::Eq),
                        "mmap" | "mprotect" => condition(call, 2, Operator::MaskedEq, Some(4), 0),
                        "ioctl" | "fcntl" | "prctl" | "setsockopt" => !call.args.is_empty(),
                        name => !NEVER.contains(&name),
                    };
                    assert!(confined, "{}: {name}", path.display());
                }
            }
        }
        assert!(files >= 5);
    }

    const HEAD: &str = "[process]\nname = \"p\"\n[[syscall]]\nnames = [\"read\"]\nwhy = \"io\"\n";

    #[test]
    fn a_policy_is_read() {
        let text = format!(
            "{HEAD}[[file]]\npath = \"{{state}}/x\"\naccess = \"write\"\nwhy = \"w\"\n\
             [[syscall]]\nnames = [\"mmap\"]\nwhy = \"memory\"\n\
             args = [{{ index = 2, op = \"masked-eq\", mask = 4, value = 0 }}]\n"
        );
        let policy = Policy::parse(&text).unwrap();
        assert_eq!(policy.process.landlock, Landlock::Required);
        assert_eq!(policy.files[0].access, Access::Write);
        assert_eq!(policy.syscalls[1].args[0].mask, Some(4));
    }

    #[test]
    fn what_others_may_is_permitted_to_who_starts_them() {
        let rule = |names: &str, more: &str| format!("[[syscall]]\nnames = [{names}]\nwhy = \"x\"\n{more}\n");
        let args = |value| format!("args = [{{ index = 0, op = \"eq\", value = {value} }}]");
        let head = "[process]\nname = \"p\"\n";
        let own = rule("\"read\", \"execve\"", "") + &rule("\"prctl\", \"ioctl\"", &args(1));
        let own =
            Policy::parse(&(head.to_owned() + &own + &rule("\"clone\"", "fails = \"ENOSYS\""))).unwrap();
        let theirs =
            rule("\"prctl\"", &args(2)) + &rule("\"read\"", &args(3)) + &rule("\"ioctl\"", "early = true");
        let theirs =
            theirs + &rule("\"clone\"", &args(4)) + &rule("\"execve\", \"bpf\"", "fails = \"EACCES\"");
        let both = own.starting(&Policy::parse(&(head.to_owned() + &theirs)).unwrap());
        let mut found: Vec<_> = both
            .syscalls
            .iter()
            .flat_map(|call| {
                call.names
                    .iter()
                    .map(|name| (name.as_str(), call.args.first().map(|a| a.value), call.fails.is_some()))
            })
            .collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("bpf", None, true),
                ("clone", Some(4), false),
                ("execve", None, false),
                ("ioctl", None, false),
                ("prctl", Some(1), false),
                ("prctl", Some(2), false),
                ("read", None, false),
            ]
        );
        assert!(both.syscalls.iter().all(|call| !call.early));
        // The handler of SIGSYS is theirs to set: one filter less, and one more for what fails.
        assert_eq!(both.filters().unwrap(), 3);
    }

    #[test]
    fn mistakes_are_refused() {
        for mistake in [
            "[[syscall]]\nnames = [\"no_such_call\"]\nwhy = \"x\"\n",
            "[[syscall]]\nnames = [\"write\"]\nwhy = \" \"\n",
            "[[syscall]]\nnames = [\"write\"]\n",
            "[[syscall]]\nnames = [\"write\"]\nwhy = \"x\"\nargs = [{ index = 6, op = \"eq\", value = 1 }]\n",
            "[[syscall]]\nnames = [\"write\"]\nwhy = \"x\"\nargs = [{ index = 1, op = \"masked-eq\", value = 1 }]\n",
            "[[syscall]]\nnames = [\"write\"]\nwhy = \"x\"\nargs = [{ index = 1, op = \"eq\", value = 1, width = 8 }]\n",
            "[[syscall]]\nnames = [\"read\"]\nwhy = \"x\"\nargs = [{ index = 1, op = \"eq\", value = 1 }]\n",
            "[[syscall]]\nnames = [\"read\"]\nwhy = \"x\"\nfails = \"EACCES\"\n",
            "[[syscall]]\nnames = [\"write\"]\nwhy = \"x\"\nfails = \"EIO\"\n",
            "[[file]]\npath = \"/\"\naccess = \"all\"\nwhy = \"x\"\n",
            "[[capability]]\nname = \"CAP_KILL\"\nwhy = \"x\"\n",
            "[[capability]]\nname = \"KILL\"\nwhy = \"\"\n",
            "[[pipe]]\nwhy = \"x\"\n",
        ] {
            let policy = Policy::parse(&format!("{HEAD}{mistake}"));
            assert!(policy.and_then(|policy| policy.filters()).is_err(), "{mistake}");
        }
        assert!(Policy::parse("[process]\nname = \"p\"\n").is_err(), "no calls at all");
    }
}
