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

const AT_ONCE: Duration = Duration::ZERO;

pub(crate) fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "storm of requests that are none of the API",
            act: |stage| Act::times(200, || stage.crew.bare("POST", "/v1/shell", b"{\"run\":\"id\"}", &[])),
            codes: &["request.unknown"],
            rule: "malformed-requests",
            says: &["request.unknown"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "storm of broken handshakes",
            act: handshakes,
            codes: &["tls.handshake"],
            rule: "handshakes",
            says: &["tls.handshake"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "operator asks for a tenant's volume",
            act: |stage| {
                let ask = Ask::new(Api::AttachVolume, Resource::Volume(VolumeId::from_random(1)));
                Act::once(|| stage.crew.token(ALICE, &ask).map(refused))
            },
            codes: &["rights.operation"],
            rule: "rights-refused",
            says: &["operator/alice"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "taken-over control plane asks to drain the host",
            act: |stage| {
                let ask = Ask::new(Api::DrainHost, stage.crew.here());
                Act::once(|| stage.crew.token(CONTROL_PLANE, &ask).map(refused))
            },
            codes: &["rights.operation"],
            rule: "rights-refused",
            says: &["service/control-plane"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "audit log read without the right to",
            act: |stage| {
                let client = stage.crew.service("audit", TENANT)?;
                Act::once(|| Ok(refused(stage.crew.wait(audit::client::entries(&client, 0, 0)))))
            },
            codes: &["rights.subject"],
            rule: "reader-refused",
            says: &["tenant/acme"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "forged checkpoint brought as a witness",
            act: checkpoint,
            codes: &["cosignature.checkpoint"],
            rule: "audit-forged",
            says: &["cosignature.checkpoint"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "account of calls in somebody else's name",
            act: slander,
            codes: &["attempts.caller"],
            rule: "audit-forged",
            says: &["attempts.caller"],
            waits: AT_ONCE,
            alone: false,
        },
        Scenario {
            name: "webhook down: the alarm about it takes the other way",
            act: sink_down,
            codes: &["alarm.undelivered"],
            rule: "alarm-undelivered",
            says: &[],
            waits: AT_ONCE,
            alone: false,
        },
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
        let mut found = String::new();
        stage.until("a record of what was not delivered", Duration::from_secs(10), |stage| {
            let entries = stage.crew.wait(audit::client::entries(&client, page.size, 0));
            let texts: Vec<String> = entries
                .iter()
                .flat_map(|page| &page.entries)
                .map(|entry| entry.entry.get().to_owned())
                .collect();
            found = texts.join("\n");
            found.contains("\"alarm.undelivered\"")
        })?;
        Ok("alarm.undelivered".to_owned())
    });
    spare.close(false);
    act
}
