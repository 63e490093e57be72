use super::*;
use crate::lab::{DAY, Lab, NOW};
use ids::{Environment, Identity};
use proptest::prelude::*;
use std::{sync::LazyLock, time::Instant};
use token::{Ed25519KeyPair, PublicKey};

const ASKED: [u8; NONCE] = [9; NONCE];

fn asked<'a>() -> Question<'a> {
    Question { nonce: &ASKED, now: NOW, crl: None, seen: None }
}

/// The refusal, as `code entry`.
fn refused(evidence: &Evidence, policy: &Policy, question: &Question<'_>) -> String {
    let refusal = verify(evidence, policy, question).unwrap_err();
    format!("{} {}", refusal.code, refusal.entry.unwrap_or_default()).trim_end().to_owned()
}

#[test]
fn a_good_host_is_what_its_release_says() {
    let lab = Lab::default();
    let evidence = Evidence::parse(lab.evidence(&ASKED).to_json().as_bytes()).unwrap();
    let policy = Policy::parse(lab.policy().to_json().as_bytes()).unwrap();
    let appraisal = verify(&evidence, &policy, &asked()).unwrap();
    assert_eq!((appraisal.host, appraisal.environment), (lab.host.clone(), Environment::NonProduction));
    assert_eq!(appraisal.identity, PublicKey::of(&lab.identity));
    assert_eq!(appraisal.release, Version { svn: 3, name: "1.2.0".to_owned() });
    assert_eq!((appraisal.configuration, appraisal.counters), (5, lab.counters));
}

#[test]
fn no_policy_is_no_permission() {
    let lab = Lab::default();
    for empty in ["", " \n"] {
        assert_eq!(Policy::parse(empty.as_bytes()).unwrap_err().code, Code::PolicyEmpty);
    }
    let mut policy = lab.policy();
    policy.releases.clear();
    assert_eq!(refused(&lab.evidence(&ASKED), &policy, &asked()), "attest.policy-empty");
    assert_eq!(Policy::parse(policy.to_json().as_bytes()).unwrap_err().code, Code::PolicyEmpty);
    for malformed in ["{}", "[]", "x"] {
        assert_eq!(Policy::parse(malformed.as_bytes()).unwrap_err().code, Code::PolicyMalformed);
    }
    let mut foreign = lab.policy();
    foreign.root_key = PublicKey::of(&Ed25519KeyPair::generate().unwrap());
    assert_eq!(refused(&lab.evidence(&ASKED), &foreign, &asked()), "attest.policy release manifest");
}

#[test]
fn an_answer_to_another_question_is_none() {
    let lab = Lab::default();
    assert_eq!(refused(&lab.evidence(&[8; NONCE]), &lab.policy(), &asked()), "attest.nonce");
    // The same host under another identity key: the quote is bound to the one that certifies cards.
    let (mut evidence, other) = (lab.evidence(&ASKED), Ed25519KeyPair::generate().unwrap());
    evidence.certificate = lab.certify(&other, &Identity::Host(lab.host.clone()));
    assert_eq!(refused(&evidence, &lab.policy(), &asked()), "attest.nonce");
}

#[test]
fn papers_must_be_the_authoritys_and_belong_together() {
    let (lab, other) = (Lab::default(), Lab::default());
    let policy = lab.policy();
    let good = lab.evidence(&ASKED);
    let foreign = Evidence { certificate: other.evidence(&ASKED).certificate, ..good.clone() };
    assert_eq!(refused(&foreign, &policy, &asked()), "attest.certificate host certificate");
    let certificate = lab.certify(&lab.identity, &"azote:service/kms".parse().unwrap());
    let service = Evidence { certificate, ..good.clone() };
    assert_eq!(refused(&service, &policy, &asked()), "attest.certificate host certificate");
    let none = Evidence { certificate: String::new(), ..good.clone() };
    assert_eq!(refused(&none, &policy, &asked()), "attest.certificate host certificate");
    for ak in [Vec::new(), other.evidence(&ASKED).attestation_certificate.0] {
        let evidence = Evidence { attestation_certificate: Bytes(ak), ..good.clone() };
        assert_eq!(refused(&evidence, &policy, &asked()), "attest.certificate attestation key");
    }
    // Another TPM's key under this host's certificate, and another host's certificate beside this TPM's key.
    let key = Evidence { attestation_key: other.evidence(&ASKED).attestation_key, ..good.clone() };
    assert_eq!(refused(&key, &policy, &asked()), "attest.certificate attestation key");
    let neighbour = Identity::Host(ids::HostId::from_random(2));
    let moved = Evidence { certificate: lab.certify(&lab.identity, &neighbour), ..good };
    assert_eq!(refused(&moved, &policy, &asked()), "attest.certificate attestation key");
}

