/// Why a rights configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// A file could not be read.
    #[error("{0}: {1}")]
    Read(&'static str, #[source] std::io::Error),
    /// A file is too long or too deep to be read by a person.
    #[error("{0} is too long or too deeply nested: want at most {1}")]
    Size(&'static str, &'static str),
    /// Not the form that the file should have.
    #[error("{0}: {1}")]
    Form(&'static str, String),
    /// `schema.cedarschema` is not what the table of operations says.
    #[error(
        "schema.cedarschema is not the one of this release: take the one that `azote rights show --schema` prints"
    )]
    Schema,
    /// A policy that breaks a rule of form.
    #[error("rights.cedar: policy `{0}`: {1}")]
    Policy(String, String),
    /// Cedar's validator refuses it, or warns.
    #[error("rights.cedar: {0}")]
    Validation(String),
    /// A name that nothing bears, or two things bear.
    #[error("{0}: {1}")]
    Name(&'static str, String),
    /// A quota that is missing, dead or without sense.
    #[error("quotas.toml: {0}")]
    Quota(String),
}

impl RightsError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(..) => "rights.unreadable",
            Self::Size(..) => "rights.size",
            Self::Form(..) => "rights.form",
            Self::Schema => "rights.schema",
            Self::Policy(..) => "rights.policy",
            Self::Validation(_) => "rights.validation",
            Self::Name(..) => "rights.name",
            Self::Quota(_) => "rights.quotas",
        }
    }
}
