//! Hypervisors and their launcher are played here, so that what is asked of them can be seen; the real ones are in
//! the tests of the whole host.

use super::*;
use placement::{Core, Node, Topology};
use std::{
    collections::BTreeSet,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, sleep},
};
use vfio::{ClaimError, Descriptors};
use wire::{
    hypervisor::{self, CpuStatistics, State, Statistics},
    launcher,
};

/// What all players know.
#[derive(Default)]
struct Scene {
    running: BTreeSet<InstanceId>,
    log: Vec<String>,
    /// What each machine's guest did.
    states: BTreeMap<InstanceId, State>,
    /// Machines that do not answer a pause.
    stubborn: BTreeSet<InstanceId>,
    together: bool,
    /// No machine takes a function of the host's hardware.
    refuses: bool,
}

type Shared = Arc<Mutex<Scene>>;

fn hypervisor(link: &Link<hypervisor::Reply, hypervisor::Request>, scene: &Shared) {
    let (mut instance, mut cpus, begun) = (InstanceId::from_random(0), 0, Instant::now());
    while let Ok((request, fds)) = link.receive() {
        let mut now = scene.lock().unwrap();
        let reply = match request {
            hypervisor::Request::Create(create) => {
                (instance, cpus) = (create.instance.clone(), create.cpus);
                let with = if create.passthrough { " with hardware" } else { "" };
                now.log.push(format!("create on {:?}{with}", create.pins));
                let hash = "00".repeat(32);
                hypervisor::Reply::Created(Measurement {
                    kernel: hash.clone(),
                    initrd: None,
                    command_line: hash,
                })
            }
            hypervisor::Request::Resume => {
                now.running.insert(instance.clone());
                now.together |= now.running.len() > 1;
                hypervisor::Reply::Done
            }
            hypervisor::Request::Pause if now.stubborn.contains(&instance) => continue,
            hypervisor::Request::Pause => {
                now.running.remove(&instance);
                hypervisor::Reply::Done
            }
            hypervisor::Request::Passthrough { .. } if now.refuses => {
                hypervisor::Reply::Fault(Fault::new("function.refused", "no"))
            }
            hypervisor::Request::Passthrough { slot } => {
                assert_eq!((fds.len(), now.running.contains(&instance)), (2, false));
                now.log.push(format!("hardware in {slot}"));
                hypervisor::Reply::Done
            }
            hypervisor::Request::Statistics => {
                let time = u64::try_from(begun.elapsed().as_nanos()).unwrap();
                let cpu = CpuStatistics { cpu_ns: Some(time), ..CpuStatistics::default() };
                let state = now.states.get(&instance).copied().unwrap_or(State::Running);
                let (cpus, slots) = (vec![cpu; cpus.into()], Vec::new());
                hypervisor::Reply::Statistics(Box::new(Statistics { state, failed: None, cpus, slots }))
            }
            _ => hypervisor::Reply::Done,
        };
        drop(now);
        if link.send(&reply, &[]).is_err() {
            break;
        }
    }
    scene.lock().unwrap().running.remove(&instance);
}

fn play(link: &Link<launcher::Reply, launcher::Request>, scene: &Shared) {
    while let Ok((request, fds)) = link.receive() {
        let reply = match request {
            launcher::Request::Start { .. } => {
                let (link, scene) = (Link::new(fds.into_iter().next().unwrap()), Arc::clone(scene));
                thread::spawn(move || hypervisor(&link, &scene));
                launcher::Reply::Done
            }
            launcher::Request::End { instance } => {
                let mut now = scene.lock().unwrap();
                now.log.push("end".to_owned());
                now.running.remove(&instance);
                now.states.remove(&instance);
                launcher::Reply::Ended(launcher::Ended { instance, code: None, signal: Some(9) })
            }
            launcher::Request::Ended => launcher::Reply::AllEnded { ended: Vec::new() },
        };
        link.send(&reply, &[]).unwrap();
    }
}

/// A function that has one user at a time, and that the kernel closes a little later than its user ends.
#[derive(Debug, Default)]
struct Function {
    used: AtomicBool,
    /// How often it is still busy.
    busy: AtomicU8,
}

impl accelerators::Function for Function {
    fn connect(&self) -> Result<Descriptors, ClaimError> {
        if self.used.swap(true, Ordering::Relaxed) {
            return Err(ClaimError::Driver("0000:03:00.1".parse().unwrap(), "another machine".to_owned()));
        }
        let null = || File::open("/dev/null").unwrap().into();
        Ok(Descriptors { container: null(), device: null() })
    }

