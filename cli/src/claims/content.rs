//! Claim 3: a volume is made on the spot with a text that nobody else knows, and looked for at rest.

use super::{Basis, Evidence, Outcome};
use crate::{
    cloud::Cloud,
    failure::{Doing, Failure},
    place::Place,
    up,
};
use std::{fs, path::Path};

/// Bytes of the text that is looked for: half a sector, so that every block holds two.
const TEXT: usize = 256;
/// Length of the image in bytes.
const IMAGE: usize = 1 << 20;

const AT_REST: &str = "A known text in a new encrypted volume";
const KEYS: &str = "The key of a new encrypted volume, asked for by others";

/// The rows.
pub(super) fn evidence(place: &Place) -> Vec<Evidence> {
    vec![
        Evidence::of(AT_REST, at_rest(place)),
        Evidence::of(KEYS, keys(place)),
        Evidence::absent("Instance storage", "this release gives instances no storage of the host's own"),
    ]
}

/// Makes a volume in a folder of its own: nothing of it stays.
fn at_rest(place: &Place) -> Result<Evidence, Failure> {
    let scratch = place.folder("claims.new").doing("a folder for a volume")?;
    let made = make(place, &scratch);
    fs::remove_dir_all(&scratch).doing("the folder of the volume")?;
    let (volume, text, stored) = made?;
    let pieces: Vec<&[u8]> = text.chunks(16).collect();
    let seen = stored.chunks(16).filter(|piece| pieces.contains(piece)).count();
    let mut blocks: Vec<&[u8]> = stored.chunks(16).collect();
    let all = blocks.len();
    blocks.sort_unstable();
    blocks.dedup();
    // XTS turns equal blocks at different places into different ones: two that are equal are an accident of 2^-128.
    let holds = seen == 0 && blocks.len() == all && stored.len() >= IMAGE;
    Ok(Evidence::new(
        AT_REST,
        Outcome::of(holds),
        format!(
            "{}: {} bytes of a repeated random text written through a volume card; of {all} blocks at rest {seen} are of the text, {} are equal to another",
            volume.id,
            stored.len(),
            all - blocks.len()
        ),
        &[Basis::Cryptography, Basis::Release],
    ))
}

/// A volume, the text in it, and its bytes at rest.
fn make(place: &Place, scratch: &Path) -> Result<(volumes::Volume, Vec<u8>, Vec<u8>), Failure> {
    let mut text = Vec::with_capacity(TEXT);
    while text.len() < TEXT {
        text.extend(up::random()?.to_ne_bytes());
    }
    let image = scratch.join("image");
    fs::write(&image, text.repeat(IMAGE / TEXT)).doing("an image")?;
    let mut cloud = Cloud::open(place)?;
    cloud.store = volumes::Store::new(scratch);
    let key = cloud.create_key()?;
    let volume = cloud.import(&key, &image, &mut |_, _| ())?;
    let stored = fs::read(cloud.store.data(&volume.id)).doing("the volume at rest")?;
    Ok((volume, text, stored))
}

/// Whoever is not the control plane gets no key sealed, not even with a grant; nor does the control plane for a host
/// that the tenant did not name.
fn keys(place: &Place) -> Result<Evidence, Failure> {
    let tried = Cloud::open(place)?.try_keys()?;
    Ok(Evidence::of_refusals(KEYS, tried.iter(), &[Basis::Cryptography, Basis::Release]))
}
