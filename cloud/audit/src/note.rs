//! Signed notes (C2SP signed-note), checkpoints (C2SP tlog-checkpoint) and cosignatures (C2SP tlog-cosignature),
//! all with Ed25519. Notes come from strangers: they are bounded and parsed strictly.

use crate::tree::{Hash, MAX_SIZE, sha256};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use service::Key;
use std::{fmt, str::FromStr};

/// Longest note in bytes.
pub const MAX_NOTE: usize = 16 * 1024;
/// Most signatures of a note.
pub const MAX_SIGNATURES: usize = 32;
const MAX_NAME: usize = 128;
const DASH: &str = "\u{2014} ";

/// Why a text is not a note, a checkpoint or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNote {
    /// Not a signed note.
    #[error("not a signed note of at most {MAX_NOTE} bytes and {MAX_SIGNATURES} signatures")]
    Note,
    /// Not a checkpoint.
    #[error("not a checkpoint: want the log's name, its size and its root on three lines")]
    Checkpoint,
    /// Not a verifier key.
    #[error("not a verifier key: want name+id+base64 of an Ed25519 key")]
    Key,
}

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Notes, as the log itself.
    Log = 1,
    /// Checkpoints of others, with the time at which it saw them, as a witness.
    Witness = 4,
}

/// A public key with the name of who signs with it, written `name+id+base64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VerifierKey {
    name: String,
    purpose: Purpose,
    key: [u8; 32],
}

impl VerifierKey {
    /// A key under a name without blanks and plus signs, at most 128 bytes.
    pub fn new(name: &str, purpose: Purpose, key: [u8; 32]) -> Result<Self, BadNote> {
        let good = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.chars().all(good);
        if fits { Ok(Self { name: name.to_owned(), purpose, key }) } else { Err(BadNote::Key) }
    }

    /// Who signs; for a log's key, also the log's name in its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it signs.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The first bytes of the hash of name, purpose and key.
    pub fn id(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = sha256(&[self.name.as_bytes(), b"\n", &self.tagged()].concat());
        [a, b, c, d]
    }

    fn tagged(&self) -> Vec<u8> {
        [&[self.purpose as u8], self.key.as_slice()].concat()
    }

    /// Whether it signed the note, and for a witness, when (Unix seconds; 0 for a log).
    pub fn signed(&self, note: &Note<'_>) -> Option<u64> {
        self.line(note).map(|(_, time)| time)
    }

    fn line<'a>(&self, note: &Note<'a>) -> Option<(&'a str, u64)> {
        let mut ours = note.signatures.iter().filter(|line| line.name == self.name && line.id == self.id());
        ours.find_map(|line| Some((line.line, self.check(note.text, &line.signature)?)))
    }

    fn check(&self, text: &str, signature: &[u8]) -> Option<u64> {
        let (time, message, signature) = match self.purpose {
            Purpose::Log => (0, text.to_owned(), signature),
            Purpose::Witness => {
                let (time, signature) = signature.split_first_chunk()?;
                let time = u64::from_be_bytes(*time);
                (time, cosigned(time, text), signature)
            }
        };
        let key = UnparsedPublicKey::new(&ED25519, self.key);
        key.verify(message.as_bytes(), signature).is_ok().then_some(time)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        write!(f, "{}+{id:08x}+{}", self.name, STANDARD.encode(self.tagged()))
    }
}

impl FromStr for VerifierKey {
    type Err = BadNote;
    fn from_str(text: &str) -> Result<Self, BadNote> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BadNote::Key);
        };
        let bytes = STANDARD.decode(key).map_err(|_| BadNote::Key)?;
        let purpose = match bytes.first() {
            Some(1) => Purpose::Log,
            Some(4) => Purpose::Witness,
            _ => return Err(BadNote::Key),
        };
        let key = bytes.get(1..).and_then(|key| key.try_into().ok()).ok_or(BadNote::Key)?;
        let key = Self::new(name, purpose, key)?;
        if key.to_string() == text { Ok(key) } else { Err(BadNote::Key) }
    }
}

/// A private key that signs notes under a name.
pub struct Signer {
    key: Key,
    public: VerifierKey,
}

impl Signer {
    /// Signs with `key` as `name`.
    pub fn new(name: &str, purpose: Purpose, key: Key) -> Result<Self, BadNote> {
        let public = VerifierKey::new(name, purpose, key.public())?;
        Ok(Self { key, public })
    }

    /// The public half.
    pub fn public(&self) -> &VerifierKey {
        &self.public
    }

    /// The signature line of a text that ends with a line feed. `time` (Unix seconds) is for witnesses.
    pub fn line(&self, text: &str, time: u64) -> String {
        let sign = |message: &str| self.key.pair().sign(message.as_bytes()).as_ref().to_vec();
        let mut bytes = self.public.id().to_vec();
        match self.public.purpose {
            Purpose::Log => bytes.extend(sign(text)),
            Purpose::Witness => {
                bytes.extend(time.to_be_bytes());
                bytes.extend(sign(&cosigned(time, text)));
            }
        }
        format!("{DASH}{} {}\n", self.public.name, STANDARD.encode(bytes))
    }

    /// A whole note.
    pub fn note(&self, text: &str) -> String {
        format!("{text}\n{}", self.line(text, 0))
    }
}