#[test]
fn papers_have_their_time_and_can_be_revoked() {
    let lab = Lab::default();
    let (evidence, policy) = (lab.evidence(&ASKED), lab.policy());
    for now in [NOW - DAY - 1, NOW + DAY + 1] {
        let refusal = refused(&evidence, &policy, &Question { now, ..asked() });
        assert_eq!(refusal, "attest.expired host certificate");
    }
    let with = |crl: &str| verify(&evidence, &policy, &Question { crl: Some(crl), ..asked() });
    with(&lab.revocations(&[], NOW + DAY)).unwrap();
    with(&lab.revocations(&[2], NOW + DAY)).unwrap();
    let code = |crl: &str| with(crl).unwrap_err().code;
    assert_eq!(code(&lab.revocations(&[1, 2], NOW + DAY)), Code::Revoked);
    assert_eq!(code(&lab.revocations(&[], NOW - 1)), Code::Expired);
    assert_eq!(code(&Lab::default().revocations(&[], NOW + DAY)), Code::Certificate, "another authority's");
    assert_eq!(code("no list"), Code::Certificate);
}

#[test]
fn environments_do_not_mix() {
    let production = Lab::new(Environment::Production);
    let mut mixed = Lab::default();
    let policy = mixed.policy();
    let mut other = production.policy();
    other.authority.clone_from(&mixed.authority);
    assert_eq!(refused(&mixed.evidence(&ASKED), &other, &asked()), "attest.environment attestation key");
    mixed.configuration.environment = Environment::Production;
    assert_eq!(refused(&mixed.evidence(&ASKED), &policy, &asked()), "attest.environment configuration");
    mixed.manifest.environment = Environment::Production;
    assert_eq!(refused(&mixed.evidence(&ASKED), &policy, &asked()), "attest.environment release manifest");
}

#[test]
fn the_log_must_replay_and_every_register_must_have_been_extended() {
    let lab = Lab::default();
    let policy = lab.policy();
    for at in 0..lab.events().len() {
        let mut evidence = lab.evidence(&ASKED);
        evidence.events.remove(at);
        assert_eq!(refused(&evidence, &policy, &asked()), "attest.log", "without entry {at}");
    }
    let mut outside = lab.evidence(&ASKED);
    outside.events[0].pcr = 7;
    assert_eq!(refused(&outside, &policy, &asked()), "attest.log root key");
    for pcr in PCRS {
        let events = lab.events().into_iter().filter(|event| event.pcr != pcr).collect();
        let refusal = refused(&lab.evidence_of(&ASKED, events), &policy, &asked());
        assert_eq!(refusal, format!("attest.pcr-zero register {pcr}"));
    }
    assert_eq!(
        refused(&lab.evidence_of(&ASKED, vec![]), &policy, &asked()),
        "attest.pcr-zero register 8",
        "a controller that was started without ROM and stage 1"
    );
}

