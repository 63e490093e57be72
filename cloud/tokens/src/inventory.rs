use crate::standing::{Standing, Standings};
use ids::HostId;
use rights::HostFacts;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Longest inventory in bytes.
const MAX_TEXT: usize = 16 << 20;

/// What is known of every host: facts (TOML, a table for each host), read when the service starts; and what the host was
/// last found to be.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    facts: BTreeMap<HostId, HostFacts>,
    standings: Arc<Mutex<Standings>>,
}

impl Inventory {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("the inventory is longer than {MAX_TEXT} bytes"));
        }
        toml::from_str(text).map(Self::new).map_err(|error| format!("the inventory: {error}"))
    }

    /// An inventory of these hosts.
    pub fn new(facts: BTreeMap<HostId, HostFacts>) -> Self {
        Self { facts, standings: Arc::default() }
    }

    /// With what an earlier run knew of the hosts. From `now` on (Unix seconds), an appraisal is good for `bound`
    /// seconds.
    #[must_use]
    pub fn knowing(self, known: BTreeMap<HostId, Standing>, bound: u64, now: u64) -> Self {
        Self { standings: Arc::new(Mutex::new(Standings::new(known, bound, now))), ..self }
    }

    /// As a file.
    pub fn to_text(&self) -> Result<String, String> {
        toml::to_string(&self.facts).map_err(|error| error.to_string())
    }

    /// What is known of one at `now`.
    pub fn host(&self, host: &HostId, now: u64) -> Option<HostFacts> {
        let mut facts = self.facts.get(host)?.clone();
        if let Some(standing) = self.standings().of(host, now) {
            facts.attestation = standing.attestation;
        }
        Some(facts)
    }

    /// All hosts, with what each was last found to be.
    pub(crate) fn all(&self, now: u64) -> Vec<(HostId, HostFacts, Option<Standing>)> {
        let hosts = self.facts.keys();
        hosts
            .filter_map(|host| Some((host.clone(), self.host(host, now)?, self.standings().of(host, now))))
            .collect()
    }

    /// Whether it has this host.
    pub(crate) fn has(&self, host: &HostId) -> bool {
        self.facts.contains_key(host)
    }

    /// What hosts were found to be.
    pub(crate) fn standings(&self) -> MutexGuard<'_, Standings> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written_and_mistakes_are_refused() {
        let text =
            "[h-0123456789abcdef0]\nfleet = \"lab\"\nenvironment = \"lab\"\nattestation = \"passed\"\n";
        let inventory = Inventory::parse(text).unwrap();
        let host = "h-0123456789abcdef0".parse().unwrap();
        assert_eq!(inventory.host(&host, 0).unwrap().fleet.as_str(), "lab");
        let again = Inventory::parse(&inventory.to_text().unwrap()).unwrap();
        assert_eq!(inventory.host(&host, 0), again.host(&host, 0));
        assert_eq!(inventory.host(&HostId::from_random(1), 0), None);
        for (from, to) in
            [("h-0123", "x-0123"), ("passed", "perfect"), ("fleet", "float"), ("= \"lab\"", "= \"*\"")]
        {
            assert!(Inventory::parse(&text.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
