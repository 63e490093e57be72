//! Step 6: the text and the keys are nowhere, and keys that were touched or stolen are refused.

use super::{
    Scene, Stage,
    boots::{Second, device},
};
use crate::{
    cloud::{Recipient, Who, attach_call},
    failure::{Doing, Failure},
    up,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ids::Slot;
use seal::{Context, VolumeKey};
use std::{fs, io};
use volumes::Volume;

/// A sector of the second volume's text (`seek=3` of 4096 bytes).
const TEXT_SECTOR: u64 = 3 * 8;
const SECTOR: usize = 512;

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    // A first look for one byte keeps this quick on large files.
    let Some(first) = wanted.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(wanted) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// The owner looks at the key, as only the owner may, to search for it.
fn key_of(scene: &Scene, volume: &Volume) -> Result<VolumeKey, Failure> {
    let (card, recipient) = scene.cloud.own_card()?;
    let sealed = scene.cloud.seal_to(volume, &recipient.owner, &recipient, None)?;
    let context = Context { host: recipient.host, volume: volume.id.clone() };
    card.open(&sealed, &context).map_err(Failure::state)
}

/// Searches the backing file for the text, and every file for the keys.
pub(super) fn nowhere(stage: &mut Stage<'_>, scene: &Scene, second: &Second) -> Result<(), Failure> {
    stage.report.step("Nobody who holds the disks can read them, and no touched or stolen key is taken");
    let _progress = stage.out.progress("searching every file");
    let path = scene.cloud.store.data(&second.volume.id);
    let bytes = fs::read(&path).doing(path.display())?;
    let hidden = !holds(&bytes, second.text.as_bytes()) && !holds(&bytes, b"cannot read this line");
    stage.report.promise(
        "the text is nowhere in the volume's backing file",
        hidden,
        format!("{} bytes searched", bytes.len()),
    );

    let key = key_of(scene, &second.volume)?;
    let at = usize::try_from(TEXT_SECTOR).unwrap_or(0) * SECTOR;
    let mut sector = bytes.get(at..at + SECTOR).unwrap_or_default().to_vec();
    xts::Xts::new(&key).map_err(Failure::state)?.decrypt_slice(TEXT_SECTOR, &mut sector);
    let there = holds(&sector, second.text.as_bytes());
    stage.report.promise(
        "with its key, which the owner may see, the text is there",
        there,
        String::from_utf8_lossy(&sector).trim_end_matches('\0'),
    );

    drop(key);
    keys_nowhere(stage, scene, &second.volume)
}

/// Searches every file below the state folder for the volume keys, and for a planted one to see that the
/// search finds what is there.
fn keys_nowhere(stage: &mut Stage<'_>, scene: &Scene, second: &Volume) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for volume in [second, &scene.root] {
        let key = key_of(scene, volume)?;
        wanted.extend(key.expose().chunks(32).flat_map(forms));
    }
    let planted = forms(&up::random()?.to_ne_bytes().repeat(2));
    let (mut files, mut searched, mut found, mut seen) = (0, 0, Vec::new(), 0);
    let folder = stage.place.folder("planted").doing("planted")?;
    for (number, form) in planted.iter().enumerate() {
        let text = [&[0x5a; 4095], form.as_slice()].concat();
        fs::write(folder.join(number.to_string()), text).doing("planted")?;
    }
    for file in stage.place.files().doing("state folder")? {
        let bytes = match fs::read(&file) {
            // The services go on, and what they need no more is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.doing(file.display())?,
        };
        files += 1;
        searched += bytes.len();
        if wanted.iter().any(|wanted| holds(&bytes, wanted)) {
            found.push(file.display().to_string());
        }
        if planted.iter().any(|planted| holds(&bytes, planted)) {
            seen += 1;
        }
    }
    fs::remove_dir_all(&folder).doing("planted")?;
    let evidence = if found.is_empty() {
        format!(
            "{files} files, {} MiB searched for two keys: raw, hexadecimal, base64; the search found {seen} of {} planted ones",
            searched >> 20,
            planted.len()
        )
    } else {
        found.join("\n")
    };
    let held = found.is_empty() && seen == planted.len();
    stage.report.promise("no volume key is in any file below the state folder", held, evidence);
    Ok(())
}

/// What half a key looks like in a file.
fn forms(half: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = half.iter().map(|b| format!("{b:02x}")).collect();
    // Base64 of the whole key depends on where the half starts in it; the middle of each third does not.
    let base64 =
        (0..3).filter_map(|skip| half.get(skip..skip + 27)).map(|part| STANDARD.encode(part).into_bytes());
    [half.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()].into_iter().chain(base64).collect()
}

/// Touched and stolen keys.
pub(super) fn refused(stage: &mut Stage<'_>, scene: &Scene, volume: &Volume) -> Result<(), Failure> {
    let code = |result: Result<(), Failure>| match result {
        Ok(()) => "not refused".to_owned(),
        Err(error) => error.to_string(),
    };
    let here = scene.cloud.card()?;

    let mut touched = volume.clone();
    if let Some(last) = touched.wrapped_key.last_mut() {
        *last ^= 0xff;
    }
    let said = code(scene.cloud.seal_to(&touched, &here.owner, &here, None).map(drop));
    stage.report.promise(
        "one flipped byte in the wrapped key: KMS refuses",
        said.starts_with("kms.ciphertext:"),
        said,
    );

    let attach = |sealed: &[u8]| -> Result<(), Failure> {
        let slot = Slot::try_from(3).map_err(Failure::state)?;
        scene.cloud.call(Who::ControlPlane, &attach_call(volume, &device("/dev/sdg")?, slot, sealed)?)?;
        Ok(())
    };
    let mut sealed = scene.cloud.seal_to(volume, &here.owner, &here, None)?;
    let middle = sealed.len() / 2;
    if let Some(byte) = sealed.get_mut(middle) {
        *byte ^= 0xff;
    }
    let said = code(attach(&sealed));
    stage.report.promise(
        "one flipped byte in the sealed key: the card refuses",
        said.starts_with("key.sealed:"),
        said,
    );

    let (_, other) = scene.cloud.own_card()?;
    let foreign = Recipient { owner: here.owner.clone(), ..other.clone() };
    let said = code(scene.cloud.seal_to(volume, &here.owner, &foreign, None).map(drop));
    stage.report.promise(
        "a card that the host has not certified asks with the host's grant: KMS refuses",
        said.starts_with("kms.recipient:"),
        said,
    );
    let said = code(scene.cloud.seal_to(volume, &here.owner, &other, None).map(drop));
    stage.report.promise(
        "the tenant's importer asks with the host's grant: KMS refuses",
        said.starts_with("kms.importer:"),
        said,
    );
    let stolen = scene.cloud.seal_to(volume, &other.owner, &other, None)?;
    let said = code(attach(&stolen));
    stage.report.promise(
        "a key sealed to another card: this card refuses",
        said.starts_with("key.sealed:"),
        said,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_form_and_at_every_place() {
        let half: Vec<u8> = (100..132).collect();
        let forms = forms(&half);
        let hex: String = half.iter().map(|b| format!("{b:02x}")).collect();
        for before in 0..4 {
            let whole = [&vec![7; before][..], &half, &[9; 32]].concat();
            for text in [whole.clone(), hex.clone().into_bytes(), STANDARD.encode(&whole).into_bytes()] {
                assert!(forms.iter().any(|form| holds(&text, form)), "{before}");
            }
        }
        let other: Vec<u8> = (101..133).collect();
        assert!(!forms.iter().any(|form| holds(&other, form)));
    }
}