fn cosigned(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// A text and the signatures under it, which nobody has checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// What is signed, last line feed included.
    pub text: &'a str,
    signatures: Vec<Signature<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature<'a> {
    line: &'a str,
    name: &'a str,
    id: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Reads a note.
    pub fn parse(note: &'a str) -> Result<Self, BadNote> {
        let printable = |c: char| c == '\n' || !c.is_control();
        if note.len() > MAX_NOTE || !note.chars().all(printable) {
            return Err(BadNote::Note);
        }
        let at = note.rfind("\n\n").ok_or(BadNote::Note)?;
        let (text, lines) = note.split_at(at + 1);
        let lines = lines.strip_prefix('\n').filter(|lines| lines.ends_with('\n')).ok_or(BadNote::Note)?;
        if lines.lines().count() > MAX_SIGNATURES {
            return Err(BadNote::Note);
        }
        let signatures = lines.lines().map(signature).collect::<Option<_>>();
        Ok(Self { text, signatures: signatures.ok_or(BadNote::Note)? })
    }

    /// The line, as it is, with which `key` signed the note. Others may stand under its name.
    pub fn line_of(&self, key: &VerifierKey) -> Option<&'a str> {
        key.line(self).map(|(line, _)| line)
    }
}

fn signature(line: &str) -> Option<Signature<'_>> {
    let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (id, signature) = bytes.split_first_chunk()?;
    Some(Signature { line, name, id: *id, signature: signature.to_vec() })
}

/// What a log is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Reads the text of a note. Lines after the third are of no meaning here.
    pub fn parse(text: &str) -> Result<Self, BadNote> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(number), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(BadNote::Checkpoint);
        };
        let size: u64 = number.parse().map_err(|_| BadNote::Checkpoint)?;
        let hash = STANDARD.decode(root).ok().and_then(|hash| hash.try_into().ok());
        let hash: Hash = hash.ok_or(BadNote::Checkpoint)?;
        let checkpoint = Self { origin: origin.to_owned(), size, root: hash };
        let one_way = text.starts_with(&checkpoint.text()) && !origin.is_empty() && size <= MAX_SIZE;
        if one_way { Ok(checkpoint) } else { Err(BadNote::Checkpoint) }
    }

    /// Reads a note that `log` signed about itself.
    pub fn open(note: &str, log: &VerifierKey) -> Result<Self, BadNote> {
        let note = Note::parse(note)?;
        let checkpoint = Self::parse(note.text)?;
        let good = log.purpose == Purpose::Log && checkpoint.origin == log.name;
        if good && log.signed(&note).is_some() { Ok(checkpoint) } else { Err(BadNote::Note) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signer(name: &str, purpose: Purpose, seed: u8) -> Signer {
        Signer::new(name, purpose, Key::from_seed(&[seed; 32]).unwrap()).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "example.org/log".to_owned(), size: 7, root: [9; 32] }
    }

    #[test]
    fn a_checkpoint_is_taken_from_its_log_alone() {
        let log = signer("example.org/log", Purpose::Log, 1);
        let note = log.note(&checkpoint().text());
        assert_eq!(Checkpoint::open(&note, log.public()), Ok(checkpoint()));
        for other in [signer("example.org/log", Purpose::Log, 2), signer("example.org/lag", Purpose::Log, 1)]
        {
            assert_eq!(Checkpoint::open(&note, other.public()), Err(BadNote::Note));
        }
        let elsewhere = Checkpoint { origin: "example.org/two".to_owned(), ..checkpoint() };
        assert_eq!(Checkpoint::open(&log.note(&elsewhere.text()), log.public()), Err(BadNote::Note));
        assert!(Checkpoint::open(&note.replacen("\n7\n", "\n8\n", 1), log.public()).is_err());
        assert!(Checkpoint::open(&note.replacen("\n7\n", "\n07\n", 1), log.public()).is_err());
    }

    #[test]
    fn a_witness_signs_the_time_too() {
        let (log, witness) = (signer("example.org/log", Purpose::Log, 1), signer("w", Purpose::Witness, 3));
        let text = checkpoint().text();
        let note = log.note(&text) + &witness.line(&text, 1_700_000_000);
        let parsed = Note::parse(&note).unwrap();
        assert_eq!(witness.public().signed(&parsed), Some(1_700_000_000));
        assert_eq!(signer("w", Purpose::Log, 3).public().signed(&parsed), None, "not what it signs");
        assert_eq!(parsed.line_of(witness.public()), note.lines().last());
        let other = signer("w", Purpose::Witness, 4);
        assert_eq!(other.public().signed(&parsed), None);
    }

    #[test]
    fn keys_read_back_and_have_the_published_form() {
        // The example of the specification of signed notes.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!(
            (key.name(), key.purpose(), key.to_string().as_str()),
            ("PeterNeumann", Purpose::Log, text)
        );
        assert!(text.replacen("c74f", "c74e", 1).parse::<VerifierKey>().is_err(), "another id");
        assert!(VerifierKey::new("a b", Purpose::Log, [0; 32]).is_err());
        let note = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n\n\
            \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(key.signed(&Note::parse(note).unwrap()), Some(0));
        assert_eq!(key.signed(&Note::parse(&note.replacen("is.", "is!", 1)).unwrap()), None);
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let good = signer("l", Purpose::Log, 1).note("text\n");
        Note::parse(&good).unwrap();
        for bad in [
            "",
            "\n\n",
            "text\n",
            "text\n\n\u{2014} l !!\n",
            "text\n\n- l AAAAAA==\n",
            "te\u{0}xt\n\n",
            good.trim_end(),
            &format!("text\n\n{}", "\u{2014} l AAAAAAAA\n".repeat(MAX_SIGNATURES + 1)),
            &format!("{}\n\n", "x".repeat(MAX_NOTE)),
        ] {
            assert!(Note::parse(bad).is_err_and(|e| e == BadNote::Note) || bad == "\n\n", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in "(\u{2014} [a-z]{1,3} [A-Za-z0-9+/=]{0,12}\n|[a-z0-9]{0,4}\n){0,6}") {
            let _ = Note::parse(&text);
            let _ = Checkpoint::parse(&text);
            let _ = text.parse::<VerifierKey>();
        }
    }
}
