//! Documents of the real card, for checkers that are others' (`cargo xtask documents`).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rig;

use ids::HostId;
use nsm::{Code, Question, Request, Response};
use rig::{Card, Host, instance, now};
use serde_json::json;
use std::{collections::HashSet, fs, path::Path};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_cards_documents_are_good_and_no_altered_one_is() {
    let (host, card, id) = (Host::new(), Card::start(), instance(7));
    let registers = [nsm::of_instance(&id), nsm::of_host(Some(&[7; 32]), &[b'x'; 72])].concat();
    assert_eq!(card.attach(&host, &id, &registers), "done");
    let mut guest = card.boot(&id);
    let document = guest.document(b"once");
    let wanted = [4, 5, 6].map(|index| (index, vec![nsm::extended(index, &registers)]));
    let question = Question {
        root: host.root(),
        now: now(),
        nonce: Some(b"once"),
        instance: Some(&id),
        host: Some(&HostId::from_random(1)),
        registers: wanted.into(),
    };
    let judged = |document: &[u8]| nsm::verify(document, &question).map_err(|refusal| refusal.code);
    assert_eq!(judged(&document).unwrap().registers.len(), 16);
    let mut codes = HashSet::new();
    for at in 0..document.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut altered = document.clone();
            altered[at] ^= change;
            codes.insert(judged(&altered).expect_err(&format!("byte {at} can be changed by {change:#04x}")));
        }
    }
    let found = [Code::Malformed, Code::Chain, Code::Signature, Code::Time];
    assert!(found.iter().all(|code| codes.contains(code)), "{codes:?}");
}

/// Writes documents, the root, and what is expected of them, to the folder `AZOTE_DOCUMENTS`.
#[test]
#[ignore = "makes files for `cargo xtask documents`"]
fn documents_for_independent_checkers() {
    let folder = std::env::var_os("AZOTE_DOCUMENTS").unwrap();
    let folder = Path::new(&folder);
    let (host, card, id) = (Host::new(), Card::start(), instance(0x1234_5678_9abc_def0));
    let log = [b'x'; 72 * 2];
    let registers = [
        nsm::of_machine(b"kernel", "console=ttyS0", Some(b"disk")),
        nsm::of_instance(&id),
        nsm::of_host(Some(&[7; 32]), &log),
    ];
    assert_eq!(card.attach(&host, &id, &registers.concat()), "done");
    let mut guest = card.boot(&id);
    let Response::DescribeNSM { module_id, .. } = guest.ask(&Request::DescribeNSM) else { panic!() };
    let field = |byte: u8, length: usize| Some(vec![byte; length].into());
    let mut documents = Vec::new();
    for (file, nonce, length) in [("plain.cose", None, 0), ("full.cose", Some(vec![3; 512]), 512)] {
        if length > 0 {
            guest.ask(&Request::ExtendPCR { index: 16, data: b"mine".to_vec().into() });
            guest.ask(&Request::LockPCR { index: 16 });
        }
        let Response::DescribeNSM { locked_pcrs, .. } = guest.ask(&Request::DescribeNSM) else { panic!() };
        let pcrs: serde_json::Map<_, _> = locked_pcrs
            .iter()
            .map(|index| (index.to_string(), hex(&guest.register(*index).1).into()))
            .collect();
        let given = |byte| if length > 0 { field(byte, length) } else { None };
        let request = Request::Attestation {
            user_data: given(1),
            public_key: given(2),
            nonce: nonce.clone().map(Into::into),
        };
        let Response::Attestation { document } = guest.ask(&request) else { panic!() };
        fs::write(folder.join(file), &*document).unwrap();
        let nonce = nonce.map(|nonce| hex(&nonce));
        documents.push(json!({ "file": file, "module_id": module_id, "nonce": nonce, "pcrs": pcrs }));
    }
    fs::write(folder.join("root.der"), host.root()).unwrap();
    fs::write(folder.join("root.pem"), host.authority.root()).unwrap();
    let now = u64::try_from(now().as_millis()).unwrap();
    let expected = json!({ "now": now, "documents": documents });
    fs::write(folder.join("expected.json"), serde_json::to_vec(&expected).unwrap()).unwrap();
}
