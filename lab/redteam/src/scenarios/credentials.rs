//! Calls at the host's door with what does not give the right to make them.

use crate::{
    Outcome,
    crew::{ALICE, Ask, CONTROL_PLANE, PIPELINE, TENANT, refused},
    play::{Act, Scenario},
    stage::Stage,
};
use coset::TaggedCborSerializable;
use host_api::{
    Api, Call, DetachVolume, DrainHost, ReadStatus, Resource, ResumeHost, SignedKeys, UpdateTokenKeys,
};
use ids::VolumeId;
use service::Key;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};
use token::{Claims, KeySet, Keys, PublicKey, cose};

/// How long the rule on forged tokens keeps another alarm of its kind back.
const FORGED_AGAIN: Duration = Duration::from_secs(10);

pub(crate) fn all() -> Vec<Scenario> {
    let case = Scenario::new;
    vec![
        case("forged token: signed by a key of the attacker's", forged, "token.signature", "forged-token")
            .says(&["token.signature"]),
        case(
            "no token",
            |stage| Act::times(3, || stage.crew.bare("GET", "/v1/status", b"", &[])),
            "token.missing",
            "knocking",
        )
        .says(&["token.missing"]),
        case("expired token, with its holder's key", expired, "token.expired", "knocking")
            .says(&["token.expired"]),
        case("stolen token, without its holder's key", stolen, "proof.signature", "stolen-token")
            .says(&["proof.signature", "operator/alice"]),
        case(
            "confused deputy: an operator uses the control plane's token",
            deputy,
            "proof.signature",
            "stolen-token",
        )
        .says(&["proof.signature", "service/control-plane"]),
        case("replay: a recorded request is sent again", replayed, "proof.replayed", "stolen-token")
            .says(&["proof.replayed"]),
        case("a recorded proof is put on another request", moved, "proof.mismatch", "stolen-token")
            .says(&["proof.mismatch"]),
        case("token for another host", elsewhere, "token.audience", "token-misused")
            .says(&["token.audience"]),
        case("token for another operation", another_operation, "token.api", "token-misused")
            .says(&["token.api"]),
        case(
            "control plane turned on another tenant's volume",
            another_resource,
            "token.resource",
            "token-misused",
        )
        .says(&["token.resource", "service/control-plane"]),
        case(
            "single-use token for a sensitive operation, used twice",
            twice,
            "token.used-up",
            "token-misused",
        )
        .says(&["token.used-up"]),
        case(
            "taken-over pipeline plants a key of its own on the host",
            planted,
            "keys.signature",
            "forged-token",
        )
        .says(&["keys.signature"]),
        case(
            "forged token: claims altered under a good signature",
            altered,
            "token.signature",
            "forged-token",
        )
        .says(&["token.signature"])
        .waits(FORGED_AGAIN),
    ]
}

fn status(stage: &Stage) -> Ask {
    Ask::new(Api::HostStatus, stage.crew.here())
}

/// A volume that may or may not be somebody's: who refuses must not look.
fn volume(number: u128) -> VolumeId {
    VolumeId::from_random(number)
}

fn detach(number: u128, force: bool) -> DetachVolume {
    DetachVolume { volume: volume(number), force }
}

fn forged(stage: &mut Stage) -> Outcome<Act> {
    let (crew, key) = (&stage.crew, Key::generate().map_err(|e| e.to_string())?);
    let now = crate::crew::now() / 1000;
    let claims = Claims {
        issuer: "azote:service/tokens".parse().map_err(|e| format!("{e}"))?,
        subject: "azote:operator/alice".parse().map_err(|e| format!("{e}"))?,
        audience: crew.host.clone(),
        expires: now + 600,
        not_before: now,
        issued: now,
        id: [7; 16],
        holder: PublicKey(crew.credentials(TENANT)?.key().public()),
        apis: vec![Api::HostStatus],
        resources: vec![crew.here()],
        uses: 1,
    };
    let token = claims.sign(key.pair()).map_err(|e| e.to_string())?;
    Act::once(|| crew.call(TENANT, &token, &ReadStatus {}).map(refused))
}

