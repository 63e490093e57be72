use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a host, a release and a configuration are made for. Nothing crosses from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Environment {
    /// Customers' instances run here.
    Production,
    /// Tests and debugging.
    NonProduction,
}

/// A text or number that names no environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an environment: want production or non-production")]
pub struct BadEnvironment;

impl Environment {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Production, Self::NonProduction];

    /// As binary formats hold it: 1 or 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::Production => 1,
            Self::NonProduction => 2,
        }
    }

    /// As text holds it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::NonProduction => "non-production",
        }
    }

    /// The environment with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|environment| environment.number() == number)
    }
}

impl FromStr for Environment {
    type Err = BadEnvironment;
    fn from_str(text: &str) -> Result<Self, BadEnvironment> {
        Self::ALL.into_iter().find(|environment| environment.name() == text).ok_or(BadEnvironment)
    }
}

impl TryFrom<String> for Environment {
    type Error = BadEnvironment;
    fn try_from(text: String) -> Result<Self, BadEnvironment> {
        text.parse()
    }
}

impl From<Environment> for String {
    fn from(environment: Environment) -> String {
        environment.to_string()
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_read_back_as_written_and_nothing_else_is_one() {
        for environment in Environment::ALL {
            assert_eq!(environment.to_string().parse(), Ok(environment));
            assert_eq!(Environment::from_number(environment.number()), Some(environment));
        }
        for text in ["", "Production", "test", "production "] {
            assert!(text.parse::<Environment>().is_err(), "{text:?}");
        }
        assert_eq!([0, 3, 255].map(Environment::from_number), [None; 3]);
    }
}
