//! The configuration as a table.

use crate::{
    Rights,
    policies::{actions, group_of},
};
use cedar_policy::{Effect, Policy, ResourceConstraint};
use serde::Serialize;

/// One policy's part of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Right {
    /// Whose right it is; everybody's prohibition if none.
    pub group: Option<String>,
    /// The operation; none if a prohibition is for a class of them.
    pub operation: Option<String>,
    /// The fleet; none if it is the audit log, or any.
    pub fleet: Option<String>,
    /// Whether the policy has a condition.
    pub conditional: bool,
    /// Its id.
    pub policy: String,
    /// Its reason.
    pub why: String,
}

impl Rights {
    /// What every group may do, then what is forbidden to everybody, without the floor.
    pub fn table(&self) -> Vec<Right> {
        let mut rows: Vec<_> = self.policies().policies().flat_map(rows).collect();
        rows.sort_by_key(|right| (right.group.is_none(), right.clone()));
        rows
    }
}

fn rows(policy: &Policy) -> Vec<Right> {
    let permit = policy.effect() == Effect::Permit;
    let fleet = match policy.resource_constraint() {
        ResourceConstraint::In(fleet) | ResourceConstraint::IsIn(_, fleet) => {
            Some(fleet.id().unescaped().to_owned())
        }
        _ => None,
    };
    let conditions = policy.to_json().unwrap_or_default();
    let row = |operation| Right {
        group: group_of(policy).filter(|_| permit),
        operation,
        fleet: fleet.clone(),
        conditional: conditions["conditions"].as_array().is_some_and(|list| !list.is_empty()),
        policy: policy.id().to_string(),
        why: policy.annotation("why").unwrap_or_default().to_owned(),
    };
    match actions(policy) {
        Ok(Some(named)) => named.iter().map(|action| row(Some(action.name().to_owned()))).collect(),
        _ => vec![row(None)],
    }
}
