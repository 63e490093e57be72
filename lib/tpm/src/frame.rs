//! Commands and responses in their parts (part 1, §18).

use crate::{
    Error,
    port::{HEADER, MAX_FRAME},
};
use std::ops::Range;
use tpm2_protocol::{
    TpmError, TpmWriter,
    basic::TpmHandle,
    data::{TpmRh, TpmSt, TpmaSession},
    frame::{TpmFrame, TpmUnmarshalBody},
};
use zeroize::Zeroizing;

/// Most entries of an authorisation area.
const MAX_ENTRIES: usize = 3;

/// Whether a command has a secret in its first parameter, or its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Secret {
    #[default]
    No,
    In,
    Out,
}

/// What authorises the use of a handle.
#[derive(Clone, Copy)]
pub(crate) enum Auth<'a> {
    /// An authorisation value, which is proved through the session. Without one it must be empty.
    Value(&'a [u8]),
    /// A policy session.
    Policy(TpmHandle),
}

/// How a command is sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Request<'a> {
    /// The names of what the handles stand for; where there is none, or an empty one, the handle is its own name.
    pub(crate) names: &'a [&'a [u8]],
    /// In the order of the handles. At most one is a value.
    pub(crate) auths: &'a [Auth<'a>],
    /// Where a secret is.
    pub(crate) secret: Secret,
    /// The authorisation value after the command, if it is another.
    pub(crate) next: Option<&'a [u8]>,
    /// Not through the session, also if there is one.
    pub(crate) outside: bool,
}

impl<'a> Request<'a> {
    /// Without authorisation, and past the session: where there is none yet, or the TPM takes none.
    pub(crate) const OUTSIDE: Request<'static> =
        Request { names: &[], auths: &[], secret: Secret::No, next: None, outside: true };

    /// Authorised by `auths`.
    pub(crate) fn by(auths: &'a [Auth<'a>], names: &'a [&'a [u8]]) -> Self {
        Self { names, auths, ..Self::default() }
    }

    /// The authorisation value.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        self.auths.iter().find_map(|auth| match auth {
            Auth::Value(value) => Some(*value),
            Auth::Policy(_) => None,
        })
    }

    /// Nothing in it is secret.
    pub(crate) fn is_public(&self) -> bool {
        self.secret == Secret::No && self.value().unwrap_or_default().is_empty() && self.next.is_none()
    }
}

/// A session's part in a command or a response.
#[derive(Default)]
pub(crate) struct Entry {
    pub(crate) nonce: Vec<u8>,
    pub(crate) attributes: u8,
    pub(crate) hmac: Vec<u8>,
}

impl Entry {
    /// What goes with an empty password, and with a policy session that demands no value.
    fn empty() -> Self {
        Self { attributes: TpmaSession::CONTINUE_SESSION.bits(), ..Self::default() }
    }

    fn write(&self, handle: TpmHandle, to: &mut Vec<u8>) {
        to.extend(handle.value().to_be_bytes());
        put(&self.nonce, to);
        to.push(self.attributes);
        put(&self.hmac, to);
    }
}

fn put(bytes: &[u8], to: &mut Vec<u8>) {
    to.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    to.extend(bytes);
}

/// A command in its parts. Zeroized on drop where it may be secret.
pub(crate) struct Command {
    pub(crate) code: u32,
    pub(crate) handles: Vec<u8>,
    pub(crate) parameters: Zeroizing<Vec<u8>>,
}

impl Command {
    pub(crate) fn new<C: TpmFrame>(command: &C) -> Result<Self, TpmError> {
        let mut bytes = Zeroizing::new(vec![0; MAX_FRAME]);
        let mut writer = TpmWriter::new(&mut bytes);
        command.marshal_handles(&mut writer)?;
        let handles = writer.as_bytes().to_vec();
        command.marshal_parameters(&mut writer)?;
        let parameters = Zeroizing::new(writer.as_bytes().get(handles.len()..).unwrap_or_default().to_vec());
        Ok(Self { code: command.cc().value(), handles, parameters })
    }

    /// Puts a secret into the parameters. The protocol crate keeps plain copies of what it marshals: so it marshals
    /// zeros, and the secret comes last.
    pub(crate) fn with_secret(mut self, at: usize, secret: &[u8]) -> Result<Self, Error> {
        let place = self.parameters.get_mut(at..at + secret.len()).ok_or(Error::Length)?;
        place.copy_from_slice(secret);
        Ok(self)
    }

    /// The names of what the handles stand for, one after the other.
    pub(crate) fn names(&self, names: &[&[u8]]) -> Vec<u8> {
        let given = names.iter().copied().chain(std::iter::repeat(&[][..]));
        let handles = self.handles.chunks(4).zip(given);
        handles.flat_map(|(handle, name)| if name.is_empty() { handle } else { name }).copied().collect()
    }

