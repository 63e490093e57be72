//! Namespaces of the launcher and its hypervisors, and the file system that they see.

use rustix::{
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount,
        unmount,
    },
    process::{chdir, getegid, geteuid, pivot_root},
    thread::UnshareFlags,
};
use std::{fs, io, path::Path};

/// What is made anew, beside mounts, which the process inside does.
const ALL: UnshareFlags = UnshareFlags::NEWPID
    .union(UnshareFlags::NEWNET)
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUTS)
    .union(UnshareFlags::NEWCGROUP);
/// What the kernel says of the processors, beside what it says of processes: all that is seen.
const SEEN: &str = "sys/devices/system/cpu";
/// A folder that every system has and that this process needs no more.
const ROOT: &str = "/proc";

/// Why there are no namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Not allowed at all.
    #[error(
        "namespaces are refused ({0}): start the controller as root with CAP_SYS_ADMIN, or let every user make user \
         namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor)"
    )]
    Refused(Errno),
    /// A step of the way.
    #[error("the launcher's own view of the system cannot be made: {0}: {1}")]
    Step(String, io::Error),
}

/// Whom the namespaces know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// All users of the system.
    All,
    /// Only this one, as root.
    This,
}

fn step<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> NamespaceError {
    move |error| NamespaceError::Step(what.into(), error.into())
}

/// Makes namespaces; the next child is the first process in them. There must be one thread only.
pub(crate) fn unshare() -> Result<Users, NamespaceError> {
    match separate(ALL) {
        Ok(()) => return Ok(Users::All),
        Err(Errno::PERM) => {}
        Err(errno) => return Err(NamespaceError::Refused(errno)),
    }
    let (user, group) = (geteuid(), getegid());
    separate(ALL | UnshareFlags::NEWUSER).map_err(NamespaceError::Refused)?;
    let user = format!("0 {} 1", user.as_raw());
    let group = format!("0 {} 1", group.as_raw());
    for (file, text) in [("setgroups", "deny"), ("uid_map", &user), ("gid_map", &group)] {
        fs::write(format!("/proc/self/{file}"), text).map_err(step(file))?;
    }
    Ok(Users::This)
}

#[expect(deprecated, reason = "unsafe with CLONE_FILES only, of which there is none here")]
fn separate(flags: UnshareFlags) -> Result<(), Errno> {
    rustix::thread::unshare(flags)
}

/// Makes the file system that the first process in the namespaces sees: [`SEEN`], read-only, and its own processes.
pub(crate) fn fill() -> Result<(), NamespaceError> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    separate(UnshareFlags::NEWNS).map_err(step("mounts"))?;
    mount_change("/", private).map_err(step("private mounts"))?;
    mount("tmpfs", ROOT, "tmpfs", quiet | MountFlags::NOEXEC, c"mode=755,size=64k").map_err(step(ROOT))?;
    show(SEEN, quiet | MountFlags::NOEXEC | MountFlags::RDONLY).map_err(step(SEEN))?;
    let own = Path::new(ROOT).join("proc");
    fs::create_dir(&own).map_err(step("proc"))?;
    mount("proc", &own, "proc", quiet | MountFlags::NOEXEC, c"hidepid=2").map_err(step("proc"))?;
    // No memory that is filled here can be executed: nobody starts another program. Only root can say so, and not to
    // kernels before 6.3.
    let _ = fs::write(own.join("sys/vm/memfd_noexec"), "2");
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC | quiet;
    mount_remount(ROOT, read_only, c"").map_err(step("a root that nobody writes"))?;
    chdir(ROOT).map_err(step(ROOT))?;
    pivot_root(".", ".").map_err(step("a root of its own"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("the former root"))?;
    chdir("/").map_err(step("/"))
}

/// Shows the folder at `/name` in the new root too.
fn show(name: &str, flags: MountFlags) -> io::Result<()> {
    let (from, to) = (Path::new("/").join(name), Path::new(ROOT).join(name));
    fs::create_dir_all(&to)?;
    mount_bind(&from, &to)?;
    Ok(mount_remount(&to, MountFlags::BIND | flags, c"")?)
}
