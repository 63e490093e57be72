//! The host's components at a start: connected, started out of the store, released from reset.

use super::Options;
use crate::{
    Refusal,
    attestation::{self, Attestation},
    board::Board,
    boot::{images, out_of_service, start::Start},
    card::Card,
    chip::{Chip, Firmware},
    host::Components,
    hypervisors::{
        Hypervisors,
        setup::{self, Facts, Outcome},
    },
    peer::{Peer, Side},
    storage::Storage,
};
use host_api::{OutOfService, Sha256};
use service::process::Failure;
use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a main board that was powered together with the controller may take to reach the reset line.
const BOARD_WAIT: Duration = Duration::from_secs(10);

const BOARD_LOOK: Duration = Duration::from_millis(50);

/// What a start brings up.
pub(super) struct Brought {
    pub(super) parts: Components,
    pub(super) hypervisors: Option<(Hypervisors, Facts)>,
    pub(super) objection: Option<OutOfService>,
}

/// Starts what came out of the store; tells what speaks against releasing reset.
pub(super) fn bring_up(
    options: &Options,
    start: &Start,
    chip: Chip,
    images: Option<images::Images>,
    papers: attestation::Papers,
) -> Result<Brought, Failure> {
    let mut board = Board::new(connect(&options.board));
    let (card, attests, guests) = images.map_or((None, None, None), |images| {
        let (card, attests, guests) = images.split();
        (Some(card), attests, guests)
    });
    let image = card.as_ref().map(|image| Sha256::from_digest(image.digest()));
    let card = card.map_or_else(|| Err(Refusal::of("card.gone")), |image| Card::start(&image));
    let attestation =
        attests.map_or_else(|| Ok(Attestation::none()), |image| Attestation::start(&image, papers));
    let (hypervisors, unfit) = match setup::bring_up(&start.configured, guests)? {
        Outcome::Absent => (None, None),
        Outcome::Up(up) => (Some(*up), None),
        Outcome::Objection(objection) => (None, objection),
    };
    let objections = [
        failed("boot.card", "the volume card", card.as_ref().err()),
        failed("boot.attestation", "the attestation card", attestation.as_ref().err()),
        failed("boot.board", "the main board", board.status().err().as_ref()),
        unfit,
    ];
    let objection = objections.into_iter().flatten().next();
    let card = card.unwrap_or_else(|_| Card::absent(image.unwrap_or_else(|| Sha256::from_digest(&[0; 32]))));
    let storage = Storage::open(&options.volumes, &options.functions)?;
    let attestation = attestation.unwrap_or_else(|_| Attestation::none());
    let parts = Components { chip, board, card, attestation, storage };
    Ok(Brought { parts, hypervisors, objection })
}

/// Releases the board's management controller, takes functions of an earlier controller's volumes out of the board,
/// and releases the rest; tells what failed.
pub(super) fn release(parts: &mut Components, firmware: &Firmware) -> Option<OutOfService> {
    let Components { chip, board, .. } = parts;
    let bmc = patiently(|| chip.release_bmc(firmware));
    failed("boot.chip", "the security chip", bmc.err().as_ref())
        .or_else(|| failed("boot.board", "the main board", clear(board).err().as_ref()))
        .or_else(|| failed("boot.chip", "the security chip", chip.release(firmware).err().as_ref()))
}

/// Releases reset, and waits for a main board that is still connecting to the reset lines.
fn patiently(mut release: impl FnMut() -> Result<(), Refusal>) -> Result<(), Refusal> {
    let end = Instant::now() + BOARD_WAIT;
    loop {
        match release() {
            Err(Refusal { code: "chip.board-silent", .. }) if Instant::now() < end => sleep(BOARD_LOOK),
            other => return other,
        }
    }
}

fn clear(board: &mut Board) -> Result<(), Refusal> {
    let slots = board.status()?.slots;
    slots.into_iter().try_for_each(|slot| board.unplug(slot))
}

pub(super) fn failed(code: &str, what: &str, refusal: Option<&Refusal>) -> Option<OutOfService> {
    refusal.and_then(|refusal| out_of_service(code, &format!("{what} failed at boot: {}", refusal.message)))
}

/// Connects to a component; one that cannot be reached is absent.
pub(crate) fn connect<S: Side>(path: &Path) -> Peer<S> {
    match wire::connect(path)
        .map_err(|error| error.to_string())
        .and_then(|link| Peer::new(link).map_err(|refusal| refusal.to_string()))
    {
        Ok(peer) => peer,
        Err(error) => {
            tracing::error!(path = %path.display(), error, "a component cannot be reached");
            Peer::absent()
        }
    }
}