#[test]
fn the_entry_that_differs_is_named() {
    let lab = Lab::default();
    let policy = lab.policy();
    for (at, event) in lab.events().into_iter().enumerate() {
        let mut changed = lab.events();
        changed[at].sha256.0[31] ^= 1;
        let refusal = refused(&lab.evidence_of(&ASKED, changed), &policy, &asked());
        assert_eq!(refusal, format!("attest.entry {}", event.what));
        let mut missing = lab.events();
        missing.remove(at);
        let refusal = refused(&lab.evidence_of(&ASKED, missing), &policy, &asked());
        assert_eq!(refusal, format!("attest.entry {} (missing)", event.what));
        let mut twice = lab.events();
        twice.push(event.clone());
        let refusal = refused(&lab.evidence_of(&ASKED, twice), &policy, &asked());
        assert_eq!(refusal, format!("attest.entry {} (unexpected)", event.what));
    }
    let mut stranger = lab.events();
    stranger.push(Event { pcr: 11, what: "debugger".to_owned(), sha256: Hash([1; 32]) });
    let refusal = refused(&lab.evidence_of(&ASKED, stranger), &policy, &asked());
    assert_eq!(refusal, "attest.entry debugger (unexpected)");
    let mut rotated = lab.events();
    rotated.push(Event { pcr: 10, what: "token keys".to_owned(), sha256: Hash([1; 32]) });
    verify(&lab.evidence_of(&ASKED, rotated), &policy, &asked()).unwrap();
}

#[test]
fn only_releases_that_the_policy_names_and_if_it_says_so_later_ones() {
    let mut lab = Lab::default();
    let only = lab.policy();
    let mut later = lab.policy();
    later.or_later = true;
    let nothing = LaunchPolicy { releases: vec![], ..later.launch().unwrap() };
    let tried = [
        (3, "1.2.1", "attest.release release manifest", ""),
        (4, "1.10.0", "attest.release release manifest", ""),
        (2, "1.2.0", "attest.rollback release manifest", "attest.rollback release manifest"),
        (3, "1.1.9", "attest.rollback release manifest", "attest.rollback release manifest"),
        (4, "1.1.9", "attest.rollback release manifest", "attest.rollback release manifest"),
        (4, "later", "attest.rollback release manifest", "attest.rollback release manifest"),
    ];
    for (svn, version, alone, with_later) in tried {
        (lab.manifest.svn, lab.manifest.version) = (svn, version.to_owned());
        let evidence = lab.evidence(&ASKED);
        assert_eq!(refused(&evidence, &only, &asked()), alone, "{svn} {version}");
        let appraisal = verify(&evidence, &lab.policy(), &asked()).unwrap();
        let admitted = |launch: &LaunchPolicy| match launch.admits(&appraisal) {
            Ok(()) => String::new(),
            Err(refusal) => format!("{} {}", refusal.code, refusal.entry.unwrap_or_default()),
        };
        assert_eq!(admitted(&only.launch().unwrap()), alone, "what a grant carries judges alike");
        assert_eq!(admitted(&later.launch().unwrap()), with_later);
        assert_eq!(admitted(&nothing), "attest.policy-empty ");
        let foreign = LaunchPolicy { root_key: PublicKey([7; 32]), ..later.launch().unwrap() };
        assert_eq!(admitted(&foreign), "attest.release release manifest");
        let elsewhere = LaunchPolicy { environment: Environment::Production, ..later.launch().unwrap() };
        assert_eq!(admitted(&elsewhere), "attest.environment release manifest");
        match with_later {
            "" => drop(verify(&evidence, &later, &asked()).unwrap()),
            code => assert_eq!(refused(&evidence, &later, &asked()), code, "{svn} {version}"),
        }
    }
    let unsigned = Evidence { manifest: Lab::default().evidence(&ASKED).manifest, ..lab.evidence(&ASKED) };
    assert_eq!(refused(&unsigned, &later, &asked()), "attest.release release manifest");
}

#[test]
fn a_release_must_say_what_starts_a_host() {
    for kind in [release::Kind::Stage1, release::Kind::Controller] {
        let mut lab = Lab::default();
        lab.manifest.images.retain(|image| image.kind != kind);
        let refusal = refused(&lab.evidence(&ASKED), &lab.policy(), &asked());
        assert_eq!(refusal, "attest.release release manifest");
    }
}

#[test]
fn an_older_configuration_is_a_rollback() {
    let lab = Lab::default();
    let mut policy = lab.policy();
    policy.configuration = 6;
    assert_eq!(refused(&lab.evidence(&ASKED), &policy, &asked()), "attest.rollback configuration");
    let none = Evidence { configuration: Bytes::default(), ..lab.evidence(&ASKED) };
    assert_eq!(refused(&none, &policy, &asked()), "attest.release configuration");
    let none = Evidence { manifest: Bytes::default(), ..lab.evidence(&ASKED) };
    assert_eq!(refused(&none, &policy, &asked()), "attest.release release manifest");
}

