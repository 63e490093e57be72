//! The console of an instance between its machine and its tenant. Both sides have a key pair; whoever carries the
//! messages can neither read them nor make one up, repeat one, or put one in another place.
//!
//! Each message is HPKE in authenticated mode (RFC 9180 section 5.1.3), bound to the instance, the direction and
//! its place: how many bytes went that way before it.

use crate::{
    LockError, PUBLIC_KEY_SIZE, Secret,
    kernel::{Kernel, random},
};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256, rand_core::TryRng, single_shot_open, single_shot_seal_with_rng,
};
use ids::InstanceId;

type Private = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;

/// Bytes by which a message is longer than what is in it: the sender's key, the encapsulated key, the tag.
pub const CONSOLE_OVERHEAD: usize = 2 * PUBLIC_KEY_SIZE + 16;
/// Output begins with the number of bytes of input that the machine has taken so far.
const ACCEPTED: usize = size_of::<u64>();
const INFO: &[u8] = b"azote/console/1";

/// Why a message was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// It is none from that sender to this receiver, or not in this place.
    #[error(
        "the console message does not open: read the output again, then seal the input for where it ended"
    )]
    Sealed,
    /// It was sealed by another machine than the messages before.
    #[error(
        "the machine has another key now: make sure that it was restarted or updated, then trust it again"
    )]
    Machine,
    /// No 32-byte X25519 public key, or one of small order.
    #[error("not a console key: give the 32 bytes of an X25519 public key")]
    PublicKey,
    /// No locked memory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl ConsoleError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sealed => "console.sealed",
            Self::Machine => "console.machine",
            Self::PublicKey => "console.public-key",
            Self::Lock(_) | Self::Random => "console.memory",
        }
    }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the machine to the tenant.
    Output,
    /// From the tenant to the machine.
    Input,
}

/// Where a message belongs. It opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose console.
    pub instance: &'a InstanceId,
    /// Which way.
    pub direction: Direction,
    /// Bytes that went that way before.
    pub at: u64,
}

impl Place<'_> {
    fn canonical(&self) -> String {
        let direction = match self.direction {
            Direction::Output => "output",
            Direction::Input => "input",
        };
        format!("instance={}\ndirection={direction}\nat={}\n", self.instance, self.at)
    }
}

/// One side's key pair.
pub struct ConsoleKey {
    private: Secret<PUBLIC_KEY_SIZE>,
    public: [u8; PUBLIC_KEY_SIZE],
}

impl ConsoleKey {
    /// A new key pair.
    pub fn generate() -> Result<Self, ConsoleError> {
        let mut seed = Secret::<32>::zeroed()?;
        // Straight from the kernel: the library's own generator first measures jitter for tens of milliseconds, which
        // every start of a machine would wait for.
        Kernel.try_fill_bytes(seed.expose_mut()).map_err(|_| ConsoleError::Random)?;
        let (private, public) = X25519HkdfSha256::derive_keypair(seed.expose());
        let mut locked = Secret::zeroed()?;
        private.write_exact(locked.expose_mut());
        Ok(Self { private: locked, public: public.to_bytes().into() })
    }

    /// From a private key that was kept: see [`Self::private_key`].
    pub fn from_private(private: Secret<PUBLIC_KEY_SIZE>) -> Result<Self, ConsoleError> {
        let key = Private::from_bytes(private.expose()).map_err(|_| ConsoleError::PublicKey)?;
        let public = X25519HkdfSha256::sk_to_pk(&key).to_bytes().into();
        Ok(Self { private, public })
    }

    /// The public key.
    pub fn public(&self) -> &[u8; PUBLIC_KEY_SIZE] {
        &self.public
    }

    /// The private key, for a tenant who keeps it. A machine's never leaves its process.
    pub fn private_key(&self) -> &Secret<PUBLIC_KEY_SIZE> {
        &self.private
    }

    /// Seals bytes to the other side.
    pub fn seal(&self, to: &[u8], place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, ConsoleError> {
        let refuse = |_| ConsoleError::PublicKey;
        let to = Public::from_bytes(to).map_err(refuse)?;
        let own = (self.private()?, Public::from_bytes(&self.public).map_err(refuse)?);
        let (encapsulated, sealed) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Auth(own),
            &to,
            INFO,
            plain,
            place.canonical().as_bytes(),
            &mut random(),
        )
        .map_err(refuse)?;
        Ok([self.public.as_slice(), encapsulated.to_bytes().as_slice(), &sealed].concat())
    }

