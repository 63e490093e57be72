//! The detached signature of a report: a file beside it, by the auditor's identity key.

use super::bounded;
use crate::{
    failure::{Doing, Failure},
    place::Place,
    up::hex_sha256,
};
use ids::Identity;
use serde::{Deserialize, Serialize};
use service::Credentials;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use token::PublicKey;

/// What the signature is for, so that it is taken for nothing else.
const CONTEXT: &[u8] = b"azote/claims/1";
const FORMAT: &str = "azote-signature/1";
/// The group whose members sign, in `policies/groups.toml`.
const AUDITORS: &str = "auditors";
/// Whose key signs.
const SIGNER: &str = "identities/auditor.pem";
/// Longest report and longest signature in bytes.
const MAX_REPORT: u64 = 16 << 20;
const MAX_SIGNATURE: u64 = 64 << 10;

/// The file beside a report.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    format: String,
    /// SHA-256 of the signer's public key, in hexadecimal.
    key: String,
    /// The signer's certificate and those above it (PEM).
    certificate: String,
    /// When it was signed, in Unix seconds, as the signer says.
    signed: u64,
    /// COSE_Sign1 over the report's SHA-256 and that time; base64url.
    signature: String,
}

/// A report whose signature is good.
#[derive(Debug, Serialize)]
pub(super) struct Signed {
    file: PathBuf,
    sha256: String,
    by: Identity,
    key: String,
    /// Unix seconds.
    signed: u64,
    /// Whether the certificate is good today too. If not, who had its key later may have made the page later.
    certificate_valid: bool,
}

impl Signed {
    /// For people.
    pub(super) fn text(&self) -> String {
        let Self { sha256, by, key, .. } = self;
        let file = self.file.display();
        let signed = time::OffsetDateTime::from_unix_timestamp(self.signed.cast_signed())
            .ok()
            .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
            .unwrap_or_default();
        let ended = if self.certificate_valid {
            ""
        } else {
            "\nthe certificate has ended since: the time is the signer's word, and who got the key later could give it too"
        };
        format!("{file}: sha256 {sha256}, signed by {by} at {signed} with key {key}{ended}")
    }
}

/// Who signs.
pub(super) fn signer(place: &Place) -> Result<Credentials, Failure> {
    Credentials::read(&place.path(SIGNER)).map_err(Failure::state)
}