    fn release(&self) -> Result<(), ClaimError> {
        let busy = self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if busy.is_ok() {
            return Err(ClaimError::Busy("0000:03:00.1".parse().unwrap()));
        }
        self.used.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// A host with so many cores for instances, of one thread each.
fn host(cores: u32) -> (Arc<Hypervisors>, Shared) {
    equipped(cores, &[])
}

/// The same with functions of the host's hardware.
fn equipped(cores: u32, functions: &[(&'static str, Arc<Function>)]) -> (Arc<Hypervisors>, Shared) {
    let cores = (1..=cores).map(|cpu| Core { cpus: vec![cpu] }).collect();
    of_nodes(vec![Node { cores, pages: 1 << 17 }], functions)
}

fn of_nodes(nodes: Vec<Node>, functions: &[(&'static str, Arc<Function>)]) -> (Arc<Hypervisors>, Shared) {
    let scene = Shared::default();
    let (ours, theirs) = Link::pair().unwrap();
    let player = Arc::clone(&scene);
    thread::spawn(move || play(&theirs, &player));
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let source = Source { kvm: null(), kernel: null(), initrd: None, command_line: String::new() };
    let instances = Topology { page_size: 2 << 20, nodes };
    let share = Share { instances, host: vec![0], reserved: true };
    let launcher = Launcher::new(ours, None).unwrap();
    let functions = functions.iter().map(|(family, function)| (*family, Arc::clone(function) as _));
    let accelerators = Accelerators::new(functions);
    (Arc::new(Hypervisors::new(source, share, launcher, accelerators, Vec::new()).unwrap()), scene)
}

fn id(number: u8) -> InstanceId {
    InstanceId::from_random(number.into())
}

fn start(host: &Hypervisors, number: u8, kind: &str) -> Result<Measurement, Refusal> {
    let kind = instance_types::find(kind).unwrap();
    let order = Order { instance: id(number), kind, mode: Some(Mode::Unlimited), console_key: None };
    host.start(order, Vec::new())
}

/// Takes turns while `during` looks.
fn turns<T>(host: &Arc<Hypervisors>, during: impl FnOnce() -> T) -> T {
    let (stop, taking) = (Arc::new(AtomicBool::new(false)), Arc::clone(host));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || taking.take_turns(|| stopped.load(Ordering::Relaxed)));
    let seen = during();
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    seen
}

fn wait(mut come: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !come() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_fixed_instance_has_its_cores_until_it_is_stopped() {
    let (host, scene) = host(2);
    let before = host.room();
    start(&host, 1, "m3.medium").unwrap();
    assert_eq!(host.room().0, 1);
    assert!(scene.lock().unwrap().running.contains(&id(1)));
    assert_eq!(start(&host, 1, "m3.medium").unwrap_err().code, "instance.exists");
    start(&host, 2, "m3.medium").unwrap();
    assert_eq!(start(&host, 3, "m3.medium").unwrap_err().code, "placement.cores");
    assert_eq!(scene.lock().unwrap().log, ["create on [1]", "create on [2]"]);
    host.stop(&id(1));
    host.stop(&id(2));
    assert_eq!(host.room(), before);
    assert!(scene.lock().unwrap().running.is_empty());
}

#[test]
fn no_instance_spans_nodes_that_its_guest_is_not_told_of() {
    let node = |cpu| Node { cores: vec![Core { cpus: vec![cpu] }], pages: 1 << 17 };
    let (host, _) = of_nodes(vec![node(1), node(2)], &[]);
    let before = host.room();
    assert_eq!(start(&host, 1, "m7i.large").unwrap_err().code, "placement.cores");
    assert_eq!(host.room(), before);
    start(&host, 1, "m3.medium").unwrap();
    start(&host, 2, "m3.medium").unwrap();
}

#[test]
fn two_burstable_instances_take_turns_and_never_run_together() {
    let (host, scene) = host(1);
    start(&host, 1, "t2.micro").unwrap();
    start(&host, 2, "t2.micro").unwrap();
    let mut seen = BTreeSet::new();
    turns(&host, || {
        wait(|| {
            seen.extend(scene.lock().unwrap().running.iter().cloned());
            seen.len() == 2
        });
    });
    assert!(!scene.lock().unwrap().together, "both ran at one time");
    assert!(host.describe(&id(1)).1.is_some());
    host.stop(&id(1));
    host.stop(&id(2));
    assert_eq!(host.room().0, 1);
}

#[test]
fn a_machine_that_does_not_stand_still_is_ended_and_the_other_goes_on() {
    let (host, scene) = host(1);
    scene.lock().unwrap().stubborn.insert(id(1));
    start(&host, 1, "t2.micro").unwrap();
    start(&host, 2, "t2.micro").unwrap();
    turns(&host, || wait(|| scene.lock().unwrap().running.contains(&id(2))));
    assert!(!scene.lock().unwrap().together);
    assert_eq!(host.look(), [(id(1), End::Failed)]);
    assert!(host.look().is_empty(), "told once");
    assert!(!host.has(&id(1)) && host.has(&id(2)));
}

#[test]
fn a_guest_that_ends_is_found_and_one_that_resets_starts_afresh() {
    let (host, scene) = host(2);
    start(&host, 1, "m3.medium").unwrap();
    start(&host, 2, "m3.medium").unwrap();
    scene.lock().unwrap().states.extend([(id(1), State::Off), (id(2), State::Reset)]);
    assert_eq!(host.look(), [(id(1), End::Off), (id(2), End::Reset)]);
    assert_eq!(host.room().0, 1, "what restarts keeps its core");
    host.restart(&id(2), Vec::new()).unwrap();
    assert!(host.look().is_empty());
    assert_eq!(scene.lock().unwrap().running, BTreeSet::from([id(2)]));
    assert_eq!(scene.lock().unwrap().log.last().unwrap(), "create on [2]");
}

fn functions(family: &'static str, count: usize) -> Vec<(&'static str, Arc<Function>)> {
    std::iter::repeat_with(|| (family, Arc::default())).take(count).collect()
}

#[test]
fn an_accelerator_is_one_instances_until_that_is_gone() {
    let (host, scene) = equipped(64, &functions("g4dn", 5));
    start(&host, 1, "g4dn.xlarge").unwrap();
    start(&host, 2, "g4dn.12xlarge").unwrap();
    assert_eq!(host.accelerators(), [("g4dn", 5, 0)]);
    for kind in ["g4dn.xlarge", "g5.xlarge"] {
        assert_eq!(start(&host, 3, kind).unwrap_err().code, "placement.accelerators");
    }
    start(&host, 3, "m3.medium").unwrap();
    let log = scene.lock().unwrap().log.clone();
    assert_eq!(log[..2], ["create on [1, 2, 3, 4] with hardware", "hardware in 31"]);
    assert_eq!(log[3..7], [31, 30, 29, 28].map(|slot| format!("hardware in {slot}")));
    assert!(!log.last().unwrap().contains("hardware"), "{log:?}");
    host.stop(&id(2));
    assert_eq!(host.accelerators(), [("g4dn", 5, 4)]);
    start(&host, 2, "g4dn.2xlarge").unwrap();
    for number in 1..=3 {
        host.stop(&id(number));
    }
    assert_eq!(host.accelerators(), [("g4dn", 5, 5)]);
}

#[test]
fn an_accelerator_is_waited_for_and_comes_again_after_a_reset() {
    let functions = functions("g5", 1);
    let (host, scene) = equipped(4, &functions);
    let (_, function) = functions.first().unwrap();
    start(&host, 1, "g5.xlarge").unwrap();
    function.busy.store(3, Ordering::Relaxed);
    host.stop(&id(1));
    start(&host, 1, "g5.xlarge").unwrap();
    scene.lock().unwrap().states.insert(id(1), State::Reset);
    assert_eq!(host.look(), [(id(1), End::Reset)]);
    assert_eq!(host.accelerators(), [("g5", 1, 0)], "what restarts keeps its accelerator");
    host.restart(&id(1), Vec::new()).unwrap();
    assert_eq!(scene.lock().unwrap().log.last().unwrap(), "hardware in 31");
    assert!(host.look().is_empty());
}

#[test]
fn an_instance_that_does_not_come_to_be_leaves_its_accelerators() {
    let (host, scene) = equipped(4, &functions("g4dn", 1));
    assert_eq!(start(&host, 1, "g4dn.2xlarge").unwrap_err().code, "placement.cores");
    scene.lock().unwrap().refuses = true;
    assert_eq!(start(&host, 1, "g4dn.xlarge").unwrap_err().code, "hypervisor.fault");
    scene.lock().unwrap().refuses = false;
    assert_eq!((host.room().0, host.accelerators()), (4, vec![("g4dn", 1, 1)]));
    start(&host, 1, "g4dn.xlarge").unwrap();
    scene.lock().unwrap().states.insert(id(1), State::Off);
    assert_eq!(host.look(), [(id(1), End::Off)]);
    assert_eq!(host.accelerators(), [("g4dn", 1, 1)]);
}