    /// Opens what the other side sealed for this place.
    pub fn open(&self, from: &[u8], place: Place<'_>, message: &[u8]) -> Result<Vec<u8>, ConsoleError> {
        let refuse = |_| ConsoleError::Sealed;
        let (sender, rest) = message.split_at_checked(PUBLIC_KEY_SIZE).ok_or(ConsoleError::Sealed)?;
        let (encapsulated, sealed) = rest.split_at_checked(PUBLIC_KEY_SIZE).ok_or(ConsoleError::Sealed)?;
        if sender != from {
            return Err(ConsoleError::Sealed);
        }
        let sender = Public::from_bytes(from).map_err(|_| ConsoleError::PublicKey)?;
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(refuse)?;
        single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Auth(sender),
            &self.private()?,
            &encapsulated,
            INFO,
            sealed,
            place.canonical().as_bytes(),
        )
        .map_err(refuse)
    }

    fn private(&self) -> Result<Private, ConsoleError> {
        Private::from_bytes(self.private.expose()).map_err(|_| ConsoleError::PublicKey)
    }
}

/// Output as the tenant has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it begins; what lies between the end of the last and here is lost.
    pub at: u64,
    /// The bytes that the guest wrote.
    pub bytes: Vec<u8>,
}

/// The tenant's side.
pub struct Tenant {
    key: ConsoleKey,
    instance: InstanceId,
    machine: Option<[u8; PUBLIC_KEY_SIZE]>,
    accepted: u64,
}

impl Tenant {
    /// A new key for one instance.
    pub fn new(instance: InstanceId) -> Result<Self, ConsoleError> {
        Ok(Self::with_key(instance, ConsoleKey::generate()?))
    }

    /// With a key that was kept. One key is good for many instances: each message is bound to its own.
    pub fn with_key(instance: InstanceId, key: ConsoleKey) -> Self {
        Self { key, instance, machine: None, accepted: 0 }
    }

    /// The machine that is believed.
    pub fn machine(&self) -> Option<&[u8; PUBLIC_KEY_SIZE]> {
        self.machine.as_ref()
    }

    /// The key that the instance is started with.
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_SIZE] {
        self.key.public()
    }

    /// Believes this machine from now on, or, with none, the next one that it hears from.
    pub fn trust(&mut self, machine: Option<[u8; PUBLIC_KEY_SIZE]>) {
        self.machine = machine;
    }

    /// Opens output that ends at byte `next`.
    pub fn open(&mut self, next: u64, message: &[u8]) -> Result<Output, ConsoleError> {
        let sender = message.first_chunk::<PUBLIC_KEY_SIZE>().ok_or(ConsoleError::Sealed)?;
        if self.machine.is_some_and(|machine| machine != *sender) {
            return Err(ConsoleError::Machine);
        }
        let length = message.len().checked_sub(CONSOLE_OVERHEAD + ACCEPTED).ok_or(ConsoleError::Sealed)?;
        let at = next.checked_sub(length as u64).ok_or(ConsoleError::Sealed)?;
        let place = Place { instance: &self.instance, direction: Direction::Output, at };
        let mut plain = self.key.open(sender, place, message)?;
        let accepted = plain.first_chunk().ok_or(ConsoleError::Sealed)?;
        (self.accepted, self.machine) = (u64::from_be_bytes(*accepted), Some(*sender));
        plain.drain(..ACCEPTED);
        Ok(Output { at, bytes: plain })
    }

    /// Seals what the tenant types, to follow all that the machine has taken. `None` until it was heard from.
    pub fn seal(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, ConsoleError> {
        let Some(machine) = self.machine else { return Ok(None) };
        let place = Place { instance: &self.instance, direction: Direction::Input, at: self.accepted };
        let message = self.key.seal(&machine, place, bytes)?;
        self.accepted += bytes.len() as u64;
        Ok(Some(message))
    }
}

/// Seals output for the tenant: bytes from `at` on, and how much input the machine has taken.
pub fn seal_output(
    key: &ConsoleKey,
    tenant: &[u8],
    instance: &InstanceId,
    at: u64,
    accepted: u64,
    bytes: &[u8],
) -> Result<Vec<u8>, ConsoleError> {
    let plain = [accepted.to_be_bytes().as_slice(), bytes].concat();
    key.seal(tenant, Place { instance, direction: Direction::Output, at }, &plain)
}

