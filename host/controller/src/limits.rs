//! How many sensitive operations a host does in a time, whoever asks: what a thief of a token service could do
//! to one host. The numbers are those of `policies/quotas.toml`, as the policies of the release have them.

use crate::Refusal;
use decision::quota::Window;
use host_api::Api;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Longest policies in bytes.
pub const MAX_POLICIES: u64 = 64 * 1024;

/// At most so many of each sensitive operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// In one window.
    pub sensitive: u64,
    /// Its length.
    pub window_seconds: u64,
}

impl Bounds {
    /// Those of a host whose store is closed: it is out of service, and all that can change is whose tokens it takes.
    pub const CLOSED: Self = Self { sensitive: 1, window_seconds: 3600 };

    /// Those of the policies, `None` if they name none.
    pub fn of_policies(policies: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Policies {
            host: Bounds,
        }
        toml::from_slice::<Policies>(policies).ok().map(|policies| policies.host)
    }
}

/// What of the bounds is used up.
#[derive(Debug)]
pub struct Limits {
    bounds: Bounds,
    windows: BTreeMap<Api, Window>,
}

/// What one call will have used up once it is granted.
#[derive(Debug)]
pub struct Taken(Option<(Api, Window)>);

impl Limits {
    /// Nothing is used up.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, windows: BTreeMap::new() }
    }

    /// Counts a call that the log tells of, made at `at` (Unix seconds).
    pub fn recount(&mut self, api: Api, at: u64) {
        if api.sensitive() {
            let window = self.window(api, at);
            let full = Window { used: window.limit, ..window };
            self.windows.insert(api, window.take(at, 1).unwrap_or(full));
        }
    }

    /// Whether a call fits; it counts only when it is given to [`Limits::put`].
    pub fn take(&self, api: Api, now: u64) -> Result<Taken, Refusal> {
        if !api.sensitive() {
            return Ok(Taken(None));
        }
        let window = self.window(api, now).take(now, 1).map_err(|_| Refusal::of("host.quota"))?;
        Ok(Taken(Some((api, window))))
    }

    /// The call was granted.
    pub fn put(&mut self, Taken(taken): Taken) {
        self.windows.extend(taken);
    }

    fn window(&self, api: Api, now: u64) -> Window {
        let Bounds { sensitive, window_seconds } = self.bounds;
        self.windows.get(&api).copied().unwrap_or_else(|| Window::new(now, window_seconds, sensitive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { sensitive: 3, window_seconds: 100 };

    #[test]
    fn the_policies_bound_every_sensitive_operation() {
        let bounds = Bounds::of_policies(include_bytes!("../../../policies/quotas.toml")).unwrap();
        assert!(bounds.sensitive > 0 && bounds.window_seconds > 0, "{bounds:?}");
    }

    #[test]
    fn each_sensitive_operation_has_its_own_window_and_a_restart_gives_nothing_back() {
        let mut limits = Limits::new(BOUNDS);
        for at in [1000, 1001] {
            limits.recount(Api::DrainHost, at);
        }
        let taken = limits.take(Api::DrainHost, 1050).unwrap();
        limits.take(Api::DrainHost, 1050).unwrap();
        limits.put(taken);
        assert_eq!(limits.take(Api::DrainHost, 1099).unwrap_err().code, "host.quota");
        limits.take(Api::PowerCycleHost, 1099).unwrap();
        limits.take(Api::DrainHost, 1100).unwrap();
        for _ in 0..10 {
            let taken = limits.take(Api::HostStatus, 1050).unwrap();
            limits.put(taken);
        }
    }
}