fn altered(stage: &mut Stage) -> Outcome<Act> {
    const NAMES: [&[u8]; 2] = [b"HostStatus", b"ResumeHost"];
    let crew = &stage.crew;
    let token = crew.given(ALICE, &status(stage))?;
    let parsed = cose::from_base64(&token).as_deref().and_then(cose::parse);
    let mut message = parsed.ok_or("the token service gave no token")?;
    let payload = message.payload.get_or_insert_default();
    let at =
        payload.windows(NAMES[0].len()).position(|bytes| bytes == NAMES[0]).ok_or("no operation in it")?;
    payload[at..at + NAMES[0].len()].copy_from_slice(NAMES[1]);
    let token = cose::to_base64(&message.to_tagged_vec().map_err(|e| e.to_string())?);
    Act::once(|| crew.call(ALICE, &token, &ResumeHost {}).map(refused))
}

fn expired(stage: &mut Stage) -> Outcome<Act> {
    let life = Duration::from_secs(1);
    let token = stage.crew.given(ALICE, &Ask { life, ..status(stage) })?;
    sleep(life + Duration::from_millis(1100));
    Act::times(3, || stage.crew.call(ALICE, &token, &ReadStatus {}).map(refused))
}

fn stolen(stage: &mut Stage) -> Outcome<Act> {
    let token = stage.crew.given(ALICE, &status(stage))?;
    Act::once(|| stage.crew.call(TENANT, &token, &ReadStatus {}).map(refused))
}

fn deputy(stage: &mut Stage) -> Outcome<Act> {
    let token = stage.crew.given(CONTROL_PLANE, &Ask::new(Api::DetachVolume, Resource::Volume(volume(1))))?;
    Act::once(|| stage.crew.call(ALICE, &token, &detach(1, true)).map(refused))
}

fn replayed(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &status(stage))?;
    let prepared = crew.prepare(ALICE, &token, &ReadStatus {})?;
    crew.tell(ALICE, &prepared.attempt)??;
    crew.send::<host_api::HostStatus>(&prepared, &token)??;
    Act::once(|| crew.send::<host_api::HostStatus>(&prepared, &token).map(refused))
}

fn moved(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(CONTROL_PLANE, &Ask::new(Api::DetachVolume, Resource::Volume(volume(1))))?;
    let mut prepared = crew.prepare(CONTROL_PLANE, &token, &detach(1, false))?;
    prepared.http = detach(1, true).http();
    Act::once(|| crew.send::<host_api::Done>(&prepared, &token).map(refused))
}

fn elsewhere(stage: &mut Stage) -> Outcome<Act> {
    let importer = stage.crew.importer.clone();
    let ask = Ask { audience: Some(importer.clone()), ..Ask::new(Api::HostStatus, Resource::Host(importer)) };
    let token = stage.crew.given(ALICE, &ask)?;
    Act::once(|| stage.crew.call(ALICE, &token, &ReadStatus {}).map(refused))
}

fn another_operation(stage: &mut Stage) -> Outcome<Act> {
    let token = stage.crew.given(CONTROL_PLANE, &Ask::new(Api::AttachVolume, Resource::Volume(volume(1))))?;
    Act::once(|| stage.crew.call(CONTROL_PLANE, &token, &detach(1, true)).map(refused))
}

fn another_resource(stage: &mut Stage) -> Outcome<Act> {
    let token = stage.crew.given(CONTROL_PLANE, &Ask::new(Api::DetachVolume, Resource::Volume(volume(1))))?;
    Act::once(|| stage.crew.call(CONTROL_PLANE, &token, &detach(2, true)).map(refused))
}

fn twice(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &Ask::new(Api::DrainHost, crew.here()))?;
    crew.call(ALICE, &token, &DrainHost {})??;
    let act = Act::once(|| crew.call(ALICE, &token, &DrainHost {}).map(refused));
    crew.does(ALICE, &Ask::new(Api::ResumeHost, crew.here()), &ResumeHost {})??;
    act
}

fn planted(stage: &mut Stage) -> Outcome<Act> {
    let (crew, key) = (&stage.crew, Key::generate().map_err(|e| e.to_string())?);
    let keys = Keys::new(vec![PublicKey(key.public())]).ok_or("no key set")?;
    let signed = KeySet { sequence: 1_000_000, keys }.sign(key.pair()).ok_or("cannot sign")?;
    let call = UpdateTokenKeys { key_set: SignedKeys::from_bytes(&signed).map_err(|e| e.to_string())? };
    let at = Instant::now();
    let answer = crew.does(PIPELINE, &Ask::new(Api::UpdateTokenKeys, crew.here()), &call)?;
    Ok(Act { codes: vec![refused(answer)], at })
}
