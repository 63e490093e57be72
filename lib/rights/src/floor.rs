//! What no configuration can lift.

use cedar_policy::{PolicyId, PolicySet};

/// The floor, in Cedar. It is compiled in, stands in every decision, and is true under any schema: it names
/// only entity types, so widening which operation applies to what changes nothing.
pub const FLOOR: &str = r#"
@id("floor-content")
@why("Customer content is its tenant's alone.")
forbid (principal, action, resource)
when { resource is CustomerContent }
unless { principal is Tenant };

@id("floor-tenants-things")
@why("Of what belongs to tenants, only the services that act for them touch the outside.")
forbid (principal, action, resource)
when { resource is Volume || resource is Instance }
unless { principal is Tenant || principal is ControlPlane };

@id("floor-hosts")
@why("No tenant operates a host or reads the log of others.")
forbid (principal is Tenant, action, resource)
when { resource is Host || resource is AuditLog };
"#;

/// Ids of policies that only the floor may bear start so.
pub(crate) const PREFIX: &str = "floor-";

/// The floor, parsed; empty only if this release were broken, which [`crate::Rights::parse`] refuses.
pub fn floor() -> PolicySet {
    let parsed: PolicySet = FLOOR.parse().unwrap_or_default();
    let named = parsed.policies().filter_map(|p| Some(p.new_id(PolicyId::new(p.annotation("id")?))));
    PolicySet::from_policies(named).unwrap_or_default()
}
