use super::*;
use crate::{Attestation, MAX_LIFETIME};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DnType};
use std::os::unix::fs::PermissionsExt;
use x509_parser::{
    extensions::GeneralName,
    pem::parse_x509_pem,
    prelude::{FromDer, X509Certificate},
};

const DAY: Duration = Duration::from_secs(86_400);

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

/// A request that asks for names and powers that it must not get.
fn greedy_request(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["kms.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("azote:service/kms".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "azote:service/kms");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => panic!("{other:?}"),
    };
    names.value.general_names.iter().map(text).collect()
}

#[test]
fn names_and_powers_are_the_authoritys_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path()).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pem = ca.issue(&greedy_request(&key), &identity("azote:tenant/acme"), false, DAY).unwrap();
    let der = der(&pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(names(&certificate), ["azote:tenant/acme"]);
    assert_eq!(certificate.subject().to_string(), "CN=azote:tenant/acme");
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(life.unsigned_abs(), (DAY + BACKDATED).as_secs());
}

#[test]
fn a_reopened_authority_signs_for_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ca::create(dir.path()).unwrap().certificate().to_owned();
    assert!(matches!(Ca::create(dir.path()), Err(Error::File { .. })), "an authority is never replaced");
    let ca = Ca::open(dir.path()).unwrap();
    assert_eq!(ca.certificate(), first);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pem = ca.issue(&greedy_request(&key), &identity("azote:service/tokens"), true, DAY).unwrap();
    let (holder, root) = (der(&pem), der(&first));
    let (_, holder) = X509Certificate::from_der(&holder).unwrap();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    holder.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(holder.issuer(), root.subject());
    assert_eq!(names(&holder), ["azote:service/tokens", "localhost", "[127, 0, 0, 1]"]);
}

#[test]
fn a_request_must_prove_possession_of_an_ed25519_key() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path()).unwrap();
    let acme = identity("azote:tenant/acme");
    let refuse = |request: &str| {
        assert!(matches!(ca.issue(request, &acme, false, DAY), Err(Error::Request)), "{request}");
    };
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let good = greedy_request(&key);
    refuse("");
    refuse("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n");
    refuse(&"A".repeat(MAX_REQUEST + 1));
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut stolen = der(&good);
    let at = stolen.windows(32).position(|bytes| bytes == key.public_key_raw()).unwrap();
    stolen[at..at + 32].copy_from_slice(other.public_key_raw());
    let label = "CERTIFICATE REQUEST";
    refuse(&format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(stolen)));
    refuse(&greedy_request(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()));
    for lifetime in [Duration::ZERO, MAX_LIFETIME + Duration::from_secs(1)] {
        assert!(matches!(ca.issue(&good, &acme, false, lifetime), Err(Error::Lifetime)));
    }
}

#[test]
fn keys_are_in_files_that_only_their_owner_reads() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path()).unwrap();
    let path = dir.path().join("alice.pem");
    ca.client_identity(&identity("azote:operator/alice"), DAY, &path).unwrap();
    for file in [path, dir.path().join(KEY_FILE)] {
        assert!(std::fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_crash_at_any_write_leaves_an_authority_or_a_beginning_of_one() {
    let whole = tempfile::tempdir().unwrap();
    Ca::create(whole.path()).unwrap();
    let key = std::fs::read(whole.path().join(KEY_FILE)).unwrap();
    let none: [(&str, &[u8]); 0] = [];
    let half = &key[..key.len() / 2];
    for left in
        [&none[..], &[("ca.key.new", half)], &[(KEY_FILE, &key)], &[(KEY_FILE, &key), ("ca.pem.new", half)]]
    {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in left {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let made = Ca::create(dir.path()).unwrap();
        let opened = Ca::open(dir.path()).unwrap();
        assert_eq!(made.certificate(), opened.certificate());
        let holder = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        opened.issue(&greedy_request(&holder), &identity("azote:tenant/acme"), false, DAY).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [KEY_FILE, CERTIFICATE_FILE]);
    }
}

#[test]
fn a_host_is_certified_to_certify_instances_and_nothing_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Attestation::open_or_create(dir.path()).unwrap();
    let again = Attestation::open_or_create(dir.path()).unwrap();
    assert_eq!(authority.root(), again.root(), "it is made once");
    let key = nsm::HostKey::derive(&[7; 32]).unwrap();
    let host = "h-0123456789abcdef0".parse().unwrap();
    let pem = again.issue(&key.request().unwrap(), &host, DAY).unwrap();
    let chain = nsm::Chain::from_pem(&pem).unwrap();
    assert!(key.is_certified_by(&chain));
    assert!(!nsm::HostKey::derive(&[8; 32]).unwrap().is_certified_by(&chain));
    let certificates: Vec<_> =
        chain.certificates().iter().map(|der| X509Certificate::from_der(der).unwrap().1).collect();
    let [holder, environment, root] = certificates.as_slice() else { panic!() };
    assert_eq!(holder.subject().to_string(), format!("O=Azote, CN={}", nsm::host_name(&host)));
    for (below, above) in [(holder, environment), (environment, root), (root, root)] {
        below.verify_signature(Some(above.public_key())).unwrap();
        assert_eq!(below.issuer(), above.subject());
    }
    let depths = certificates.iter().map(|c| c.basic_constraints().unwrap().unwrap().value);
    let depths: Vec<_> =
        depths.map(|constraints| (constraints.ca, constraints.path_len_constraint)).collect();
    assert_eq!(depths, [(true, Some(1)), (true, Some(2)), (true, Some(3))]);
    let others = greedy_request(&KeyPair::generate_for(&PKCS_ED25519).unwrap());
    assert!(matches!(authority.issue(&others, &host, DAY), Err(Error::AttestationRequest)));
    assert!(matches!(authority.issue(&others, &host, Duration::ZERO), Err(Error::Lifetime)));
}
