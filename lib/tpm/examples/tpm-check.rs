//! Uses one TPM for all that this crate does, and says how it went: `tpm-check PATH`, where PATH is a TPM's socket or
//! device. It owns the TPM and clears it in the end, so it is for TPMs that nobody needs.
#![allow(missing_docs, clippy::print_stdout, clippy::indexing_slicing, reason = "a program for tests")]

use std::{path::Path, process::ExitCode};
use tpm::{
    Approval, Clock, Error, Hierarchy, Limit, Measurement, NV_EK_CERTIFICATE, NV_FLOOR, NV_IDENTITY,
    PcrValues, Policy, QuoteError, SigningKey, Tpm, make_credential, replay,
};

type Check = fn(&Path) -> Outcome;
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Fails with the condition's text.
macro_rules! want {
    ($condition:expr) => {
        if !$condition {
            return Err(stringify!($condition).into());
        }
    };
}

const OWNER: &[u8] = b"the owner's authorisation value!";
const LOCKOUT: &[u8] = b"the lockout authorisation value!";
const KEY_AUTH: &[u8] = b"the signing key's own value";

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        println!("usage: tpm-check PATH");
        return ExitCode::from(2);
    };
    let mut good = true;
    for (name, outcome) in all(Path::new(&path)) {
        let (verdict, text) =
            outcome.map_or_else(|why| ("FAIL", why.to_string()), |()| ("ok", String::new()));
        good &= verdict == "ok";
        println!("{name} {verdict} {text}");
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All checks in order, on a TPM without an owner.
pub(crate) fn all(path: &Path) -> Vec<(&'static str, Outcome)> {
    let checks: [(&str, Check); 9] = [
        ("tpm-measure", measure),
        ("tpm-seal", seal),
        ("tpm-quote", quote),
        ("tpm-own", own),
        ("tpm-write-once", write_once),
        ("tpm-count", count),
        ("tpm-approve", approve),
        ("tpm-credential", credential),
        ("tpm-clear", clear),
    ];
    checks.into_iter().map(|(name, check)| (name, check(path))).collect()
}

fn connect(path: &Path) -> Result<Tpm, Error> {
    let mut tpm = Tpm::connect(path)?;
    tpm.secure(None)?;
    Ok(tpm)
}

fn measure(path: &Path) -> Outcome {
    let mut tpm = Tpm::connect(path)?;
    want!(tpm.pcr_read(&[8, 15])? == PcrValues::from([(8, [0; 32]), (15, [0; 32])]));
    let log = [tpm.measure(8, [1; 32], "first")?, tpm.measure(8, [2; 32], "second")?];
    want!(tpm.pcr_read(&[8])? == replay(&log)?);
    Ok(())
}

fn seal(path: &Path) -> Outcome {
    let mut tpm = Tpm::connect(path)?;
    want!(matches!(tpm.seal(&[], Policy::None), Err(Error::Unsecured)));
    let name = tpm.secure(None)?;
    want!(tpm.secure(Some(&name))? == name && name == tpm::name(&tpm.endorsement_key()?)?);
    want!(matches!(tpm.secure(Some(&[0; 34])), Err(Error::Foreign)));
    let secret = [5; 1000];
    let sealed = tpm.seal(&secret, Policy::None)?;
    for _ in 0..4 {
        want!(**tpm.unseal(&sealed)? == secret);
    }
    Ok(())
}

fn quote(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    let (key, nonce, values) = (tpm.attestation_key()?, [7; 32], tpm.pcr_read(&[8, 9])?);
    let first = tpm.quote(&nonce, &[8, 9])?.verify(&key, &nonce, &values)?;
    let second = tpm.quote(&nonce, &[8, 9])?.verify(&key, &nonce, &values)?;
    want!(first.resets == second.resets && first.milliseconds <= second.milliseconds);
    want!(tpm.clock()?.resets == first.resets);
    want!(tpm.quote(&[8; 32], &[8, 9])?.verify(&key, &nonce, &values) == Err(QuoteError::Nonce));
    Ok(())
}

fn own(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    want!(!tpm.has_auth(Hierarchy::Owner)? && !tpm.has_auth(Hierarchy::Lockout)?);
    let before = tpm.seal(b"before", Policy::None)?;
    tpm.make_storage_root(&[])?;
    tpm.make_storage_root(&[])?;
    tpm.set_auth(Hierarchy::Owner, &[], OWNER)?;
    tpm.set_auth(Hierarchy::Lockout, &[], LOCKOUT)?;
    want!(tpm.has_auth(Hierarchy::Owner)? && tpm.has_auth(Hierarchy::Lockout)?);
    want!(**tpm.unseal(&before)? == *b"before");
    let after = tpm.seal(b"after", Policy::None)?;
    want!(**tpm.unseal(&after)? == *b"after");
    want!(matches!(tpm.make_storage_root(&[]), Err(Error::Auth)));
    Ok(())
}

fn write_once(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    want!(tpm.nv_read(NV_IDENTITY)?.is_none() && tpm.nv_public(NV_IDENTITY)?.is_none());
    want!(matches!(tpm.nv_write_once(b"nobody", NV_IDENTITY, b"x"), Err(Error::Auth)));
    want!(matches!(tpm.nv_write_once(OWNER, NV_IDENTITY, b""), Err(Error::Length)));
    tpm.nv_write_once(OWNER, NV_IDENTITY, b"who this is")?;
    want!(tpm.nv_read(NV_IDENTITY)?.as_deref() == Some(b"who this is"));
    want!(tpm.nv_public(NV_IDENTITY)?.is_some_and(|public| public.locked && public.written));
    want!(matches!(tpm.nv_write_once(OWNER, NV_IDENTITY, b"another"), Err(Error::Locked)));
    want!(matches!(tpm.nv_undefine(&[], NV_IDENTITY), Err(Error::Auth)));
    want!(tpm.nv_read(NV_IDENTITY)?.as_deref() == Some(b"who this is"));
    Ok(())
}

fn count(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    want!(tpm.nv_counter(NV_FLOOR)?.is_none());
    let base = tpm.nv_define_counter(OWNER, NV_FLOOR)?;
    want!(tpm.nv_define_counter(OWNER, NV_FLOOR)? == base);
    tpm.nv_increment(OWNER, NV_FLOOR)?;
    want!(tpm.nv_counter(NV_FLOOR)? == Some(base + 1));
    want!(matches!(tpm.nv_increment(&[], NV_FLOOR), Err(Error::Auth)));
    want!(tpm.nv_public(NV_FLOOR)?.is_some_and(|public| public.counter && !public.locked));
    Ok(())
}

fn approve(path: &Path) -> Outcome {
    const FOR: &[u8] = b"check/1";
    let mut tpm = connect(path)?;
    let key = tpm.create_signing_key(KEY_AUTH)?;
    let floor = tpm.nv_counter(NV_FLOOR)?.ok_or("no counter")?;
    let limit = Some(Limit { index: NV_FLOOR, at_most: floor });
    let blob = tpm.seal(b"secret", Policy::Authorized { key: &key.public, reference: FOR })?;
    let now = tpm.pcr_read(&[11, 12])?;
    let mut approve = |pcrs: &PcrValues, reference: &[u8], limit| {
        let approval = tpm.approve(&key, KEY_AUTH, reference, pcrs, limit)?;
        Approval::decode(&approval.encode())
    };
    let entry = Measurement { pcr: 11, digest: [9; 32], description: "the next state".to_owned() };
    let mut next = replay(&[entry])?;
    next.insert(12, [0; 32]);
    let (good, later) = (approve(&now, FOR, limit)?, approve(&next, FOR, None)?);
    let elsewhere = approve(&now, b"check/2", limit)?;
    let other = tpm.create_signing_key(KEY_AUTH)?;
    let foreign = tpm.approve(&other, KEY_AUTH, FOR, &now, limit)?;
    let unseal = |approval: &Approval| connect(path)?.unseal_approved(&blob, &key.public, FOR, approval);
    drop(tpm);
    want!(**unseal(&good)? == *b"secret");
    want!(good.limit() == limit && later.limit().is_none());
    want!(matches!(unseal(&later), Err(Error::Policy)));
    want!(matches!(unseal(&elsewhere), Err(Error::Approval)));
    want!(matches!(unseal(&foreign), Err(Error::Approval)));
    forged(path, &key, &blob, &good)?;
    let mut tpm = connect(path)?;
    want!(matches!(tpm.unseal(&blob), Err(Error::Blob)));
    want!(matches!(tpm.approve(&key, b"guessed", FOR, &now, None), Err(Error::Auth)));
    // The floor rises: what was approved for below it dies, in the TPM.
    tpm.nv_increment(OWNER, NV_FLOOR)?;
    drop(tpm);
    want!(matches!(unseal(&good), Err(Error::Rollback)));
    connect(path)?.pcr_extend(11, &[9; 32])?;
    want!(**unseal(&later)? == *b"secret");
    want!(unseal(&good).is_err());
    Ok(())
}

/// No changed byte of an approval opens; neither does another key that the same TPM holds.
fn forged(path: &Path, key: &SigningKey, blob: &[u8], good: &Approval) -> Outcome {
    let (encoded, mut tpm) = (good.encode(), connect(path)?);
    for at in 0..encoded.len() {
        let mut changed = encoded.clone();
        changed[at] ^= 1;
        let opened = Approval::decode(&changed)
            .and_then(|approval| tpm.unseal_approved(blob, &key.public, b"check/1", &approval));
        if opened.is_ok() {
            return Err(format!("byte {at} of an approval does not count").into());
        }
        want!(Approval::decode(&encoded[..at]).is_err());
    }
    let other = tpm.create_signing_key(KEY_AUTH)?;
    let values = tpm.pcr_read(&[11, 12])?;
    let approval = tpm.approve(&other, KEY_AUTH, b"check/1", &values, None)?;
    want!(matches!(tpm.unseal_approved(blob, &other.public, b"check/1", &approval), Err(Error::Policy)));
    Ok(())
}

fn credential(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    let (ek, ak) = (tpm.endorsement_key()?, tpm.attestation_key()?);
    want!(tpm.endorsement_key()? == ek);
    for secret in [&[1][..], &[2; 32]] {
        let made = make_credential(&ek, &ak, secret)?;
        want!(**tpm.activate_credential(&made)? == *secret);
        let mut changed = made.clone();
        changed.object[5] ^= 1;
        want!(matches!(tpm.activate_credential(&changed), Err(Error::Integrity)));
    }
    // For a key that is not in this TPM: one bit of its point is another.
    let mut foreign = ak.clone();
    *foreign.last_mut().ok_or("empty")? ^= 1;
    let made = make_credential(&ek, &foreign, b"secret")?;
    want!(matches!(tpm.activate_credential(&made), Err(Error::Integrity)));
    let signing = tpm.create_signing_key(KEY_AUTH)?.public;
    want!(make_credential(&ek, &signing, b"secret").is_err());
    want!(make_credential(&ak, &ak, b"secret").is_err());
    want!(make_credential(&ek, &ak, &[0; 33]).is_err());
    Ok(())
}

fn clear(path: &Path) -> Outcome {
    let mut tpm = connect(path)?;
    let made = tpm.nv_read(NV_EK_CERTIFICATE)?;
    let (ek, blob) = (tpm.endorsement_key()?, tpm.seal(b"secret", Policy::None)?);
    let counted = tpm.nv_counter(NV_FLOOR)?.ok_or("no counter")?;
    tpm.clear(LOCKOUT)?;
    want!(!tpm.has_auth(Hierarchy::Owner)? && !tpm.has_auth(Hierarchy::Lockout)?);
    want!(tpm.nv_public(NV_IDENTITY)?.is_none() && tpm.nv_public(NV_FLOOR)?.is_none());
    want!(matches!(tpm.unseal(&blob), Err(Error::Integrity)));
    want!(tpm.endorsement_key()? == ek && tpm.nv_read(NV_EK_CERTIFICATE)? == made);
    want!(matches!(tpm.clock()?, Clock { resets: 0, restarts: 0, .. }));
    want!(tpm.nv_define_counter(&[], NV_FLOOR)? > counted);
    Ok(())
}
