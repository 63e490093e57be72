//! `document-checkers FOLDER`: lets nsm-nitro-enclave-utils verify every document in FOLDER under the root there, and the
//! first again with every single byte changed, the others with some, which it must refuse. AWS's own crate reads the payload.
#![forbid(unsafe_code)]

use aws_nitro_enclaves_nsm_api::api;
use nsm_nitro_enclave_utils::{api::nsm::AttestationDoc, time::Time, verify::AttestationDocVerifierExt};
use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: document-checkers FOLDER")?;
    let folder = Path::new(&folder);
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("expected.json"))?)?;
    let root = fs::read(folder.join("root.der"))?;
    let now = expected["now"].as_u64().ok_or("expected.json has no time")?;
    // A verification takes some milliseconds.
    let mut pace = 1;
    for wanted in expected["documents"].as_array().ok_or("expected.json has no documents")? {
        let name = wanted["file"].as_str().ok_or("a document without a name")?;
        let document = fs::read(folder.join(name))?;
        let refused =
            check(&document, &root, now, wanted, pace).map_err(|error| format!("{name}: {error}"))?;
        println!("{name}: verified by nsm-nitro-enclave-utils; {refused} changed ones refused");
        pace = 16;
    }
    Ok(())
}

fn verify(document: &[u8], root: &[u8], now: u64) -> Result<AttestationDoc, String> {
    let time = Time::new(Box::new(move || now));
    AttestationDoc::from_cose(document, root, time).map_err(|error| format!("{error:?}"))
}

fn check(
    document: &[u8],
    root: &[u8],
    now: u64,
    wanted: &serde_json::Value,
    pace: usize,
) -> Result<usize, String> {
    let found = verify(document, root, now)?;
    let bytes = found.to_binary();
    let by_aws = api::AttestationDoc::from_binary(&bytes).map_err(|error| format!("{error:?}"))?;
    if wanted["module_id"] != by_aws.module_id.as_str() {
        return Err(format!("it names {}", by_aws.module_id));
    }
    for (register, value) in &by_aws.pcrs {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        if wanted["pcrs"][register.to_string()] != hex.as_str() {
            return Err(format!("register {register} is {hex}"));
        }
    }
    let nonce = by_aws.nonce.map(|nonce| nonce.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    if wanted["nonce"].as_str() != nonce.as_deref() {
        return Err(format!("the nonce is {nonce:?}"));
    }
    for (name, when) in [("early", now - 3_600_000), ("late", now + 4 * 3_600_000)] {
        if verify(document, root, when).is_ok() {
            return Err(format!("it is good though it is {name}"));
        }
    }
    for at in (0..document.len()).step_by(pace) {
        let mut changed = document.to_vec();
        changed[at] ^= 1 << (at % 8);
        if verify(&changed, root, now).is_ok() {
            return Err(format!("byte {at} can be changed"));
        }
    }
    Ok(document.len().div_ceil(pace))
}