/// Most bytes of output in a message of `limit` bytes.
pub const fn output_in(limit: usize) -> usize {
    limit.saturating_sub(CONSOLE_OVERHEAD + ACCEPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceId {
        InstanceId::from_random(7)
    }

    fn opened(tenant: &mut Tenant, next: u64, message: &[u8]) -> Result<Output, &'static str> {
        tenant.open(next, message).map_err(|error| error.code())
    }

    #[test]
    fn output_reaches_the_tenant_in_its_place_and_nobody_else() {
        let (mut tenant, machine) = (Tenant::new(instance()).unwrap(), ConsoleKey::generate().unwrap());
        let seal =
            |at, bytes: &[u8]| seal_output(&machine, tenant.public_key(), &instance(), at, 0, bytes).unwrap();
        let (first, second) = (seal(0, b"login: "), seal(7, b"# "));
        assert!(!first.windows(7).any(|part| part == b"login: "));
        assert_eq!(first.len(), 7 + CONSOLE_OVERHEAD + ACCEPTED);
        assert_eq!(output_in(first.len()), 7);
        assert_eq!(opened(&mut tenant, 7, &first).unwrap(), Output { at: 0, bytes: b"login: ".to_vec() });
        assert_eq!(opened(&mut tenant, 9, &second).unwrap(), Output { at: 7, bytes: b"# ".to_vec() });
        assert_eq!(opened(&mut tenant, 8, &first), Err("console.sealed"), "elsewhere");
        assert_eq!(opened(&mut tenant, 1, &first), Err("console.sealed"), "before the start");
        for at in PUBLIC_KEY_SIZE..first.len() {
            let mut changed = first.clone();
            changed[at] ^= 1;
            assert_eq!(opened(&mut tenant, 7, &changed), Err("console.sealed"));
            assert_eq!(opened(&mut tenant, 7, &first[..at]), Err("console.sealed"));
        }
        let mut another = Tenant::new(instance()).unwrap();
        assert_eq!(opened(&mut another, 7, &first), Err("console.sealed"));
        assert_eq!(another.machine, None, "nobody is trusted for a message that does not open");
        let mut neighbour = Tenant { instance: InstanceId::from_random(8), ..tenant };
        assert_eq!(opened(&mut neighbour, 7, &first), Err("console.sealed"));
    }

    #[test]
    fn a_carrier_can_neither_pose_as_the_machine_nor_as_the_tenant() {
        let (mut tenant, machine) = (Tenant::new(instance()).unwrap(), ConsoleKey::generate().unwrap());
        assert_eq!(tenant.seal(b"x").unwrap(), None, "to whom?");
        tenant.trust(Some(*machine.public()));
        let carrier = ConsoleKey::generate().unwrap();
        let output = |key| seal_output(key, tenant.public_key(), &instance(), 0, 0, b"ok").unwrap();
        let (own, mut posed) = (output(&carrier), output(&carrier));
        posed[..PUBLIC_KEY_SIZE].copy_from_slice(machine.public());
        assert_eq!(opened(&mut tenant, 2, &own), Err("console.machine"));
        assert_eq!(opened(&mut tenant, 2, &posed), Err("console.sealed"));

        let instance = instance();
        let at = |at| Place { instance: &instance, direction: Direction::Input, at };
        let typed = tenant.seal(b"ls\n").unwrap().unwrap();
        let more = tenant.seal(b"id\n").unwrap().unwrap();
        let public = *tenant.public_key();
        let open = |place, message: &[u8]| machine.open(&public, place, message).map_err(|e| e.code());
        assert_eq!(open(at(0), &typed).unwrap(), b"ls\n");
        assert_eq!(open(at(3), &more).unwrap(), b"id\n");
        assert_eq!(open(at(3), &typed), Err("console.sealed"), "a repeated message");
        assert_eq!(open(at(0), &more), Err("console.sealed"), "a message left out");
        let forged = carrier.seal(machine.public(), at(0), b"rm\n").unwrap();
        assert_eq!(open(at(0), &forged), Err("console.sealed"));
        let reflected = Place { direction: Direction::Output, ..at(0) };
        assert_eq!(open(reflected, &typed), Err("console.sealed"));
    }

    #[test]
    fn a_kept_key_opens_what_was_sealed_to_it() {
        let (first, machine) = (Tenant::new(instance()).unwrap(), ConsoleKey::generate().unwrap());
        let message = seal_output(&machine, first.public_key(), &instance(), 0, 0, b"ok").unwrap();
        let kept = Secret::take(&mut first.key.private_key().expose().to_owned()).unwrap();
        let mut again = Tenant::with_key(instance(), ConsoleKey::from_private(kept).unwrap());
        assert_eq!(again.public_key(), first.public_key());
        assert_eq!(opened(&mut again, 2, &message).unwrap().bytes, b"ok");
        assert_eq!(again.machine(), Some(machine.public()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = ConsoleKey::generate().unwrap();
        let instance = instance();
        let place = Place { instance: &instance, direction: Direction::Output, at: 0 };
        for to in [&[][..], &[1; 31], &[0; 32]] {
            assert_eq!(key.seal(to, place, b"x").unwrap_err().code(), "console.public-key");
        }
    }
}
