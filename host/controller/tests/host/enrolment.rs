//! The authority's side of an enrolment, for hosts that are not started by a boot ROM: it believes that the TPM is one,
//! but not what it says.

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ids::{HostId, Identity};
use pki::{Attestation, Ca};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    process::Child,
    time::Duration,
};
use token::PublicKey;

const DAY: Duration = Duration::from_secs(86_400);

/// Speaks with a host that enrols.
pub(crate) fn certify(child: &mut Child, ca: &Ca, instances: &Attestation, host: &HostId) {
    let (mut to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = BufReader::new(from).lines();
    let mut hear = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let bytes = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let hello = hear();
    let (mut secret, mut nonce) = ([0; 32], [0; 32]);
    rand::fill(&mut secret).unwrap();
    rand::fill(&mut nonce).unwrap();
    let ak = bytes(&hello["ak"]);
    let credential = tpm::make_credential(&bytes(&hello["ek"]), &ak, &secret).unwrap();
    let challenge = json!({"credential": text(&credential.object), "secret": text(&credential.secret),
                           "nonce": text(&nonce)});
    writeln!(to, "{challenge}").unwrap();
    let proof = hear();
    assert_eq!(bytes(&proof["proof"]), secret, "another TPM");
    let chain = ca.issue(hello["csr"].as_str().unwrap(), &Identity::Host(host.clone()), true, DAY).unwrap();
    let identity =
        PublicKey(service::certified_by(ca.certificate(), &chain, crate::rack::now()).unwrap().public_key);
    let instances = instances.issue(hello["attestation"].as_str().unwrap(), host, DAY).unwrap();
    let evidence = &proof["evidence"];
    let events = boot_rom::events::Events::parse(&bytes(&evidence["events"])).unwrap();
    let values = controller::boot::known_good::values(&events, controller::boot::known_good::ALL);
    let quote = tpm::Quote { attest: bytes(&evidence["attest"]), signature: bytes(&evidence["signature"]) };
    quote.verify(&ak, &attest::qualifying_data(&nonce, &identity), &values).unwrap();
    let welcome = json!({"environment": "non-production", "host": host, "chain": chain,
                         "authority": ca.certificate(), "ak_certificate": "",
                         "attestation_chain": instances});
    writeln!(to, "{welcome}").unwrap();
}
