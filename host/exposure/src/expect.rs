//! What each process may expose: from the sandbox files, and for what stands in for hardware from a file of the lab.

use sandbox::{Access, File, Landlock, Listen, Policy, SandboxError, SocketKind};
use serde::Deserialize;
use std::path::Path;

/// The sandbox files that this was built with.
pub const SANDBOXES: [&str; 9] = [
    include_str!("../../../sandbox/attestation-card.toml"),
    include_str!("../../../sandbox/audit.toml"),
    include_str!("../../../sandbox/controller.toml"),
    include_str!("../../../sandbox/hypervisor.toml"),
    include_str!("../../../sandbox/kms.toml"),
    include_str!("../../../sandbox/launcher.toml"),
    include_str!("../../../sandbox/security-chip.toml"),
    include_str!("../../../sandbox/tokens.toml"),
    include_str!("../../../sandbox/volume-card.toml"),
];
/// What stands in for hardware in a lab; nothing of it is ever on a host.
pub const STAND_INS: &str = include_str!("../../../lab/stand-ins.toml");

/// Why expectations could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    /// A sandbox file.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The file of stand-ins.
    #[error("the file of stand-ins is wrong: {0}")]
    StandIns(#[from] toml::de::Error),
}

/// What one program may expose.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// The program's name.
    pub name: String,
    /// It is no room of the host: why it is there.
    pub stands_in: Option<String>,
    /// Where it listens.
    pub listens: Vec<Listen>,
    /// What it holds open; not looked at for stand-ins.
    pub holds: Vec<File>,
    /// It may connect.
    pub connects: bool,
    /// How many system-call filters it has at least.
    pub filters: usize,
    /// Its filter lets it start programs.
    pub executes: bool,
    /// The capabilities that it keeps.
    pub capabilities: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandIns {
    #[serde(rename = "stand_in")]
    all: Vec<StandIn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StandIn {
    name: String,
    why: String,
    #[serde(default, rename = "listen")]
    listens: Vec<Listen>,
    #[serde(default)]
    filters: usize,
}

/// Whether it may start programs that are files: Landlock leaves it none, only an image that is no file.
fn executes(policy: &Policy) -> bool {
    let calls = policy.allows("execve") || policy.allows("execveat");
    calls && policy.process.landlock != Landlock::Required
}

/// What all programs may expose.
#[derive(Debug, Clone, Default)]
pub struct Expectations(Vec<Expectation>);

impl Expectations {
    /// From the text of sandbox files and of a file of stand-ins (empty for none: a host).
    pub fn parse<'a>(
        sandboxes: impl IntoIterator<Item = &'a str>,
        stand_ins: &str,
    ) -> Result<Self, ExpectError> {
        let mut all = Vec::new();
        for text in sandboxes {
            let policy = Policy::parse(text)?;
            all.push(Expectation {
                filters: policy.filters()?,
                executes: executes(&policy),
                capabilities: policy.kept()?,
                connects: policy.sockets.iter().any(|socket| socket.kind == SocketKind::TcpConnect),
                name: policy.process.name,
                stands_in: None,
                listens: policy.listens,
                holds: policy.holds,
            });
        }
        if !stand_ins.is_empty() {
            all.extend(toml::from_str::<StandIns>(stand_ins)?.all.into_iter().map(|it| Expectation {
                name: it.name,
                stands_in: Some(it.why),
                listens: it.listens,
                holds: Vec::new(),
                connects: false,
                filters: it.filters,
                executes: true,
                capabilities: 0,
            }));
        }
        Ok(Self(all))
    }

    /// What a program of this name may expose.
    pub fn of(&self, name: &str) -> Option<&Expectation> {
        self.0.iter().find(|expectation| expectation.name == name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|expectation| expectation.name.as_str())
    }
}

impl Expectation {
    /// Whether it may listen at `address`.
    pub fn may_listen(&self, address: &str, installation: &Path) -> bool {
        self.listens.iter().any(|listen| matches(&listen.at, address, installation))
    }

    /// Whether it may hold `path` open.
    pub fn may_hold(&self, path: &str, writable: bool, installation: &Path) -> bool {
        self.holds.iter().any(|hold| {
            (!writable || hold.access == Access::Write) && matches(&hold.path, path, installation)
        })
    }
}

/// Whether `pattern`, with `{installation}` filled in, stands for `text`; `*` for anything without a slash, `**` at
/// the end for anything.
fn matches(pattern: &str, text: &str, installation: &Path) -> bool {
    let folder = installation.to_string_lossy();
    let (pattern, text) = match (pattern.strip_prefix("{installation}"), text.strip_prefix(folder.as_ref())) {
        // The folder's own name is no pattern, whatever is in it.
        (Some(pattern), Some(text)) => (pattern, text),
        (Some(_), None) => return false,
        (None, _) => (pattern, text),
    };
    if let Some(start) = pattern.strip_suffix("**") {
        return text.starts_with(start) && !text.contains("/../");
    }
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let Some(at) = rest.find(piece).filter(|at| !rest[..*at].contains('/')) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.strip_suffix(last).is_some_and(|between| !between.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sandbox_file_is_known_and_the_stand_ins_too() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sandbox");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let known =
            |path: &&std::path::PathBuf| SANDBOXES.contains(&std::fs::read_to_string(path).unwrap().as_str());
        assert_eq!(files.iter().find(|path| !known(path)), None);
        assert_eq!(files.len(), SANDBOXES.len());
        let all = Expectations::parse(SANDBOXES, STAND_INS).unwrap();
        for name in all.names().filter(|name| all.of(name).unwrap().stands_in.is_none()) {
            let it = all.of(name).unwrap();
            assert!(!it.executes && it.filters > 0, "{name}");
            assert_eq!(it.capabilities != 0, name == "azote-launcher", "{name}");
            // Off the host, and pulls: everything on a host is passive.
            assert_eq!(it.connects, name == "azote-audit", "{name}");
        }
    }

    #[test]
    fn a_pattern_stands_for_names_in_one_folder() {
        let at = Path::new("/state*");
        for (pattern, text, meant) in [
            ("{installation}/run/chip", "/state*/run/chip", true),
            ("{installation}/run/chip", "/stateX/run/chip", false),
            ("{installation}/run/chip", "/state*/run/chips", false),
            ("{installation}/f/*.sock", "/state*/f/vol-1.sock", true),
            ("{installation}/f/*.sock", "/state*/f/a/b.sock", false),
            ("{installation}/f/*.sock", "/state*/f/b.sock/x", false),
            ("{installation}/f/*.sock", "/other/f/b.sock", false),
            ("/a/*/c/*", "/a/b/c/d", true),
            ("/a/*/c/*", "/a/b/x/c/d", false),
            ("127.0.0.1:*", "127.0.0.1:1", true),
            ("127.0.0.1:*", "0.0.0.0:1", false),
            ("*", "/x", false),
            ("{installation}/log/**", "/state*/log/a/b", true),
            ("{installation}/log/**", "/state*/logs/a", false),
            ("{installation}/log/**", "/state*/log/../x", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text, at), meant, "{pattern} {text}");
        }
    }
}
