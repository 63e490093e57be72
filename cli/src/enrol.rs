//! How a host becomes one of this installation's environment. It stands in for the factory that made the host's TPM, and
//! for the environment's authority, which asks that TPM which one it is and what it has started.

use crate::{
    failure::{Doing, Failure},
    place::Place,
    up::Rack,
};
use pki::{Answer, Identity, MAX_MESSAGE, Manufacturer, Release, Request};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};
use tpm::{NV_EK_CERTIFICATE, Tpm};

/// Where the maker of TPMs keeps its key.
const MAKER: &str = "pki/manufacturer";
/// What the host's side of the dialog said beside it.
const LOG: &str = "run/enroll.log";
/// The host's papers.
const PAPERS: [&str; 3] = ["host/certificate.pem", "host/ak-certificate", "host/attestation-chain.pem"];

/// Takes a host in that is in its first state: `command` is its side of the dialog, which must run `release`.
pub(crate) fn enrol(rack: &Rack<'_>, mut command: Command, release: &Release) -> Result<(), Failure> {
    let maker = factory(rack)?;
    let log = File::create(rack.place.path(LOG)).doing(LOG)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().doing("enroll the host")?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (input, output) = pipes.ok_or_else(|| Failure::state("the host has no standard input and output"))?;
    // Its input ends with this call, so a host that was refused ends too.
    let talked = converse(rack, &maker, release, input, &mut BufReader::new(output));
    let ended = child.wait().doing("enroll the host")?;
    match (talked, ended.success()) {
        (Ok(()), true) => Ok(()),
        (Err(Failure::Enroll(error)), _) => Err(Failure::Enroll(error)),
        (talked, _) => {
            let said = fs::read_to_string(rack.place.path(LOG)).unwrap_or_default();
            let last = said.lines().last().unwrap_or_default().to_owned();
            Err(talked.err().filter(|_| last.is_empty()).unwrap_or(Failure::State(format!("enroll: {last}"))))
        }
    }
}

fn converse(
    rack: &Rack<'_>,
    maker: &Manufacturer,
    release: &Release,
    mut input: ChildStdin,
    output: &mut BufReader<ChildStdout>,
) -> Result<(), Failure> {
    let request: Request = hear(output)?;
    let authority = &rack.authority;
    let (challenge, pending) = authority.begin(&rack.installation.host, maker.certificate(), request)?;
    say(&mut input, &challenge)?;
    let answer: Answer = hear(output)?;
    say(&mut input, &authority.finish(pending, &answer, release)?)
}

fn say(input: &mut ChildStdin, message: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(message).map_err(Failure::state)?;
    line.push(b'\n');
    input.write_all(&line).doing("the host's side of the enrolment")
}

fn hear<T: DeserializeOwned>(output: &mut BufReader<ChildStdout>) -> Result<T, Failure> {
    let mut line = String::new();
    let read = output.take(MAX_MESSAGE as u64).read_line(&mut line);
    read.doing("the host's side of the enrolment")?;
    serde_json::from_str(&line).map_err(|error| Failure::State(format!("the host: {error}")))
}

/// What the TPM's maker has done before: certified its endorsement key, and put the certificate into it.
fn factory(rack: &Rack<'_>) -> Result<Manufacturer, Failure> {
    let maker = Manufacturer::open_or_create(&rack.place.folder(MAKER).doing(MAKER)?)?;
    let make = || {
        let mut tpm = Tpm::connect(&rack.run("tpm-host"))?;
        if tpm.nv_public(NV_EK_CERTIFICATE)?.is_none() {
            let key = tpm.endorsement_key()?;
            let certificate = maker.certify(&key).map_err(|_| tpm::Error::Key)?;
            tpm.manufacture(&certificate)?;
        }
        Ok::<_, tpm::Error>(())
    };
    make().map_err(Failure::state)?;
    Ok(maker)
}

/// Gives a host that does not run new papers for a day.
pub(crate) fn renew(rack: &Rack<'_>) -> Result<(), Failure> {
    let identity = rack.authority.renew(&rack.installation.host)?;
    put(rack.place, &identity)
}

fn put(place: &Place, identity: &Identity) -> Result<(), Failure> {
    let chain = identity.attestation_chain.as_ref();
    let papers =
        [Some(identity.chain.as_bytes()), Some(&identity.ak_certificate.0), chain.map(String::as_bytes)];
    for (name, bytes) in PAPERS.into_iter().zip(papers) {
        bytes.map_or(Ok(()), |bytes| service::write_atomic(&place.path(name), bytes)).doing(name)?;
    }
    Ok(())
}
