use ids::HostId;
use rights::HostFacts;
use std::collections::BTreeMap;

/// Longest inventory in bytes.
const MAX_TEXT: usize = 16 << 20;

/// What is known of every host (TOML, a table for each host). It is read when the service starts.
#[derive(Debug, Clone, Default)]
pub struct Inventory(BTreeMap<HostId, HostFacts>);

impl Inventory {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("the inventory is longer than {MAX_TEXT} bytes"));
        }
        toml::from_str(text).map(Self).map_err(|error| format!("the inventory: {error}"))
    }

    /// An inventory of these hosts.
    pub fn new(hosts: BTreeMap<HostId, HostFacts>) -> Self {
        Self(hosts)
    }

    /// As a file.
    pub fn to_text(&self) -> Result<String, String> {
        toml::to_string(&self.0).map_err(|error| error.to_string())
    }

    /// What is known of one.
    pub fn host(&self, host: &HostId) -> Option<&HostFacts> {
        self.0.get(host)
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
        assert_eq!(inventory.host(&host).unwrap().fleet.as_str(), "lab");
        let again = Inventory::parse(&inventory.to_text().unwrap()).unwrap();
        assert_eq!(inventory.host(&host), again.host(&host));
        assert_eq!(inventory.host(&HostId::from_random(1)), None);
        for (from, to) in
            [("h-0123", "x-0123"), ("passed", "perfect"), ("fleet", "float"), ("= \"lab\"", "= \"*\"")]
        {
            assert!(Inventory::parse(&text.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
