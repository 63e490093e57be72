use super::*;
use nsm::CardKey;
use std::{
    sync::{Arc, Mutex},
    thread,
};
use wire::Link;

/// 2026.
const NOW: u64 = 1_795_000_000;

/// What the card was asked, in words.
type Asked = Arc<Mutex<Vec<String>>>;

/// A card at the far end, and a host whose key is certified if asked.
fn attestation(certified: bool) -> (Attestation, Asked) {
    let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
    let asked = Asked::default();
    let told = Arc::clone(&asked);
    thread::spawn(move || {
        let public_key = CardKey::generate().unwrap().public().to_vec();
        while let Ok((request, fds)) = theirs.receive() {
            let what = match &request {
                Request::Hello => "hello".to_owned(),
                Request::Attach(attach) => {
                    format!("attach {} {} {}", attach.registers.len(), attach.chain.len(), fds.len())
                }
                Request::Connect { .. } => format!("connect {}", fds.len()),
                Request::Certify { chain, .. } => format!("certify {}", chain.len()),
                Request::Detach { .. } => "detach".to_owned(),
                Request::Status => "status".to_owned(),
            };
            told.lock().unwrap().push(what);
            let hello = matches!(request, Request::Hello);
            let hello = hello.then(|| Reply::Hello { public_key: public_key.clone() });
            theirs.send(&hello.unwrap_or(Reply::Done), &[]).unwrap();
        }
    });
    let key = HostKey::derive(&[4; 32]).unwrap();
    let host = nsm::of_host(Some(&[1; 32]), &[0; 72 * 3]);
    let papers = Papers { chain: certified.then(|| chain(&key)), key, host };
    (Attestation::connect(Peer::new(ours).unwrap(), papers).unwrap(), asked)
}

fn chain(key: &HostKey) -> Chain {
    let folder = tempfile::tempdir().unwrap();
    let authority = pki::Attestation::open_or_create(folder.path()).unwrap();
    let host = ids::HostId::from_random(1);
    let pem = authority.issue(&key.request().unwrap(), &host, Duration::from_secs(86_400)).unwrap();
    Chain::from_pem(&pem).unwrap()
}

fn asked(asked: &Asked) -> Vec<String> {
    std::mem::take(&mut *asked.lock().unwrap())
}

#[test]
fn an_instance_has_its_function_from_start_to_end() {
    let (mut attestation, log) = attestation(true);
    let id = InstanceId::from_random(1);
    assert!(attestation.function(&id).unwrap().is_none(), "not started");
    attestation.attach(&id, &nsm::of_machine(b"kernel", "quiet", None), None, NOW).unwrap();
    for _ in 0..2 {
        assert!(attestation.function(&id).unwrap().is_some());
    }
    attestation.attach(&id, &nsm::of_board(&[2; 32]), None, NOW).unwrap();
    attestation.detach(&id);
    attestation.detach(&id);
    // Registers: three of the machine or one of the board, the instance, the release, three entries of the log.
    let wanted = ["hello", "attach 8 4 0", "connect 1", "connect 1", "detach", "attach 6 4 0", "detach"];
    assert_eq!(asked(&log), wanted);
}

#[test]
fn certificates_of_instances_are_made_anew_when_half_of_their_life_is_over() {
    let (mut attestation, log) = attestation(true);
    let id = InstanceId::from_random(1);
    attestation.attach(&id, &[], None, NOW).unwrap();
    let hours = |hours: u64| NOW + hours * 3600;
    for (hour, told) in [(0, 0), (11, 0), (13, 1), (14, 0), (24, 0), (26, 1)] {
        asked(&log);
        attestation.renew(hours(hour));
        assert_eq!(asked(&log), vec!["certify 4"; told], "after {hour} hours");
    }
    attestation.offer(chain(&HostKey::derive(&[5; 32]).unwrap()), hours(27));
    assert!(asked(&log).is_empty(), "another host's");
    attestation.offer(chain(&HostKey::derive(&[4; 32]).unwrap()), hours(27));
    assert_eq!(asked(&log), ["certify 4"]);
}

#[test]
fn a_host_that_is_not_certified_yet_gives_functions_and_certifies_later() {
    let (mut attestation, log) = attestation(false);
    let id = InstanceId::from_random(1);
    attestation.attach(&id, &[], None, NOW).unwrap();
    attestation.renew(NOW);
    assert_eq!(asked(&log), ["hello", "attach 5 0 0"]);
    attestation.offer(chain(&HostKey::derive(&[4; 32]).unwrap()), NOW);
    assert_eq!(asked(&log), ["certify 4"]);
}

#[test]
fn a_host_without_the_card_goes_without_and_one_that_lost_it_says_so() {
    let id = InstanceId::from_random(1);
    let mut none = Attestation::none();
    assert!(none.is_there() && !none.is_offered());
    none.attach(&id, &[], None, NOW).unwrap();
    assert!(none.function(&id).unwrap().is_none());
    let (ours, theirs) = Link::<Request, Reply>::pair().unwrap();
    theirs.send(&Reply::Hello { public_key: vec![4; 97] }, &[]).unwrap();
    let papers = Papers { key: HostKey::derive(&[4; 32]).unwrap(), chain: None, host: Vec::new() };
    let mut lost = Attestation::connect(Peer::new(ours).unwrap(), papers).unwrap();
    drop(theirs);
    assert!(!lost.is_there());
    assert_eq!(lost.attach(&id, &[], None, NOW).unwrap_err().code, "attestation.gone");
}
