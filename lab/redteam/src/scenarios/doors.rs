//! Strangers and people with too much curiosity at the doors of host, token service and audit service.

use crate::{
    Outcome,
    crew::{ALICE, Ask, CONTROL_PLANE, TENANT, refused},
    play::{Act, Scenario},
    stage::Stage,
};
use audit::note::{Purpose, Signer};
use host_api::{Api, ReadStatus, Resource};
use ids::VolumeId;
use service::Key;
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

pub(crate) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "storm of requests that are none of the API",
            |stage| Act::times(200, || stage.crew.bare("POST", "/v1/shell", b"{\"run\":\"id\"}", &[])),
            "request.unknown",
            "malformed-requests",
        )
        .says(&["request.unknown"]),
        Scenario::new("storm of broken handshakes", handshakes, "tls.handshake", "handshakes")
            .says(&["tls.handshake"]),
        Scenario::new(
            "operator asks for a tenant's volume",
            |stage| {
                let ask = Ask::new(Api::AttachVolume, Resource::Volume(VolumeId::from_random(1)));
                Act::once(|| stage.crew.token(ALICE, &ask).map(refused))
            },
            "rights.api",
            "rights-refused",
        )
        .says(&["operator/alice"]),
        Scenario::new(
            "taken-over control plane asks to drain the host",
            |stage| {
                let ask = Ask::new(Api::DrainHost, stage.crew.here());
                Act::once(|| stage.crew.token(CONTROL_PLANE, &ask).map(refused))
            },
            "rights.api",
            "rights-refused",
        )
        .says(&["service/control-plane"]),
        Scenario::new(
            "audit log read without the right to",
            |stage| {
                let client = stage.crew.service("audit", TENANT)?;
                Act::once(|| Ok(refused(stage.crew.wait(audit::client::entries(&client, 0, 0)))))
            },
            "rights.subject",
            "reader-refused",
        )
        .says(&["tenant/acme"]),
        Scenario::new(
            "forged checkpoint brought as a witness",
            checkpoint,
            "cosignature.checkpoint",
            "audit-forged",
        )
        .says(&["cosignature.checkpoint"]),
        Scenario::new("account of calls in somebody else's name", slander, "attempts.caller", "audit-forged")
            .says(&["attempts.caller"]),
        Scenario::new(
            "webhook down: the alarm about it takes the other way",
            sink_down,
            "alarm.undelivered",
            "alarm-undelivered",
        ),
    ]
}

/// Says what is no TLS, and waits to be turned away.
fn handshakes(stage: &mut Stage) -> Outcome<Act> {
    let address = stage.crew.address("controller")?;
    Act::times(20, || {
        let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
        stream.write_all(b"SSH-2.0-hello\r\n").map_err(|e| e.to_string())?;
        let mut said = Vec::new();
        // Closed, with a TLS alert (RFC 8446 §6) or a reset.
        let _ = stream.read_to_end(&mut said);
        let alert = said.first() == Some(&21) || said.is_empty();
        Ok(if alert { "tls.handshake" } else { "not refused" }.to_owned())
    })
}

fn checkpoint(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let path = stage.rack.state.join("audit/log.vkey");
    let known = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = known.split('+').next().unwrap_or_default();
    let key = Key::generate().map_err(|e| e.to_string())?;
    let forger = Signer::new(name, Purpose::Log, key).map_err(|e| e.to_string())?;
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let note = forger.note(&format!("{name}\n1000000\n{root}\n"));
    let client = crew.service("audit", CONTROL_PLANE)?;
    Act::once(|| Ok(refused(crew.wait(audit::client::cosign(&client, &note)))))
}

fn slander(stage: &mut Stage) -> Outcome<Act> {
    let crew = &stage.crew;
    let token = crew.given(ALICE, &Ask::new(Api::HostStatus, crew.here()))?;
    let prepared = crew.prepare(ALICE, &token, &ReadStatus {})?;
    Act::once(|| crew.tell(TENANT, &prepared.attempt).map(refused))
}

/// An alarm is raised while one receiver is closed; the audit log must have that it was not delivered there.
fn sink_down(stage: &mut Stage) -> Outcome<Act> {
    let (crew, spare) = (&stage.crew, &stage.spare);
    let client = crew.service("audit", "log-reader")?;
    let page = crew.wait(audit::client::status(&client))?;
    spare.close(true);
    let act = Act::once(|| {
        let ask = Ask::new(Api::StopInstance, crew.here());
        let _ = crew.token(ALICE, &ask)?;
        // A refusal of another kind than before: an alarm that was not raised yet.
        let none =
            Ask { audience: Some(ids::HostId::from_random(5)), ..Ask::new(Api::HostStatus, crew.here()) };
        let _ = crew.token(ALICE, &none)?;
        let mut next = page.size;
        stage.until("a record of what was not delivered", Duration::from_secs(10), |stage| {
            let page = stage.crew.wait(audit::client::entries(&client, next, 0));
            let entries = page.map(|page| page.entries).unwrap_or_default();
            next = entries.last().map_or(next, |last| last.index + 1);
            entries.iter().any(|entry| entry.entry.get().contains("\"alarm.undelivered\""))
        })?;
        Ok("alarm.undelivered".to_owned())
    });
    spare.close(false);
    act
}
