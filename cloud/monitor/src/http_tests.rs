use super::*;
use crate::{Kind, Monitor, Observation, Rules, Source};
use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A real alarm of the real rules.
fn alarm() -> Alarm {
    let mut monitor = Monitor::new(Rules::embedded().unwrap());
    let seen = Observation::new(7, now(), Source::Host(ids::HostId::from_random(1)), Kind::Event);
    let subject = Some("azote:operator/alice".parse().unwrap());
    monitor.observe(&Observation { code: Some("sandbox.killed".to_owned()), subject, ..seen }).remove(0)
}

struct Received {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn receive(stream: impl Read + std::io::Write, status: u16) -> Received {
    let mut stream = BufReader::new(stream);
    let mut read = || {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    let line = read();
    let headers: Vec<(String, String)> = std::iter::from_fn(|| {
        let header = read();
        header.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    })
    .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.get_mut().write_all(answer.as_bytes()).unwrap();
    Received { line, headers, body }
}

/// A receiver of webhooks that answers with these statuses.
fn receiver(statuses: Vec<u16>) -> (String, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/alarms?key=1", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for status in statuses {
            let _ = sender.send(receive(listener.accept().unwrap().0, status));
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn a_webhook_gets_the_alarm_as_json_signed_over_time_and_body() {
    let (url, received) = receiver(vec![200]);
    let secret = [9; 32];
    let alarm = alarm();
    Webhook::new(&url, None, Some(&secret)).unwrap().send(&alarm).await.unwrap();
    let got = received.recv().unwrap();
    assert_eq!(got.line, "POST /alarms?key=1 HTTP/1.1");
    assert_eq!(serde_json::from_slice::<Alarm>(&got.body).unwrap(), alarm);
    let header = |name: &str| got.headers.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(header("content-type"), "application/json");
    let signed = header("azote-signature");
    let time: u64 = signed.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(now() / 1000 - time < 60);
    assert_eq!(signature(&secret, time, &got.body), signed);
    assert_ne!(signature(&[8; 32], time, &got.body), signed);
    assert_ne!(signature(&secret, time + 1, &got.body), signed);
}

#[test]
fn the_signature_is_hmac_sha_256_of_time_dot_body() {
    // RFC 4231 §4.3 has this key and this text; the dot is taken from the text.
    let key = b"Jefe";
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"7.what do ya want for nothing?");
    let hex: String = mac.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(signature(key, 7, b"what do ya want for nothing?"), format!("t=7,v1={hex}"));
}

#[tokio::test]
async fn statuses_say_whether_to_try_again() {
    let (url, _received) = receiver(vec![400, 404, 429, 500, 302, 204]);
    let webhook = Webhook::new(&url, None, None).unwrap();
    let alarm = alarm();
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(match webhook.send(&alarm).await {
            Ok(()) => "taken",
            Err(SendError::Refused(_)) => "refused",
            Err(SendError::Unreachable(why)) => {
                assert!(!why.contains("key=1"), "the address may be a secret: {why}");
                "again"
            }
        });
    }
    assert_eq!(seen, ["refused", "refused", "again", "again", "again", "taken"]);
    drop(url);
    let nobody = Webhook::new("http://127.0.0.1:1/?key=1", None, None).unwrap();
    let Err(SendError::Unreachable(why)) = nobody.send(&alarm).await else { panic!() };
    assert!(!why.contains("key=1"), "{why}");
}

/// A TLS server with a certificate of `ca`, for one webhook.
fn tls_receiver(ca: &pki::Ca, folder: &std::path::Path) -> (String, mpsc::Receiver<Received>) {
    let path = folder.join("server.pem");
    let identity = "azote:service/kms".parse().unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let chain = ca.issue(&request, &identity, true, Duration::from_secs(60)).unwrap();
    std::fs::write(&path, &chain).unwrap();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}/", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    let config = Arc::new(config);
    thread::spawn(move || {
        loop {
            let stream = listener.accept().unwrap().0;
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut socket: TcpStream = stream;
            if tls.complete_io(&mut socket).is_ok() {
                let _ = sender.send(receive(rustls::StreamOwned::new(tls, socket), 200));
            }
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn https_trusts_the_named_authority_only() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, other] = ["a", "b"].map(|name| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        pki::Ca::create(&folder).unwrap()
    });
    let (url, received) = tls_receiver(&ca, folder.path());
    let alarm = alarm();
    let strange = Webhook::new(&url, Some(other.certificate()), None).unwrap();
    assert!(matches!(strange.send(&alarm).await, Err(SendError::Unreachable(_))));
    assert!(received.try_recv().is_err());
    Webhook::new(&url, Some(ca.certificate()), None).unwrap().send(&alarm).await.unwrap();
    assert_eq!(serde_json::from_slice::<Alarm>(&received.recv().unwrap().body).unwrap(), alarm);
}

#[test]
fn addresses_authorities_and_secrets_are_checked() {
    for (url, ca, secret, code) in [
        ("ftp://127.0.0.1/", None, None, "alarms.sink-address"),
        ("http://user:word@127.0.0.1/", None, None, "alarms.sink-address"),
        ("nonsense", None, None, "alarms.sink-address"),
        ("https://127.0.0.1/", None, None, "alarms.sink-authority"),
        ("https://127.0.0.1/", Some("nonsense"), None, "alarms.sink-authority"),
        ("http://127.0.0.1/", None, Some([1; 31].as_slice()), "alarms.sink-secret"),
    ] {
        assert_eq!(Webhook::new(url, ca, secret).unwrap_err().code(), code, "{url}");
    }
}

struct Manager(Child, String);

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's Alertmanager, on a free port, with a receiver that does nothing.
fn manager(folder: &std::path::Path) -> Manager {
    let parts = parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |_| {}).unwrap();
    let config = folder.join("alertmanager.yml");
    std::fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = parts.alertmanager().unwrap();
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={port}"))
        .arg("--cluster.listen-address=")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap());
    let manager = Manager(command.spawn().unwrap(), format!("http://{port}"));
    let start = Instant::now();
    while TcpStream::connect(port).is_err() {
        let log = || std::fs::read_to_string(folder.join("log")).unwrap();
        assert!(start.elapsed() < Duration::from_secs(30), "{}", log());
        thread::sleep(Duration::from_millis(20));
    }
    manager
}

#[tokio::test]
async fn debians_alertmanager_takes_the_alarm_and_shows_it_whole() {
    let folder = tempfile::tempdir().unwrap();
    let manager = manager(folder.path());
    let (sink, alarm) = (Alertmanager::new(&manager.1, None).unwrap(), alarm());
    sink.send(&alarm).await.unwrap();
    sink.send(&alarm).await.unwrap();
    let url: Url = format!("{}/api/v2/alerts", manager.1).parse().unwrap();
    let answer = client(&url, None).unwrap().get(url).send().await.unwrap().bytes().await.unwrap();
    let alerts: Value = serde_json::from_slice(&answer).unwrap();
    let [alert] = alerts.as_array().unwrap().as_slice() else { panic!("{alerts}") };
    assert_eq!(alert["status"]["state"], "active");
    assert_eq!(alert["labels"]["alertname"], "sandbox-killed");
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["labels"]["host"], alarm.host.as_ref().unwrap().as_str());
    assert_eq!(alert["labels"].get("subject"), None, "absent, not empty");
    assert_eq!(alert["annotations"]["entries"], "7");
    assert_eq!(alert["annotations"]["summary"], alarm.summary.as_str());
    assert_eq!(alert["annotations"]["runbook_url"], "docs/runbook.md#sandbox-killed");
}
