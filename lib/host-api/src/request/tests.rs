use super::*;
use crate::{SealedKey, find, messages::CreditMode};
use proptest::prelude::*;

fn volume() -> VolumeId {
    VolumeId::from_random(7)
}

fn every_request() -> Vec<(Request, HttpCall)> {
    fn both<C: Call>(call: &C) -> (Request, HttpCall) {
        (call.clone().into(), call.http())
    }
    let instance = InstanceId::from_random(8);
    vec![
        both(&ReadStatus {}),
        both(&AttestHost { nonce: Nonce::from_bytes(&[0xff; 32]) }),
        both(&ListFirmware {}),
        both(&VerifyFirmware {}),
        both(&ReadLog { after: 41 }),
        both(&AcknowledgeLog { up_to: 40, checkpoint: Sha256::from_digest(&[3; 32]) }),
        both(&DrainHost {}),
        both(&ResumeHost {}),
        both(&PowerCycleHost {}),
        both(&ResetHost {}),
        both(&OfferCertificate {
            chain: "-".repeat(16384).parse().unwrap(),
            attestation_certificate: AttestationKey::from_bytes(&[9; 2048]).unwrap(),
            instances_chain: Some("-".repeat(16384).parse().unwrap()),
        }),
        both(&UpdateTokenKeys { key_set: SignedKeys::from_bytes(&[9; 200]).unwrap() }),
        both(&AttachVolume {
            volume: volume(),
            device_name: "/dev/sdf".parse().unwrap(),
            size: 1 << 30,
            instance: Some(instance.clone()),
            slot: Slot::try_from(2).unwrap(),
            sealed_key: SealedKey::from_bytes(&[9; 112]).unwrap(),
        }),
        both(&DetachVolume { volume: volume(), force: true }),
        both(&StartInstance {
            instance: instance.clone(),
            root: volume(),
            instance_type: "t3.micro".parse().unwrap(),
            console_key: Some(ConsoleKey::from_bytes(&[7; 32])),
            credits: Some(CreditMode::Unlimited),
        }),
        both(&StopInstance { instance: instance.clone(), force: false }),
        both(&ReadStatistics { instance: instance.clone() }),
        both(&ReadConsole { instance: instance.clone(), after: 7 }),
        both(&WriteConsole { instance, sealed: SealedConsole::from_bytes(&[0; 32 << 10]).unwrap() }),
    ]
}

#[test]
fn what_a_client_sends_is_what_the_host_reads() {
    let apis: Vec<_> = every_request().iter().map(|(request, _)| request.api()).collect();
    assert_eq!(apis, Api::ALL);
    for (request, http) in every_request() {
        let (path, query) = match http.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (http.target.as_str(), None),
        };
        let spec = find(http.method.as_str(), path).unwrap();
        assert_eq!(spec.api, request.api());
        assert_eq!(Request::parse(spec.api, query, &http.body).unwrap(), request);
        let kinds: Vec<_> = request.resources(&HostId::from_random(1)).iter().map(Resource::kind).collect();
        assert_eq!(kinds, spec.api.kinds(), "{}", spec.api);
        let noted: Vec<_> = request.notes().into_iter().map(|(name, _)| name).collect();
        assert_eq!(noted, spec.api.notes(), "{}", spec.api);
    }
}

#[test]
fn a_volume_for_an_instance_touches_the_instance_too() {
    let body = |instance: &str| {
        let text = format!(
            r#"{{"volume":"{}","device_name":"sdf","size":4096,"slot":1,"sealed_key":"AAAA"{instance}}}"#,
            volume()
        );
        let Ok(request) = Request::parse(Api::AttachVolume, None, text.as_bytes()) else { return Vec::new() };
        request.resources(&HostId::from_random(1))
    };
    let instance = InstanceId::from_random(8);
    let both = [Resource::Volume(volume()), Resource::Instance(instance.clone())];
    assert_eq!(body(&format!(r#","instance":"{instance}""#)), both);
    assert_eq!(body(""), both[..1]);
    assert_eq!(body(r#","instance":null"#), both[..1]);
    assert_eq!(body(r#","instance":"i-*""#), []);
}

#[test]
fn the_slot_behind_those_of_volumes_is_the_hosts_own() {
    let reads = |slot: u8| {
        let text = format!(
            r#"{{"volume":"{}","device_name":"sdf","size":4096,"slot":{slot},"sealed_key":"AAAA"}}"#,
            volume()
        );
        Request::parse(Api::AttachVolume, None, text.as_bytes()).is_ok()
    };
    assert!(reads(1) && reads(ids::SLOTS) && !reads(Slot::HOST.into()) && !reads(0));
}

#[test]
fn parameters_beside_the_declared_ones_are_refused() {
    let extra = br#"{"volume":"vol-00000000000000007","force":true,"path":"/etc/passwd"}"#;
    assert_eq!(Request::parse(Api::DetachVolume, None, extra), Err(Malformed));
    assert_eq!(Request::parse(Api::DetachVolume, None, b"{}"), Err(Malformed));
    for list in [&b"[]"[..], br#"["vol-00000000000000007",true]"#] {
        let read = [Api::DrainHost, Api::DetachVolume].map(|api| Request::parse(api, None, list));
        assert_eq!(read, [Err(Malformed), Err(Malformed)], "fields have names");
    }
    assert_eq!(Request::parse(Api::HostStatus, Some("after=1"), b""), Err(Malformed));
    assert_eq!(Request::parse(Api::HostStatus, None, b"{}"), Err(Malformed));
    for query in [
        None,
        Some(""),
        Some("after="),
        Some("after=+1"),
        Some("after=1&after=2"),
        Some("after=99999999999999999999"),
    ] {
        assert_eq!(Request::parse(Api::ReadLog, query, b""), Err(Malformed), "{query:?}");
    }
    let instance = InstanceId::from_random(8);
    for query in [
        format!("instance={instance}"),
        format!("instance={instance}&after=x"),
        format!("instance={instance}&after=1&instance={instance}"),
        format!("instance=\"{instance}\"&after=1"),
        "instance=7&after=1".to_owned(),
        "instance=&after=1".to_owned(),
    ] {
        assert_eq!(Request::parse(Api::ReadConsole, Some(&query), b""), Err(Malformed), "{query:?}");
    }
    let long = vec![b' '; MAX_BODY + 1];
    assert_eq!(Request::parse(Api::StopInstance, None, &long), Err(Malformed));
}

proptest! {
    #[test]
    fn no_body_and_no_query_panics(
        api in prop::sample::select(Api::ALL),
        query in prop::option::of(".{0,40}"),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Request::parse(api, query.as_deref(), &body);
    }
}