fn beside(report: &Path) -> PathBuf {
    let mut name = report.as_os_str().to_owned();
    name.push(".signature");
    name.into()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What is signed.
fn payload(report: &[u8], signed: u64) -> Vec<u8> {
    format!("{} {signed}", hex_sha256(report)).into_bytes()
}

/// Writes a report and its signature; gives the key's id.
pub(super) fn write(place: &Place, report: &Path, page: &[u8]) -> Result<String, Failure> {
    let credentials = signer(place)?;
    let signed = now();
    let signature = token::cose::sign(credentials.key().pair(), payload(page, signed), CONTEXT)
        .ok_or_else(|| Failure::state("the auditor's key does not sign"))?;
    let path = place.path(SIGNER);
    let key = hex_sha256(&credentials.key().public());
    let signature = Signature {
        format: FORMAT.to_owned(),
        key: key.clone(),
        certificate: crate::cloud::certificates(&fs::read_to_string(&path).doing(path.display())?),
        signed,
        signature: token::cose::to_base64(&signature),
    };
    let file = beside(report);
    let text = serde_json::to_vec_pretty(&signature).map_err(Failure::state)?;
    service::write_atomic(report, page).doing(report.display())?;
    service::write_atomic(&file, &text).doing(file.display())?;
    Ok(key)
}

/// Checks a report against the signature beside it and an authority, without more this installation's.
pub(super) fn verify(place: &Place, report: &Path, ca: Option<&Path>) -> Result<Signed, Failure> {
    let ca = ca.map_or_else(|| place.path("pki/ca.pem"), Path::to_owned);
    let ca = fs::read_to_string(&ca).doing(ca.display())?;
    let bytes = bounded(report, MAX_REPORT)?;
    let file = beside(report);
    let signature = bounded(&file, MAX_SIGNATURE)?;
    check(&ca, report, &bytes, &signature, now())
        .map_err(|why| Failure::Advice("claims.signature", format!("{}: {why}", file.display())))
}

fn check(ca: &str, file: &Path, report: &[u8], signature: &[u8], now: u64) -> Result<Signed, String> {
    let Signature { format, key, certificate, signed, signature } =
        serde_json::from_slice(signature).map_err(|_| "not a signature file".to_owned())?;
    if format != FORMAT {
        return Err("of another release".to_owned());
    }
    if signed > now {
        return Err("signed later than now: is this clock right?".to_owned());
    }
    let holder = service::certified_by(ca, &certificate, signed).map_err(|error| error.to_string())?;
    let by = holder.identity;
    let rights = rights::Rights::embedded().map_err(|error| error.to_string())?;
    let audits = |group: &rights::Group| group.name.as_str() == AUDITORS && group.members.contains(&by);
    if !rights.groups().groups.iter().any(audits) {
        return Err(format!("signed by {by}, who is no auditor"));
    }
    if key != hex_sha256(&holder.public_key) {
        return Err("the key's id is not that of the certificate's key".to_owned());
    }
    let signature = token::cose::from_base64(&signature).ok_or("not base64url")?;
    let was = token::cose::open(&signature, &[PublicKey(holder.public_key)], CONTEXT);
    if was.as_deref() != Some(payload(report, signed).as_slice()) {
        return Err("the signature is not of this report".to_owned());
    }
    let certificate_valid = service::certified_by(ca, &certificate, now).is_ok();
    Ok(Signed { file: file.to_owned(), sha256: hex_sha256(report), by, key, signed, certificate_valid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::Ca;
    use std::time::Duration;

    #[test]
    fn a_changed_report_and_another_signer_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let place = Place::new(scratch.path()).unwrap();
        for folder in ["pki", "identities"] {
            place.folder(folder).unwrap();
        }
        let ca = Ca::create(&place.path("pki")).unwrap();
        let day = Duration::from_secs(86_400);
        let person = |name: &str| {
            let _ = fs::remove_file(place.path(SIGNER));
            ca.client_identity(&name.parse().unwrap(), day, &place.path(SIGNER)).unwrap();
        };
        person("azote:operator/ada");
        let report = scratch.path().join("report.html");
        let write = || write(&place, &report, b"all is well").unwrap();
        let key = write();
        let signed = verify(&place, &report, None).unwrap();
        assert_eq!((signed.by.to_string().as_str(), signed.key), ("azote:operator/ada", key));
        let good = fs::read_to_string(beside(&report)).unwrap();
        assert!(!good.contains("PRIVATE") && signed.certificate_valid);
        let ca = fs::read_to_string(place.path("pki/ca.pem")).unwrap();
        let later =
            |days| check(&ca, &report, b"all is well", good.as_bytes(), signed.signed + days * day.as_secs());
        assert!(!later(400).unwrap().certificate_valid, "it is good for ever, and says what it rests on");
        assert!(check(&ca, &report, b"all is well", good.as_bytes(), signed.signed - 1).is_err());
        let moved = good.replace(&signed.signed.to_string(), &(signed.signed - 1).to_string());
        assert!(check(&ca, &report, b"all is well", moved.as_bytes(), now()).is_err(), "another time");

        fs::write(&report, "all is not well").unwrap();
        assert_eq!(verify(&place, &report, None).unwrap_err().code(), "claims.signature");
        fs::write(&report, "all is well").unwrap();
        for (from, to) in [("azote-signature/1", "azote-signature/2"), ("\"key\": \"", "\"key\": \"0")] {
            fs::write(beside(&report), good.replace(from, to)).unwrap();
            assert_eq!(verify(&place, &report, None).unwrap_err().code(), "claims.signature", "{to}");
        }
        for another in ["azote:service/kms", "azote:operator/alice"] {
            person(another);
            write();
            assert!(
                verify(&place, &report, None).unwrap_err().to_string().contains("no auditor"),
                "{another}"
            );
        }
        let other = tempfile::tempdir().unwrap();
        let forger = Ca::create(other.path()).unwrap();
        fs::remove_file(place.path(SIGNER)).unwrap();
        forger.client_identity(&"azote:operator/ada".parse().unwrap(), day, &place.path(SIGNER)).unwrap();
        write();
        assert_eq!(verify(&place, &report, None).unwrap_err().code(), "claims.signature");
    }
}