    /// The whole command. `own`: the session and its entry, which stands for the authorisation value, or comes last.
    pub(crate) fn frame(
        &self,
        auths: &[Auth<'_>],
        own: Option<(TpmHandle, &Entry)>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut area = Vec::new();
        for auth in auths {
            match (auth, own) {
                (Auth::Policy(session), _) => Entry::empty().write(*session, &mut area),
                (Auth::Value(_), Some((handle, entry))) => entry.write(handle, &mut area),
                (Auth::Value(_), None) => Entry::empty().write(TpmRh::Pw.value().into(), &mut area),
            }
        }
        if let Some((handle, entry)) = own.filter(|_| place(auths) == auths.len()) {
            entry.write(handle, &mut area);
        }
        let tag = if area.is_empty() { TpmSt::NoSessions } else { TpmSt::Sessions };
        let sized = [&u32::try_from(area.len()).unwrap_or(u32::MAX).to_be_bytes()[..], &area].concat();
        let area = if area.is_empty() { &[][..] } else { &sized };
        let size = HEADER + self.handles.len() + area.len() + self.parameters.len();
        if size > MAX_FRAME {
            return Err(Error::Length);
        }
        let size = u32::try_from(size).map_err(|_| Error::Length)?.to_be_bytes();
        let head = [&tag.value().to_be_bytes()[..], &size, &self.code.to_be_bytes()].concat();
        Ok(Zeroizing::new([&head[..], &self.handles, area, &self.parameters].concat()))
    }
}

/// Which entry is the session's: that of the value, else one more.
pub(crate) fn place(auths: &[Auth<'_>]) -> usize {
    auths.iter().position(|auth| matches!(auth, Auth::Value(_))).unwrap_or(auths.len())
}

/// A successful response in its parts.
pub(crate) struct Answer {
    frame: Zeroizing<Vec<u8>>,
    handles: Range<usize>,
    parameters: Range<usize>,
    pub(crate) entries: Vec<Entry>,
}

impl Answer {
    /// Takes apart a whole response with this many handles.
    pub(crate) fn parse(frame: Zeroizing<Vec<u8>>, handles: usize) -> Result<Self, TpmError> {
        let short = |needed| TpmError::UnexpectedEnd { offset: 0, needed, available: frame.len() };
        let handles = HEADER..HEADER + 4 * handles;
        let rest = frame.get(handles.end..).ok_or(short(handles.end))?;
        if !frame.starts_with(&TpmSt::Sessions.value().to_be_bytes()) {
            let parameters = handles.end..frame.len();
            return Ok(Self { frame, handles, parameters, entries: Vec::new() });
        }
        let (size, rest) = rest.split_first_chunk().ok_or(short(4))?;
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        let (_, area) = rest.split_at_checked(size).ok_or(short(size))?;
        let start = handles.end + 4;
        let (parameters, entries) = (start..start + size, entries(area).ok_or(short(area.len()))?);
        Ok(Self { frame, handles, parameters, entries })
    }

    pub(crate) fn parameters(&self) -> &[u8] {
        self.frame.get(self.parameters.clone()).unwrap_or_default()
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [u8] {
        self.frame.get_mut(self.parameters.clone()).unwrap_or_default()
    }

    /// The response that it is.
    pub(crate) fn body<R: TpmUnmarshalBody>(&self) -> Result<R, TpmError> {
        let handles = self.frame.get(self.handles.clone()).unwrap_or_default();
        R::unmarshal_body(handles, self.parameters())
    }

    /// The secret of a response that has nothing else, without going through unprotected copies.
    pub(crate) fn secret(&self, most: usize) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let parameters = self.parameters();
        let end = TpmError::UnexpectedEnd { offset: 0, needed: most, available: parameters.len() };
        let (size, secret) = parameters.split_first_chunk().ok_or(end)?;
        let whole = usize::from(u16::from_be_bytes(*size)) == secret.len() && secret.len() <= most;
        if whole { Ok(Zeroizing::new(secret.to_vec())) } else { Err(end) }
    }
}

/// The entries of a response's authorisation area, nothing after them.
fn entries(mut area: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !area.is_empty() {
        let (nonce, rest) = sized(area)?;
        let (attributes, rest) = rest.split_first()?;
        let (hmac, rest) = sized(rest)?;
        entries.push(Entry { nonce: nonce.to_vec(), attributes: *attributes, hmac: hmac.to_vec() });
        area = rest;
    }
    (entries.len() <= MAX_ENTRIES).then_some(entries)
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*size).into())
}
