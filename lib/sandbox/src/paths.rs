//! Files, TCP ports, abstract sockets and signals, by Landlock.

use crate::{
    SandboxError,
    policy::{Access, Landlock, Policy, SocketKind},
};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::Path;

/// The newest ABI that this was tested on. Older kernels enforce what they can of it.
const TESTED: ABI = ABI::V7;

/// Denies everything in the policy's reach that it does not name. Tells what the kernel enforces.
pub(crate) fn restrict(policy: &Policy, variables: &[(&str, &Path)]) -> Result<RulesetStatus, SandboxError> {
    if policy.process.landlock == Landlock::Unneeded {
        return Ok(RulesetStatus::NotEnforced);
    }
    let mut opened = Vec::new();
    for file in &policy.files {
        let path = fill(&file.path, variables)?;
        let fd = PathFd::new(&path)
            .map_err(|error| SandboxError::Path { path: path.clone(), reason: error.to_string() })?;
        opened.push((fd, Path::new(&path).is_dir(), file.access));
    }
    let status = apply(policy, opened)
        .map_err(|error| SandboxError::System { step: "Landlock", reason: error.to_string() })?;
    if status.ruleset == RulesetStatus::NotEnforced && policy.process.landlock == Landlock::Required {
        return Err(SandboxError::Missing("Landlock"));
    }
    Ok(status.ruleset)
}

fn apply(policy: &Policy, opened: Vec<(PathFd, bool, Access)>) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset =
        Ruleset::default().handle_access(AccessFs::from_all(TESTED))?.scope(Scope::from_all(TESTED))?;
    for (kind, access) in
        [(SocketKind::TcpListen, AccessNet::BindTcp), (SocketKind::TcpConnect, AccessNet::ConnectTcp)]
    {
        // A right that the policy gives for every port is one that Landlock is not asked to govern.
        let everywhere = policy.sockets.iter().any(|socket| socket.kind == kind && socket.ports.is_none());
        if !everywhere {
            ruleset = ruleset.handle_access(access)?;
        }
    }
    let mut ruleset = ruleset.create()?;
    for (fd, is_folder, access) in opened {
        ruleset = ruleset.add_rule(PathBeneath::new(fd, rights(access, is_folder)))?;
    }
    for socket in &policy.sockets {
        let access = match socket.kind {
            SocketKind::TcpListen => AccessNet::BindTcp,
            SocketKind::TcpConnect => AccessNet::ConnectTcp,
        };
        let everywhere = |other: &crate::Socket| other.kind == socket.kind && other.ports.is_none();
        if policy.sockets.iter().any(everywhere) {
            continue;
        }
        for port in socket.ports.iter().flatten() {
            ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
        }
    }
    ruleset.restrict_self()
}

fn rights(access: Access, is_folder: bool) -> BitFlags<AccessFs> {
    let rights = match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Write => AccessFs::from_all(TESTED) & !BitFlags::from(AccessFs::Execute),
    };
    if is_folder { rights } else { rights & AccessFs::from_file(TESTED) }
}

/// Fills the variables into a path.
fn fill(path: &str, variables: &[(&str, &Path)]) -> Result<String, SandboxError> {
    let Some((before, rest)) = path.split_once('{') else { return Ok(path.to_owned()) };
    let (name, after) =
        rest.split_once('}').ok_or_else(|| SandboxError::Policy(format!("{path}: no closing brace")))?;
    let (_, value) = variables
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| SandboxError::Variable(name.to_owned()))?;
    Ok(format!("{before}{}{}", value.display(), fill(after, variables)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_or_missed() {
        let variables = [("state", Path::new("/s")), ("name", Path::new("n"))];
        assert_eq!(fill("{state}/a/{name}.x", &variables).unwrap(), "/s/a/n.x");
        assert!(matches!(fill("{other}", &variables), Err(SandboxError::Variable(name)) if name == "other"));
        assert!(matches!(fill("{state", &variables), Err(SandboxError::Policy(_))));
    }
}
