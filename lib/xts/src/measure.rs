//! Throughput of the kernels side by side.

use crate::{Kernel, Unit, Xts, XtsError};
use seal::VolumeKey;
use std::time::{Duration, Instant};

/// The middle of several rounds of one case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Which kernel.
    pub kernel: Kernel,
    /// Which unit.
    pub unit: Unit,
    /// Encryption or decryption.
    pub encrypt: bool,
    /// Median gigabytes (10^9) in a second.
    pub median: f64,
    /// The best round: closest to an idle machine.
    pub best: f64,
}

/// Working set in bytes: a large I/O, within the second-level cache.
const BUFFER: usize = 64 * 1024;

/// Measures every kernel of this processor, both units, both directions, in `rounds` interleaved rounds of
/// about `round` each, so that a disturbance hits all cases alike.
pub fn measure(rounds: usize, round: Duration) -> Result<Vec<Case>, XtsError> {
    let key = VolumeKey::generate().map_err(|_| XtsError::Refused)?;
    let mut ciphers = Vec::new();
    for unit in [Unit::B512, Unit::B4096] {
        for kernel in Kernel::available() {
            let cipher = Xts::with(&key, *kernel, unit)?;
            ciphers.push((*kernel, unit, cipher));
        }
    }
    let mut data = vec![0x5a; BUFFER];
    let mut out = vec![0; BUFFER];
    let mut samples = vec![Vec::new(); ciphers.len() * 2];
    for _ in 0..rounds {
        for (index, (_, _, cipher)) in ciphers.iter().enumerate() {
            let rates = [
                rate(round, || cipher.encrypt_slice(7, &data, &mut out)),
                rate(round, || cipher.decrypt_slice(7, &mut data)),
            ];
            for (place, rate) in samples[2 * index..].iter_mut().zip(rates) {
                place.push(rate);
            }
        }
    }
    let cases = ciphers.iter().flat_map(|(kernel, unit, _)| [(kernel, unit, true), (kernel, unit, false)]);
    let cases = cases.zip(samples).map(|((kernel, unit, encrypt), mut rates)| {
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
        let best = rates.last().copied().unwrap_or_default();
        Case { kernel: *kernel, unit: *unit, encrypt, median, best }
    });
    Ok(cases.collect())
}

/// Gigabytes in a second of `work`, which goes over [`BUFFER`] bytes.
fn rate(least: Duration, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut bytes = 0.0;
    loop {
        for _ in 0..16 {
            work();
        }
        bytes += (16 * BUFFER) as f64;
        let taken = start.elapsed();
        if taken >= least {
            return bytes / taken.as_secs_f64() / 1e9;
        }
    }
}
