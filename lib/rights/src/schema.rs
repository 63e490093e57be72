//! The Cedar schema, made from the table of operations.

use crate::{Action, Attestation, Environment};
use operations::{Caller, Effect, Kind, Operation};

/// Entity types that can ask.
pub(crate) const PRINCIPALS: &[&str] = &["Operator", "ControlPlane", "Pipeline", "Auditor", "Tenant"];
/// Entity types that can be asked for.
pub(crate) const RESOURCES: &[&str] = &["Host", "Volume", "Instance", "AuditLog", "CustomerContent"];

/// The entity type of a kind of caller.
pub(crate) const fn principal(caller: Caller) -> &'static str {
    match caller {
        Caller::Operator => "Operator",
        Caller::ControlPlane => "ControlPlane",
        Caller::Pipeline => "Pipeline",
        Caller::Auditor => "Auditor",
    }
}

/// The entity type of a kind of resource.
pub(crate) const fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Host => "Host",
        Kind::Volume => "Volume",
        Kind::Instance => "Instance",
    }
}

/// `schema.cedarschema`: each operation with exactly the callers and the resources of its entry in the table.
pub fn schema() -> String {
    generate(|action| {
        let principals = action.callers().iter().copied().map(principal).collect();
        let resources = match action {
            Action::Host(operation) => operation.kinds().iter().copied().map(resource).collect(),
            Action::ReadAuditLog => vec!["AuditLog"],
        };
        (principals, resources)
    })
}

/// The same with every operation for every kind of principal on every kind of resource: what somebody could
/// make of the schema. The floor must hold under it too.
pub fn wide_schema() -> String {
    generate(|_| (PRINCIPALS.to_vec(), RESOURCES.to_vec()))
}

fn generate(applies: impl Fn(Action) -> (Vec<&'static str>, Vec<&'static str>)) -> String {
    let mut text = HEAD.to_owned();
    let words =
        |words: Vec<&str>| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let environments = words(Environment::ALL.iter().map(|e| e.name()).collect());
    let attestations = words(Attestation::ALL.iter().map(|a| a.name()).collect());
    text +=
        &format!("entity Environment enum [{environments}];\nentity Attestation enum [{attestations}];\n");
    text += CONTEXT;
    for action in Action::all() {
        let (principals, resources) = applies(action);
        let (purpose, parents, context) = match action {
            Action::Host(operation) => (operation.purpose(), parents(operation), "Asked"),
            Action::ReadAuditLog => ("Read the audit service's log.", "observe", "{}"),
        };
        text += &format!(
            "\n// {purpose}\naction {action} in [{parents}] appliesTo {{\n  principal: [{}],\n  resource: [{}],\n  context: {context}\n}};\n",
            principals.join(", "),
            resources.join(", "),
        );
    }
    text
}

fn parents(operation: Operation) -> &'static str {
    match (operation.effect(), operation.sensitive()) {
        (Effect::Observe, false) => "observe",
        (Effect::Observe, true) => "observe, sensitive",
        (Effect::Change, false) => "change",
        (Effect::Change, true) => "change, sensitive",
    }
}

const HEAD: &str = "\
// Made from the table of operations: do not edit. `azote rights show --schema` prints it.

// Who asks. Everybody is in groups of one kind; see groups.toml.
entity Group;
entity Operator in [Group];
entity ControlPlane in [Group];
entity Pipeline in [Group];
entity Auditor in [Group];
// A tenant asks for nothing here: it uses its machines. The floor names it.
entity Tenant;

// What is asked for. A volume or an instance is asked for as it is on one host.
entity Fleet;
entity Host in [Fleet];
entity Volume in [Host];
entity Instance in [Host];
entity AuditLog;
// Memory, disks, network traffic and console of an instance. No operation is for it: a console passes sealed.
entity CustomerContent in [Instance, Volume];

";

const CONTEXT: &str = "
// What is known when a token is asked for.
type Asked = {
  now: datetime,
  // The number of the work order, if one is given.
  ticket?: String,
  environment: Environment,
  attestation: Attestation,
  // Whether the host takes no new instance.
  drained: Bool
};

action observe;
action change;
// A person hears of each use.
action sensitive;
";
