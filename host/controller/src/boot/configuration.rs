//! What a host is set up to do: the text of its configuration, which the root key has signed.

use crate::hypervisors::setup::Passthrough;
use token::{Keys, PublicKey};

/// A configuration.
#[derive(Debug, Clone)]
pub struct Configured {
    /// Most MiB in the host's log; when it is full, the host refuses everything.
    pub log_capacity: u64,
    /// Seconds that a guest has to switch itself off when its instance is stopped, or to let go of a volume.
    pub stop_grace: u64,
    /// Whether instances may share the host, each in a hypervisor of its own.
    pub shared: bool,
    /// The command line of their kernel.
    pub command_line: String,
    /// Their memory in MiB, to set aside in large pages; 0: the large pages that are there.
    pub guest_memory: u64,
    /// Whole cores that the host keeps for itself.
    pub host_cores: u16,
    /// Functions of the host's hardware that instances may have.
    pub passthrough: Vec<Passthrough>,
    /// Whether no instance starts while anything is missing that keeps tenants apart. So it is in production.
    pub refuse_weaknesses: bool,
    /// The token service's keys that the host trusts first.
    pub token_keys: Keys,
}

/// Why a text is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// A line.
    #[error("line {0} of the configuration cannot be read")]
    Line(usize),
    /// Nobody's token would count.
    #[error("the configuration names no `token-keys`")]
    TokenKeys,
}

impl Configured {
    /// Reads lines of `name=value`. What is not named has its usual value; a name twice, but for `passthrough`, or one
    /// that is not known, is refused.
    pub fn parse(text: &str) -> Result<Self, ConfigurationError> {
        let mut lines = text.lines().enumerate();
        let named = lines.find_map(|(number, line)| Some((number, line.strip_prefix("token-keys=")?)));
        let (number, named) = named.ok_or(ConfigurationError::TokenKeys)?;
        let mut configured = Self {
            log_capacity: 64,
            stop_grace: 8,
            shared: false,
            command_line: "root=/dev/nvme0n1p2 rw rootwait console=ttyS0 quiet panic=-1 reboot=t".to_owned(),
            guest_memory: 0,
            host_cores: 1,
            passthrough: Vec::new(),
            refuse_weaknesses: false,
            token_keys: keys(named).ok_or(ConfigurationError::Line(number + 1))?,
        };
        let mut seen = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = ConfigurationError::Line(number + 1);
            let Some((name, value)) = line.split_once('=') else { return Err(wrong) };
            let again = seen.contains(&name) && name != "passthrough";
            seen.push(name);
            configured.set(name, value).filter(|()| !again).ok_or(wrong)?;
        }
        Ok(configured)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "log-capacity" => self.log_capacity = value.parse().ok().filter(|mib| *mib > 0)?,
            "stop-grace" => self.stop_grace = value.parse().ok()?,
            "shared" => self.shared = one_of(value, "yes", "no")?,
            "command-line" => self.command_line = value.to_owned(),
            "guest-memory" => self.guest_memory = value.parse().ok()?,
            "host-cores" => self.host_cores = value.parse().ok()?,
            "passthrough" => self.passthrough.push(value.parse().ok()?),
            "weaknesses" => self.refuse_weaknesses = one_of(value, "refuse", "tell")?,
            // Read before.
            "token-keys" => {}
            _ => return None,
        }
        Some(())
    }
}

fn keys(value: &str) -> Option<Keys> {
    let keys: Result<Vec<_>, _> = value.split(' ').map(|key| PublicKey::try_from(key.to_owned())).collect();
    Keys::new(keys.ok()?)
}

fn one_of(value: &str, yes: &str, no: &str) -> Option<bool> {
    (value == yes || value == no).then_some(value == yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use token::Ed25519KeyPair;

    #[test]
    fn a_configuration_is_read_strictly() {
        let key = String::from(PublicKey::of(&Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()));
        let text = format!(
            "log-capacity=3\nshared=yes\ncommand-line=a=b c\npassthrough=g4dn=0000:03:00.1\npassthrough=g5=0000:03:00.2\n\
             weaknesses=refuse\ntoken-keys={key}\n"
        );
        let configured = Configured::parse(&text).unwrap();
        assert_eq!((configured.log_capacity, configured.stop_grace, configured.host_cores), (3, 8, 1));
        assert!(configured.shared && configured.refuse_weaknesses);
        assert_eq!(configured.command_line, "a=b c");
        assert_eq!((configured.passthrough.len(), configured.token_keys.list().len()), (2, 1));
        assert_eq!(Configured::parse("shared=no\n").unwrap_err(), ConfigurationError::TokenKeys);
        for wrong in [
            "log-capacity=0",
            "shared=maybe",
            "shared",
            "",
            "unknown=1",
            "stop-grace=-1",
            "passthrough=x=0000:03:00.1",
            &format!("token-keys={key}"),
        ] {
            let text = format!("token-keys={key}\n{wrong}\n");
            assert_eq!(Configured::parse(&text).unwrap_err(), ConfigurationError::Line(2), "{wrong}");
        }
        for wrong in ["token-keys=", "token-keys=abc", &format!("token-keys={key} {key}")] {
            let text = format!("shared=no\n{wrong}\n");
            assert_eq!(Configured::parse(&text).unwrap_err(), ConfigurationError::Line(2), "{wrong}");
        }
    }
}
