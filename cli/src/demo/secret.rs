//! Step 6: the text and the keys are nowhere, and keys that were touched or stolen are refused.

use super::{Scene, Stage, boots::Second};
use crate::{
    cloud::{Who, attach_call},
    failure::{Doing, Failure},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ids::Slot;
use seal::{Context, VolumeKey};
use std::fs;
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
    let sealed = scene.cloud.seal_to(volume, &recipient.host, &recipient)?;
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
    let mut sector = bytes[at..at + SECTOR].to_vec();
    xts::Xts::new(&key).map_err(Failure::state)?.decrypt_slice(TEXT_SECTOR, &mut sector);
    let there = sector.starts_with(second.text.as_bytes());
    stage.report.promise(
        "with its key, which the owner may see, the text is there",
        there,
        String::from_utf8_lossy(&sector[..second.text.len()]),
    );

    let keys = [key, key_of(scene, &scene.root)?];
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for half in keys.iter().flat_map(|key| key.expose().chunks(32)) {
        let hex: String = half.iter().map(|b| format!("{b:02x}")).collect();
        // Base64 of the whole key depends on where a half starts in it; the middle of each third does not.
        wanted.extend([half.to_vec(), hex.clone().into_bytes(), hex.to_uppercase().into_bytes()]);
        wanted.extend((0..3).map(|skip| STANDARD.encode(&half[skip..skip + 27]).into_bytes()));
    }
    let files = stage.place.files().doing("state folder")?;
    let (mut searched, mut found) = (0, Vec::new());
    for file in &files {
        let bytes = fs::read(file).doing(file.display())?;
        searched += bytes.len();
        if wanted.iter().any(|wanted| holds(&bytes, wanted)) {
            found.push(file.display().to_string());
        }
    }
    let evidence = if found.is_empty() {
        format!(
            "{} files, {} MiB searched for two keys: raw, hexadecimal, base64",
            files.len(),
            searched >> 20
        )
    } else {
        found.join("\n")
    };
    stage.report.promise("no volume key is in any file below the state folder", found.is_empty(), evidence);
    Ok(())
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
        *last ^= 1;
    }
    let said = code(scene.cloud.seal_to(&touched, &here.host, &here).map(drop));
    stage.report.promise(
        "one flipped bit in the wrapped key: KMS refuses",
        said.contains("kms.ciphertext"),
        said,
    );

    let attach = |sealed: &[u8]| -> Result<(), Failure> {
        let slot = Slot::try_from(3).map_err(Failure::state)?;
        scene.cloud.call(Who::ControlPlane, &attach_call(volume, "/dev/sdg", slot, sealed)?)?;
        Ok(())
    };
    let mut sealed = scene.cloud.seal_to(volume, &here.host, &here)?;
    let middle = sealed.len() / 2;
    sealed[middle] ^= 1;
    let said = code(attach(&sealed));
    stage.report.promise(
        "one flipped bit in the sealed key: the card refuses",
        said.contains("key.sealed"),
        said,
    );

    let (_, other) = scene.cloud.own_card()?;
    let said = code(scene.cloud.seal_to(volume, &here.host, &other).map(drop));
    stage.report.promise(
        "another host's card asks with this host's grant: KMS refuses",
        said.contains("kms.recipient"),
        said,
    );
    let stolen = scene.cloud.seal_to(volume, &other.host, &other)?;
    let said = code(attach(&stolen));
    stage.report.promise(
        "a key sealed to another host's card: this card refuses",
        said.contains("key.sealed"),
        said,
    );
    Ok(())
}
