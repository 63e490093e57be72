//! Claim 3: a volume is made on the spot with a text that nobody else knows, and looked for at rest.

use super::{Basis, Evidence, Outcome};
use crate::{
    cloud::{Cloud, Refused},
    failure::{Doing, Failure},
    place::Place,
    up,
};
use ids::KeyId;
use std::{fs, path::Path};
use volumes::{Store, Volume};

/// Bytes of the text that is looked for: half a sector, so that every block holds two.
const TEXT: usize = 256;
/// Length of the image in bytes.
const IMAGE: usize = 1 << 20;

const AT_REST: &str = "A known text in a new encrypted volume";
const KEYS: &str = "The key of a new encrypted volume, asked for by others";

/// The id of the tenant's key for these volumes: a key each time would use all up that a tenant may have.
const KEY: &str = "claims-key";

/// The rows. The volume is in a folder of its own: nothing of it stays.
pub(super) fn evidence(place: &Place) -> Vec<Evidence> {
    let made = place.folder("claims.new").doing("a folder for a volume").and_then(|scratch| {
        let made = make(place, &scratch);
        fs::remove_dir_all(&scratch).doing("the folder of the volume")?;
        made
    });
    let mut rows = match made {
        Ok((cloud, volume, text, stored)) => vec![
            at_rest(&volume, &text, &stored),
            Evidence::of(KEYS, cloud.try_keys(&volume).map(|tried| keys(&tried))),
        ],
        Err(error) => vec![Evidence::of(AT_REST, Err(error))],
    };
    rows.push(Evidence::absent(
        "Instance storage",
        "this release gives instances no storage of the host's own",
    ));
    rows
}

fn at_rest(volume: &Volume, text: &[u8], stored: &[u8]) -> Evidence {
    let pieces: Vec<&[u8]> = text.chunks(16).collect();
    let seen = stored.chunks(16).filter(|piece| pieces.contains(piece)).count();
    let mut blocks: Vec<&[u8]> = stored.chunks(16).collect();
    let all = blocks.len();
    blocks.sort_unstable();
    blocks.dedup();
    // XTS turns equal blocks at different places into different ones: two that are equal are an accident of 2^-128.
    let holds = seen == 0 && blocks.len() == all && stored.len() >= IMAGE;
    Evidence::new(
        AT_REST,
        Outcome::of(holds),
        format!(
            "{}: {} bytes of a repeated random text written through a volume card; of {all} blocks at rest {seen} are of the text, {} are equal to another",
            volume.id,
            stored.len(),
            all - blocks.len()
        ),
        &[Basis::Cryptography, Basis::Release],
    )
}

/// A volume, the text in it, and its bytes at rest.
fn make(place: &Place, scratch: &Path) -> Result<(Cloud, Volume, Vec<u8>, Vec<u8>), Failure> {
    let mut text = Vec::with_capacity(TEXT);
    while text.len() < TEXT {
        text.extend(up::random()?.to_ne_bytes());
    }
    let image = scratch.join("image");
    fs::write(&image, text.repeat(IMAGE / TEXT)).doing("an image")?;
    let mut cloud = Cloud::open(place)?;
    cloud.store = Store::new(scratch);
    let volume = cloud.import(&key(place, &cloud)?, &image, &mut |_, _| ())?;
    let stored = fs::read(cloud.store.data(&volume.id)).doing("the volume at rest")?;
    Ok((cloud, volume, text, stored))
}

fn key(place: &Place, cloud: &Cloud) -> Result<KeyId, Failure> {
    let path = place.path(KEY);
    if let Ok(id) = fs::read_to_string(&path) {
        return id.parse().map_err(Failure::state);
    }
    let key = cloud.create_key()?;
    service::write_atomic(&path, key.as_str().as_bytes()).doing(path.display())?;
    Ok(key)
}

/// Whoever is not the control plane gets no key sealed, not even with a grant; nor does the control plane for a host
/// that the tenant did not name.
fn keys(tried: &[Refused]) -> Evidence {
    Evidence::of_refusals(KEYS, tried.iter(), &[Basis::Cryptography, Basis::Release, Basis::LabStandIn])
}
