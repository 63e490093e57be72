//! What one policy set allows beyond another.

use super::{
    policies::whole,
    space::{Shown, Space, beyond},
};
use crate::{report::Failure, solver::Solver};
use cedar_policy::{Authorizer, Decision, PolicySet};
use rights::Rights;
use std::fmt;

/// How a proposed set stands to the present one. It speaks of policies: who is in which group, and how much of a quota
/// there is, `azote rights diff` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    newly: Option<Shown>,
    no_longer: Option<Shown>,
}

impl Comparison {
    /// `equal`, `narrower`, `wider` or `different`.
    pub fn word(&self) -> &'static str {
        match (&self.newly, &self.no_longer) {
            (None, None) => "equal",
            (None, Some(_)) => "narrower",
            (Some(_), None) => "wider",
            (Some(_), Some(_)) => "different",
        }
    }

    /// The same as one object of JSON.
    pub fn json(&self) -> serde_json::Value {
        let text = |shown: &Option<Shown>| shown.as_ref().map(Shown::text);
        serde_json::json!({
            "comparison": self.word(),
            "newly_allowed": text(&self.newly),
            "no_longer_allowed": text(&self.no_longer),
        })
    }

    /// Whether the proposed set allows a request that the present one does not.
    pub fn allows_more(&self) -> bool {
        self.newly.is_some()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        for (what, shown) in [("newly allowed", &self.newly), ("no longer allowed", &self.no_longer)] {
            if let Some(shown) = shown {
                write!(f, "; {what}: {}", shown.text())?;
            }
        }
        Ok(())
    }
}

/// Compares two configurations over all requests of the proposed one's schema, floor included.
pub fn compare(solvers: &[Solver], present: &Rights, proposed: &Rights) -> Result<Comparison, Failure> {
    sets(solvers, &Space::new(proposed.schema().clone()), &whole(present)?, &whole(proposed)?)
}

/// Compares two sets. Each request that is found is also put to the authorizer that services use.
pub(crate) fn sets(
    solvers: &[Solver],
    space: &Space,
    present: &PolicySet,
    proposed: &PolicySet,
) -> Result<Comparison, Failure> {
    let newly = beyond(solvers, space, proposed, present)?;
    let no_longer = beyond(solvers, space, present, proposed)?;
    for (shown, yes, no) in [(&newly, proposed, present), (&no_longer, present, proposed)] {
        if let Some(Shown(env)) = shown {
            let decide = |set| Authorizer::new().is_authorized(&env.request, set, &env.entities).decision();
            if (decide(yes), decide(no)) != (Decision::Allow, Decision::Deny) {
                return Err(format!("the authorizer decides otherwise than the solver: {env}"));
            }
        }
    }
    Ok(Comparison { newly, no_longer })
}
