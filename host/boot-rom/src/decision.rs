//! Whether an image may run on this host: the one rule, asked by the boot ROM about stage 1 and by stage 1 about the
//! release.

use crate::{Environment, record::Record};

/// What the TPM remembers of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Its identity; none in the first state.
    pub record: Option<Record>,
    /// No image with an older security version runs; 0 in the first state.
    pub floor: u32,
}

/// Why an image may not run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is for another environment.
    Environment,
    /// Its security version is below the floor.
    Rollback,
}

/// Whether an image for `environment` with the security version `svn` may run. A host in its first state takes any.
pub fn fit(environment: Environment, svn: u32, memory: &Memory) -> Result<(), Unfit> {
    if memory.record.is_some_and(|record| record.environment != environment) {
        Err(Unfit::Environment)
    } else if svn < memory.floor {
        Err(Unfit::Rollback)
    } else {
        Ok(())
    }
}

impl From<Unfit> for crate::Refusal {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::Environment => Self::Environment,
            Unfit::Rollback => Self::Rollback,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Environment::{NonProduction, Production};
    use proptest::prelude::*;

    fn memory(environment: Option<Environment>, floor: u32) -> Memory {
        let record = environment.map(|environment| Record {
            environment,
            host: *b"h-0123456789abcdef0",
            floor_base: 0,
        });
        Memory { record, floor }
    }

    #[test]
    fn a_component_never_crosses_between_environments() {
        assert_eq!(fit(Production, 1, &memory(Some(Production), 1)), Ok(()));
        assert_eq!(fit(Production, 1, &memory(Some(NonProduction), 1)), Err(Unfit::Environment));
        assert_eq!(fit(NonProduction, 9, &memory(Some(Production), 1)), Err(Unfit::Environment));
        for environment in [Production, NonProduction] {
            assert_eq!(fit(environment, 0, &Memory::default()), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn nothing_below_the_floor_runs(svn in any::<u32>(), floor in any::<u32>(), enrolled in any::<bool>()) {
            let memory = memory(enrolled.then_some(Production), floor);
            prop_assert_eq!(fit(Production, svn, &memory).is_ok(), svn >= floor);
        }
    }
}
