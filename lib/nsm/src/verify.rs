//! What a document shows to whoever gets it. All of it is hostile; only the root's certificate is believed.

use crate::{
    Extension, MAX_CERTIFICATE, MAX_CHAIN, MAX_FIELD, MAX_RESPONSE, PCRS,
    certificate::parse,
    document::{Payload, open},
};
use aws_lc_rs::{
    digest::{SHA384, digest},
    signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey},
};
use ids::{HostId, InstanceId};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_bytes::ByteBuf;
use std::{collections::BTreeMap, fmt, time::Duration};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs::ECDSA_P384_SHA384};
use x509_parser::prelude::X509Certificate;

/// Longest document in bytes: none is longer than the answer that brings it.
pub const MAX_DOCUMENT: usize = MAX_RESPONSE;

/// A register's value.
pub type Register = [u8; 48];

/// Why a document is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// It is none of this format, or not written as attestation cards write them.
    Malformed,
    /// Its certificates do not lead to the root, or one may not do what it did.
    Chain,
    /// The document's key did not sign it.
    Signature,
    /// A certificate is not valid at the time in question, or was not when the document was signed.
    Time,
    /// A register that was asked for is not in it.
    Missing,
    /// A register has another value.
    Register,
    /// It answers another question.
    Nonce,
    /// It is of another instance.
    Instance,
    /// It is of another host.
    Host,
}

impl Code {
    /// The stable code, for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "document.malformed",
            Self::Chain => "document.chain",
            Self::Signature => "document.signature",
            Self::Time => "document.time",
            Self::Missing => "document.register-missing",
            Self::Register => "document.register",
            Self::Nonce => "document.nonce",
            Self::Instance => "document.instance",
            Self::Host => "document.host",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::Malformed => {
                "not a document as attestation cards write them: take the answer's bytes unchanged"
            }
            Self::Chain => {
                "no certificates that lead to this root: take the root of the environment that it is of"
            }
            Self::Signature => "the document's key did not sign this",
            Self::Time => {
                "not valid at this time: have the instance make a new document, and look at the clocks"
            }
            Self::Missing => "the document does not have this register: the instance has to lock it first",
            Self::Register => "the register has another value: something else was started or measured",
            Self::Nonce => "the document answers another nonce, or none: ask again, with one of your own",
            Self::Instance => "the document is of another instance",
            Self::Host => "the document is of another host",
        }
    }
}

/// A refusal: the code, and which entry of the document it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// An entry of the document, a certificate or a register.
    pub entry: String,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.code.message())
    }
}

impl Code {
    /// With the entry that it is about.
    fn at(self, entry: impl fmt::Display) -> Refusal {
        Refusal { code: self, entry: entry.to_string() }
    }

    fn unless(self, good: bool, entry: impl fmt::Display) -> Result<(), Refusal> {
        if good { Ok(()) } else { Err(self.at(entry)) }
    }
}

/// What a document is held to. What is not asked for is not looked at: a document without a nonce may be an old one.
#[derive(Debug, Clone, Default)]
pub struct Question<'a> {
    /// The root's certificate, DER.
    pub root: &'a [u8],
    /// Since 1970, UTC.
    pub now: Duration,
    /// The nonce that it must answer.
    pub nonce: Option<&'a [u8]>,
    /// Of which instance it must be.
    pub instance: Option<&'a InstanceId>,
    /// Of which host.
    pub host: Option<&'a HostId>,
    /// Registers that must be in it, each with the values that are good.
    pub registers: BTreeMap<u16, Vec<Register>>,
}

/// What a document shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Which instance asked for it.
    pub instance: InstanceId,
    /// On which host.
    pub host: HostId,
    /// The instance's start.
    pub module: String,
    /// When it was signed, by the host's clock, since 1970.
    pub signed: Duration,
    /// The locked registers.
    pub registers: BTreeMap<u16, Register>,
    /// Put in by the guest.
    pub user_data: Option<Vec<u8>>,
    /// Put in by the guest, for who asked it.
    pub nonce: Option<Vec<u8>>,
    /// Put in by the guest.
    pub public_key: Option<Vec<u8>>,
}

