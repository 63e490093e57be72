//! What of this machine instances may have: whole cores that the host itself leaves alone, and memory that is set
//! aside for guests. Read once, before the controller confines itself.

use placement::{Core, Node, Topology};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Bytes of a page that instances are given.
const PAGE: u64 = 2 << 20;
const POOL: &str = "hugepages/hugepages-2048kB";
/// Most nodes that are looked for.
const NODES: usize = 64;

/// What is left for instances, and on what the host's own processes stay.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    /// For instances.
    pub instances: Topology,
    /// The host's CPUs.
    pub host: Vec<u32>,
    /// Whether the memory is set aside in large pages that nothing else can take.
    pub reserved: bool,
}

/// Leaves the first `host_cores` cores to the host. Guest memory is the pool of large pages, made `guest_mib` large
/// first if it is smaller; where there is none, half of what is available now, which nobody has set aside.
pub fn share(host_cores: usize, guest_mib: u64) -> io::Result<Share> {
    at(Path::new("/sys/devices/system"), Path::new("/proc/meminfo"), host_cores, guest_mib)
}

fn at(system: &Path, meminfo: &Path, host_cores: usize, guest_mib: u64) -> io::Result<Share> {
    let mut nodes = cores(system)?;
    let mut host = Vec::new();
    for _ in 0..host_cores {
        let Some(node) = nodes.iter_mut().find(|node| !node.cores.is_empty()) else { break };
        host.extend(node.cores.remove(0).cpus);
    }
    grow(system, nodes.len() as u64, guest_mib * (1 << 20) / PAGE);
    for (number, node) in nodes.iter_mut().enumerate() {
        node.pages = free_pages(system, number);
    }
    let reserved = nodes.iter().any(|node| node.pages > 0);
    if !reserved {
        let (available, count) = (available(meminfo)? / 2 / PAGE, nodes.len().max(1) as u64);
        nodes.iter_mut().for_each(|node| node.pages = available / count);
    }
    Ok(Share { instances: Topology { page_size: PAGE, nodes }, host, reserved })
}

/// Every core with all its siblings, by node.
fn cores(system: &Path) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let Ok(cpus) = list(&system.join(format!("node/node{number}/cpulist"))) else { break };
        nodes.push(node(system, &cpus));
    }
    if nodes.is_empty() {
        // A kernel without NUMA.
        nodes.push(node(system, &list(&system.join("cpu/online"))?));
    }
    Ok(nodes)
}

fn node(system: &Path, cpus: &BTreeSet<u32>) -> Node {
    let siblings = |cpu: &u32| {
        let path = system.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list"));
        list(&path).unwrap_or_else(|_| BTreeSet::from([*cpu]))
    };
    let cores: BTreeSet<BTreeSet<u32>> = cpus.iter().map(siblings).collect();
    let cores = cores.into_iter().map(|cpus| Core { cpus: cpus.into_iter().collect() }).collect();
    Node { cores, pages: 0 }
}

/// The kernel's lists: `0-3,8`.
fn list(path: &Path) -> io::Result<BTreeSet<u32>> {
    let text = fs::read_to_string(path)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", path.display()));
    let mut all = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        all.extend(first..=last.min(first.saturating_add(8192)));
    }
    Ok(all)
}

fn pool(system: &Path, node: usize) -> PathBuf {
    system.join(format!("node/node{node}")).join(POOL)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Asks the kernel for as many large pages; it may have fewer.
fn grow(system: &Path, nodes: u64, pages: u64) {
    for node in 0..usize::try_from(nodes).unwrap_or(0) {
        let path = pool(system, node).join("nr_hugepages");
        let wanted = pages.div_ceil(nodes);
        if number(&path).is_some_and(|now| now < wanted)
            && let Err(error) = fs::write(&path, wanted.to_string())
        {
            tracing::warn!(path = %path.display(), %error, "no large pages can be set aside for guests");
        }
    }
}

fn free_pages(system: &Path, node: usize) -> u64 {
    number(&pool(system, node).join("free_hugepages")).unwrap_or(0)
}

fn available(meminfo: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(meminfo)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the kernel does not say how much memory is available")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine(nodes: &[(&str, u64)], siblings: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (number, (cpus, pages)) in nodes.iter().enumerate() {
            write(root.path(), &format!("node/node{number}/cpulist"), &format!("{cpus}\n"));
            for name in ["nr_hugepages", "free_hugepages"] {
                write(root.path(), &format!("node/node{number}/{POOL}/{name}"), &format!("{pages}\n"));
            }
        }
        for list in siblings {
            for cpu in list.split(',') {
                let path = format!("cpu/cpu{cpu}/topology/thread_siblings_list");
                write(root.path(), &path, &format!("{list}\n"));
            }
        }
        write(root.path(), "meminfo", "MemTotal: 1 kB\nMemAvailable:    1048576 kB\n");
        root
    }

    #[test]
    fn cores_come_whole_and_the_host_keeps_its_own() {
        let root = machine(&[("0,1,4,5", 100), ("2-3,6-7", 50)], &["0,4", "1,5", "2,6", "3,7"]);
        let share = at(root.path(), &root.path().join("meminfo"), 1, 0).unwrap();
        assert_eq!(share.host, [0, 4]);
        assert!(share.reserved);
        let cores: Vec<Vec<_>> =
            share.instances.nodes.iter().map(|n| n.cores.iter().map(|c| c.cpus.clone()).collect()).collect();
        assert_eq!(cores, [vec![vec![1, 5]], vec![vec![2, 6], vec![3, 7]]]);
        assert_eq!(share.instances.nodes.iter().map(|n| n.pages).collect::<Vec<_>>(), [100, 50]);
        placement::Placement::new(share.instances).unwrap();
    }

    #[test]
    fn without_a_pool_half_of_what_is_there_is_given_out() {
        let root = machine(&[("0-1", 0)], &[]);
        let share = at(root.path(), &root.path().join("meminfo"), 1, 0).unwrap();
        assert!(!share.reserved);
        assert_eq!(share.instances.nodes.first().unwrap().pages, 256);
    }

    #[test]
    fn a_pool_is_asked_for() {
        let root = machine(&[("0", 0), ("1", 7)], &[]);
        at(root.path(), &root.path().join("meminfo"), 1, 20).unwrap();
        for (node, pages) in [(0, 5), (1, 7)] {
            assert_eq!(number(&pool(root.path(), node).join("nr_hugepages")), Some(pages));
        }
    }

    #[test]
    fn lists_of_the_kernel_are_read_and_nonsense_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            write(root.path(), "list", text);
            list(&root.path().join("list"))
        };
        assert_eq!(read("0-2,5\n").unwrap(), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(read("\n").unwrap(), BTreeSet::new());
        for wrong in ["a", "1-", "-", "1-2-3", "99999999999"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("0-4294967295").unwrap().len() < 10_000);
    }

    #[test]
    fn this_machine_can_be_shared() {
        let share = share(1, 0).unwrap();
        assert!(!share.host.is_empty());
        placement::Placement::new(share.instances).unwrap();
    }
}
