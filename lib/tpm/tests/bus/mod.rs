//! Who sits on the bus between a processor and its TPM: sees every command and every answer, and may alter them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::{
    io::{Read, Result, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

/// A command and what was answered to it.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) command: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

impl Exchange {
    /// The command's code.
    pub(crate) fn code(&self) -> u32 {
        code(&self.command)
    }
}

/// The code of a command or an answer.
pub(crate) fn code(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[6..10].try_into().unwrap())
}

/// What somebody does on the bus.
pub(crate) trait Tamper: Send + 'static {
    /// Before a command reaches the TPM.
    fn command(&mut self, _command: &mut Vec<u8>) {}
    /// Before an answer reaches who asked; `before` is what went over the bus until then.
    fn answer(&mut self, _before: &[Exchange], _command: &[u8], _answer: &mut Vec<u8>) {}
}

/// Listens only.
pub(crate) struct Listen;

impl Tamper for Listen {}

/// What went over the bus.
#[derive(Clone, Default)]
pub(crate) struct Bus(Arc<Mutex<Vec<Exchange>>>);

impl Bus {
    /// Takes connections at `here` and passes them on to the TPM at `there`, one after the other, for as long as the
    /// process lives.
    pub(crate) fn between(here: &Path, there: &Path, mut tamper: impl Tamper) -> Self {
        let bus = Self::default();
        let (seen, there) = (bus.clone(), there.to_owned());
        let listener = UnixListener::bind(here).unwrap();
        thread::spawn(move || {
            for caller in listener.incoming() {
                // Who goes ends its connection, and no other.
                let _ = caller.and_then(|caller| {
                    let tpm = UnixStream::connect(&there)?;
                    seen.carry(caller, tpm, &mut tamper)
                });
            }
        });
        bus
    }

    fn carry(&self, mut caller: UnixStream, mut tpm: UnixStream, tamper: &mut impl Tamper) -> Result<()> {
        loop {
            let asked = frame(&mut caller)?;
            let mut command = asked.clone();
            tamper.command(&mut command);
            tpm.write_all(&command)?;
            let answer = frame(&mut tpm)?;
            let mut told = answer.clone();
            tamper.answer(&self.seen(), &command, &mut told);
            self.0.lock().unwrap().push(Exchange { command: asked, answer });
            caller.write_all(&told)?;
        }
    }

    /// What went over it so far, as it was before it was altered.
    pub(crate) fn seen(&self) -> Vec<Exchange> {
        self.0.lock().unwrap().clone()
    }

    /// Whether these bytes went over it.
    pub(crate) fn saw(&self, bytes: &[u8]) -> bool {
        let contains = |frame: &[u8]| frame.windows(bytes.len()).any(|window| window == bytes);
        self.seen().iter().any(|exchange| contains(&exchange.command) || contains(&exchange.answer))
    }
}

/// Whether a command authorises with a password that is not empty (part 1, §19.4).
pub(crate) fn tells_a_password(seen: &[Exchange]) -> bool {
    let password = 0x4000_0009u32.to_be_bytes();
    let told = |area: &[u8]| area[..4] == password && area[4..6] == [0, 0] && area[7..9] != [0, 0];
    seen.iter().any(|exchange| exchange.command.windows(9).any(told))
}

/// The parts of a blob: `TPM2B_PRIVATE`, `TPM2B_PUBLIC`, nonce, and what the sealed key encrypts.
pub(crate) fn parts_of(blob: &[u8]) -> [&[u8]; 4] {
    let body = &blob[62..];
    let sized = |at: usize| at + 2 + usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    let (private, public) = (sized(4), sized(sized(4)));
    [&body[4..private], &body[private..public], &body[public..public + 12], &body[public + 12..]]
}

/// Whether something that went over the bus is the key that a blob's secret is encrypted with.
pub(crate) fn finds_the_key(seen: &[Exchange], blob: &[u8]) -> bool {
    let [private, public, nonce, sealed] = parts_of(blob);
    let bound = &blob[62..62 + 4 + private.len() + public.len()];
    let opens = |key: &[u8]| {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
        key.open_in_place(nonce, Aad::from(bound), &mut sealed.to_vec()).is_ok()
    };
    seen.iter()
        .any(|exchange| exchange.command.windows(32).any(opens) || exchange.answer.windows(32).any(opens))
}

fn frame(from: &mut UnixStream) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 10];
    from.read_exact(&mut bytes)?;
    let size = u32::from_be_bytes(bytes[2..6].try_into().unwrap());
    bytes.resize(size as usize, 0);
    from.read_exact(&mut bytes[10..])?;
    Ok(bytes)
}