/// The value of a register that was zero and then extended as told.
pub fn extended<'a>(register: u16, by: impl IntoIterator<Item = &'a Extension>) -> Register {
    let mut value = [0; 48];
    for extension in by.into_iter().filter(|extension| extension.register == register) {
        let next = digest(&SHA384, &[&value, extension.data.as_slice()].concat());
        value.copy_from_slice(next.as_ref());
    }
    value
}

/// Judges a document. Reads no file and no clock.
pub fn verify(document: &[u8], question: &Question<'_>) -> Result<Statement, Refusal> {
    let bounded = Some(document).filter(|document| document.len() <= MAX_DOCUMENT);
    let signed = bounded.and_then(open).ok_or_else(|| Code::Malformed.at("document"))?;
    let payload = Payload::read(&signed.payload).ok_or_else(|| Code::Malformed.at("payload"))?;
    let registers = within_bounds(&payload)?;
    let chain = Certificates::read(&payload)?;
    chain.check(&payload, question)?;
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, chain.key());
    key.verify(&signed.to_be_signed, &signed.signature).map_err(|_| Code::Signature.at("signature"))?;
    let (instance, host) = chain.names(&payload.module_id)?;
    Code::Instance.unless(question.instance.is_none_or(|wanted| *wanted == instance), &instance)?;
    Code::Host.unless(question.host.is_none_or(|wanted| *wanted == host), &host)?;
    let nonce = payload.nonce.map(ByteBuf::into_vec);
    Code::Nonce.unless(question.nonce.is_none_or(|wanted| nonce.as_deref() == Some(wanted)), "nonce")?;
    for (index, good) in &question.registers {
        let name = format_args!("register {index}");
        let value = registers.get(index).ok_or_else(|| Code::Missing.at(name))?;
        Code::Register.unless(good.contains(value), name)?;
    }
    Ok(Statement {
        instance,
        host,
        module: payload.module_id,
        signed: Duration::from_millis(payload.timestamp),
        registers,
        user_data: payload.user_data.map(ByteBuf::into_vec),
        nonce,
        public_key: payload.public_key.map(ByteBuf::into_vec),
    })
}

/// Gives the registers, if all entries have the lengths that the format allows.
fn within_bounds(payload: &Payload) -> Result<BTreeMap<u16, Register>, Refusal> {
    let fields =
        [("public_key", &payload.public_key), ("user_data", &payload.user_data), ("nonce", &payload.nonce)];
    for (name, field) in fields {
        Code::Malformed.unless(field.as_ref().is_none_or(|field| field.len() <= MAX_FIELD), name)?;
    }
    let register = |(index, value): (&u16, &ByteBuf)| {
        let value = Register::try_from(value.as_slice()).ok().filter(|_| *index < PCRS);
        value.map(|value| (*index, value)).ok_or_else(|| Code::Malformed.at(format_args!("register {index}")))
    };
    payload.pcrs.iter().map(register).collect()
}

/// A certificate with what a refusal calls it.
struct Named<'a> {
    name: &'static str,
    der: &'a [u8],
    parsed: X509Certificate<'a>,
}

impl Named<'_> {
    /// Whether it is valid at this time, in seconds since 1970.
    fn is_valid(&self, at: u64) -> bool {
        let validity = self.parsed.validity();
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&at)
    }

    /// Its common name without the suffix that all of them have.
    fn holder(&self) -> Option<&str> {
        let mut names = self.parsed.subject().iter_common_name();
        let name = names.next().filter(|_| names.next().is_none())?;
        name.as_str().ok()?.strip_suffix(".azote")
    }

    fn may(&self, ca: bool) -> bool {
        let usage = self.parsed.key_usage().ok().flatten().map(|usage| usage.value);
        usage.is_some_and(|usage| if ca { usage.key_cert_sign() } else { usage.digital_signature() })
    }
}

