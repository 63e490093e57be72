//! The decisions, without a branch: what becomes of an access over the board's buses, whether an image may be written
//! into flash, whether a reset line may be let go. Read twice, see [`Domain`].

use domain::Domain;

/// A digest as four numbers.
pub type Hash<D> = [<D as Domain>::N; 4];

/// What becomes of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The device takes no notice.
    Ignore,
    /// Nothing changes, nothing is told; the attempt is recorded.
    Refuse,
    /// The device tells.
    Read,
    /// Into the copy of the variables that the next hold or start of the processor drops.
    Overlay,
}

impl Verdict {
    /// Its number in the kernel.
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// The verdict with this number; a number of none is refused.
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Ignore,
            2 => Self::Read,
            3 => Self::Overlay,
            _ => Self::Refuse,
        }
    }
}

/// Numbers of the masters in the kernel; there are no others.
pub mod master {
    /// The main board's processors.
    pub const CPU: u64 = 0;
    /// The management controller.
    pub const BMC: u64 = 1;
}

/// Numbers of the devices in the kernel. A device with another number belongs to nobody.
pub mod device {
    /// The processors' firmware flash: variables, then code.
    pub const FLASH: u64 = 0;
    /// The management controller's firmware flash.
    pub const BMC_FLASH: u64 = 1;
    /// The memory that says which board this is.
    pub const IDENTITY: u64 = 2;
    /// The reset controller.
    pub const RESET: u64 = 3;
}

/// One access over a bus.
#[derive(Debug)]
pub struct Access<D: Domain> {
    /// Who, as in [`master`].
    pub master: D::N,
    /// To what, as in [`device`].
    pub device: D::N,
    /// Whether it would change the device.
    pub writes: D::B,
    /// Whether the device is ready to be changed: a flash after write enable.
    pub enabled: D::B,
    /// Whether the master is out of reset.
    pub runs: D::B,
    /// The first byte.
    pub from: D::N,
    /// Bytes.
    pub length: D::N,
    /// How many bytes of the device, from the first on, are variables.
    pub window: D::N,
}

/// What becomes of an access: the number of a [`Verdict`].
pub fn access<D: Domain>(d: &D, a: &Access<D>) -> D::N {
    let is = |value: D::N, number: u64| d.equal(value, d.number(number));
    let (cpu, bmc) = (is(a.master, master::CPU), is(a.master, master::BMC));
    let flash = is(a.device, device::FLASH);
    let small = or(d, is(a.device, device::IDENTITY), is(a.device, device::RESET));
    let own = or(d, d.and(cpu, flash), d.and(bmc, is(a.device, device::BMC_FLASH)));
    let mine = or(d, own, d.and(small, or(d, cpu, bmc)));
    // All of it among the variables; where the difference is asked for it does not wrap.
    let inside = d.and(d.at_most(a.length, a.window), d.at_most(a.from, d.sub(a.window, a.length)));
    let overlay = d.and(d.and(d.and(cpu, flash), a.runs), inside);
    let verdict = |v: Verdict| d.number(v.number());
    let written = d.choose(overlay, verdict(Verdict::Overlay), verdict(Verdict::Refuse));
    let written = d.choose(a.enabled, written, verdict(Verdict::Ignore));
    let read = d.choose(mine, verdict(Verdict::Read), verdict(Verdict::Refuse));
    d.choose(a.writes, written, read)
}

/// The authorised writing of one image into a firmware flash.
#[derive(Debug)]
pub struct Update<D: Domain> {
    /// The processor that starts from this flash is in reset.
    pub held: D::B,
    /// Bytes of the image.
    pub length: D::N,
    /// Bytes of the flash.
    pub room: D::N,
    /// The image's digest.
    pub image: Hash<D>,
    /// The digest that the controller authorised.
    pub authorised: Hash<D>,
}

/// Whether an image may be written: the number of a [`Refusal`](crate::Refusal), or 0.
pub fn update<D: Domain>(d: &D, u: &Update<D>) -> D::N {
    let fits = d.equal(u.length, u.room);
    let hash = same(d, &u.image, &u.authorised);
    let later = d.choose(hash, d.number(0), d.number(crate::Refusal::Hash.number()));
    let later = d.choose(fits, later, d.number(crate::Refusal::Length.number()));
    d.choose(u.held, later, d.number(crate::Refusal::NotHeld.number()))
}

/// Letting a reset line go.
#[derive(Debug)]
pub struct Release<D: Domain> {
    /// It is the processors' line,
    pub cpu: D::B,
    /// which wait for the board's.
    pub board: D::B,
    /// The digests of what the processors and the management controller would start from, or run.
    pub present: [Hash<D>; 2],
    /// The digests that the controller verified.
    pub verified: [Hash<D>; 2],
}

/// Whether a line may be let go: the number of a [`Refusal`](crate::Refusal), or 0.
pub fn release<D: Domain>(d: &D, r: &Release<D>) -> D::N {
    let [code, bmc] = [0, 1].map(|n: usize| same(d, &r.present[n], &r.verified[n]));
    let waits = d.and(r.cpu, d.not(r.board));
    let later = d.choose(waits, d.number(crate::Refusal::Order.number()), d.number(0));
    d.choose(d.and(code, bmc), later, d.number(crate::Refusal::Unverified.number()))
}

/// Whether two digests are the same, in every bit.
pub fn same<D: Domain>(d: &D, a: &Hash<D>, b: &Hash<D>) -> D::B {
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|n: usize| d.equal(a[n], b[n]));
    d.and(d.and(first, second), d.and(third, fourth))
}

fn or<D: Domain>(d: &D, a: D::B, b: D::B) -> D::B {
    d.not(d.and(d.not(a), d.not(b)))
}

/// A digest as the kernel takes it.
pub(crate) fn hash(digest: &crate::Digest) -> [u64; 4] {
    let mut hash = [0; 4];
    for (number, bytes) in hash.iter_mut().zip(digest.chunks_exact(8)) {
        *number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    }
    hash
}