#[test]
fn counters_that_went_back_are_another_tpms() {
    let mut lab = Lab::default();
    let seen = Some(lab.counters);
    verify(&lab.evidence(&ASKED), &lab.policy(), &Question { seen, ..asked() }).unwrap();
    lab.counters.clock -= 1;
    let refusal = refused(&lab.evidence(&ASKED), &lab.policy(), &Question { seen, ..asked() });
    assert_eq!(refusal, "attest.clock");
}

#[test]
fn judging_takes_less_than_two_milliseconds() {
    let lab = Lab::default();
    let (evidence, policy) = (lab.evidence(&ASKED), lab.policy());
    let crl = lab.revocations(&[2], NOW + DAY);
    let question = Question { crl: Some(&crl), seen: Some(lab.counters), ..asked() };
    let fastest = (0..20).map(|_| {
        let start = Instant::now();
        verify(&evidence, &policy, &question).unwrap();
        start.elapsed()
    });
    let fastest = fastest.min().unwrap();
    assert!(fastest.as_micros() < 2000, "{fastest:?}");
}

/// One host, its policy, and its evidence as JSON.
static GOOD: LazyLock<(Policy, Evidence)> = LazyLock::new(|| {
    let lab = Lab::default();
    (lab.policy(), lab.evidence(&ASKED))
});

/// Every field of evidence, with one bit of one byte changed.
fn flipped(field: usize, at: prop::sample::Index, bit: u32) -> Evidence {
    let mut evidence = GOOD.1.clone();
    let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1_u8 << bit;
    match field {
        0 => flip(&mut evidence.quote.0),
        1 => flip(&mut evidence.signature.0),
        2 => flip(&mut evidence.attestation_key.0),
        3 => flip(&mut evidence.attestation_certificate.0),
        4 => flip(&mut evidence.manifest.0),
        5 => flip(&mut evidence.configuration.0),
        _ => {
            let events = evidence.events.len();
            let event = &mut evidence.events[at.index(events)];
            event.sha256.0[at.index(32)] ^= 1_u8 << bit;
        }
    }
    evidence
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(field in 0_usize..7, at: prop::sample::Index, bit in 0..8_u32) {
        prop_assert!(verify(&flipped(field, at, bit), &GOOD.0, &asked()).is_err());
    }

    /// Also in its JSON, where it is not the same evidence in other letters.
    #[test]
    fn any_byte_changed_in_the_file_is_refused(at: prop::sample::Index, byte: u8) {
        let mut json = GOOD.1.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(evidence) = Evidence::parse(&json) && evidence != GOOD.1 {
            prop_assert!(verify(&evidence, &GOOD.0, &asked()).is_err());
        }
    }

    #[test]
    fn reading_never_panics(json in prop::collection::vec(any::<u8>(), 0..300), crl in ".{0,100}") {
        let _ = Evidence::parse(&json);
        let _ = Policy::parse(&json);
        let question = Question { crl: Some(&crl), ..asked() };
        prop_assert!(verify(&GOOD.1, &GOOD.0, &question).is_err());
    }
}

/// Every byte of everything signed, one after the other.
#[test]
fn no_byte_of_what_is_signed_can_change() {
    let fields: [fn(&mut Evidence) -> &mut Vec<u8>; 6] = [
        |e| &mut e.quote.0,
        |e| &mut e.signature.0,
        |e| &mut e.attestation_key.0,
        |e| &mut e.attestation_certificate.0,
        |e| &mut e.manifest.0,
        |e| &mut e.configuration.0,
    ];
    for field in fields {
        let mut evidence = GOOD.1.clone();
        for at in 0..field(&mut evidence).len() {
            field(&mut evidence)[at] ^= 0x20;
            assert!(verify(&evidence, &GOOD.0, &asked()).is_err(), "byte {at}");
            field(&mut evidence)[at] ^= 0x20;
        }
    }
}