/// The certificates of a document, its own first, the root last; at least instance and host are between.
struct Certificates<'a>(Vec<Named<'a>>);

impl<'a> Certificates<'a> {
    fn read(payload: &'a Payload) -> Result<Self, Refusal> {
        let count = payload.cabundle.len();
        Code::Malformed.unless((3..=MAX_CHAIN).contains(&count), "cabundle")?;
        let name = |place: usize| match place {
            0 => "document certificate",
            1 => "instance certificate",
            2 => "host certificate",
            place if place == count => "root certificate",
            _ => "environment certificate",
        };
        let all = [&payload.certificate].into_iter().chain(payload.cabundle.iter().rev()).enumerate();
        let named = |(place, der): (usize, &'a ByteBuf)| {
            let name = name(place);
            let der = Some(der.as_slice()).filter(|der| der.len() <= MAX_CERTIFICATE);
            let parsed = der.and_then(|der| Some(Named { name, der, parsed: parse(der)? }));
            parsed.ok_or_else(|| Code::Malformed.at(name))
        };
        all.map(named).collect::<Result<_, _>>().map(Self)
    }

    /// Whether they lead to the root, each one valid now and when the document was signed.
    fn check(&self, payload: &Payload, question: &Question<'_>) -> Result<(), Refusal> {
        const CHAIN: &str = "certificate chain";
        let [leaf, between @ .., root] = self.0.as_slice() else { return Err(Code::Chain.at(CHAIN)) };
        Code::Chain.unless(root.der == question.root, root.name)?;
        for certificate in &self.0 {
            Code::Time.unless(certificate.is_valid(question.now.as_secs()), certificate.name)?;
            Code::Time.unless(certificate.is_valid(payload.timestamp / 1000), "timestamp")?;
            Code::Chain.unless(certificate.may(certificate.name != leaf.name), certificate.name)?;
        }
        let refused = |_| Code::Chain.at(CHAIN);
        let der = |certificate: &Named<'a>| CertificateDer::from(certificate.der);
        let (leaf, root) = (der(leaf), der(root));
        let between: Vec<_> = between.iter().map(der).collect();
        let anchor = anchor_from_trusted_cert(&root).map_err(refused)?;
        let leaf = EndEntityCert::try_from(&leaf).map_err(refused)?;
        let now = UnixTime::since_unix_epoch(question.now);
        // None of them names an extended usage: one that does is for something else.
        let usage = KeyUsage::required_if_present(&[]);
        let anchors = [anchor];
        let path = leaf.verify_for_usage(&[ECDSA_P384_SHA384], &anchors, &between, now, usage, None, None);
        let path = path.map_err(refused)?;
        // The names are taken from these places.
        let all =
            path.intermediate_certificates().map(|certificate| certificate.der()).eq(between.iter().cloned());
        Code::Chain.unless(all, CHAIN)
    }

    /// The document's key: a point.
    fn key(&self) -> &[u8] {
        self.0.first().map_or(&[], |leaf| &leaf.parsed.public_key().subject_public_key.data)
    }

    /// Which instance it is of, and which host certified that one.
    fn names(&self, module: &str) -> Result<(InstanceId, HostId), Refusal> {
        let [leaf, instance, host, ..] = self.0.as_slice() else { return Err(Code::Chain.at("cabundle")) };
        let id = instance.holder().and_then(|name| name.parse::<InstanceId>().ok());
        let id = id.ok_or_else(|| Code::Chain.at(instance.name))?;
        let host_id = host.holder().and_then(|name| name.parse().ok());
        let host = host_id.ok_or_else(|| Code::Chain.at(host.name))?;
        let start = module.strip_prefix(id.as_str()).is_some_and(|start| start.starts_with("-enc"));
        Code::Instance.unless(start && leaf.holder() == Some(module), "module_id")?;
        Ok((id, host))
    }
}

#[cfg(test)]
mod tests;
