use super::*;

/// What each of the shipped groups has, written a second time: a change of the files must be meant.
const TABLE: &[(&str, &[&str])] = &[
    (
        "azote:operator/alice",
        &[
            "HostStatus",
            "AttestHost",
            "ListFirmware",
            "VerifyFirmware",
            "DrainHost",
            "ResumeHost",
            "ResetHost",
            "PowerCycleHost",
        ],
    ),
    ("azote:operator/olga", &["HostStatus", "ReadAuditLog"]),
    (
        "azote:operator/ada",
        &["HostStatus", "AttestHost", "ListFirmware", "VerifyFirmware", "ReadLog", "ReadAuditLog"],
    ),
    ("azote:service/audit", &["HostStatus", "ReadLog", "AcknowledgeLog"]),
    (
        "azote:service/control-plane",
        &[
            "HostStatus",
            "AttestHost",
            "AttachVolume",
            "DetachVolume",
            "StartInstance",
            "StopInstance",
            "InstanceStatistics",
            "ReadConsole",
            "WriteConsole",
        ],
    ),
    ("azote:service/pipeline", &["HostStatus", "AttestHost", "OfferCertificate", "UpdateTokenKeys"]),
];

#[test]
fn each_group_has_exactly_its_table() {
    let rights = Rights::embedded().unwrap();
    let shipped: BTreeSet<_> = rights.groups().groups.iter().flat_map(|group| &group.members).collect();
    assert_eq!(shipped, TABLE.iter().map(|(who, _)| identity(who)).collect::<BTreeSet<_>>().iter().collect());
    for (who, table) in TABLE {
        for operation in Operation::ALL {
            for kind in operation.kinds() {
                let decided = Asked::new(who, &[*operation], &[of_kind(*kind)]).decide(&rights);
                let expected = table.contains(&operation.name());
                assert_eq!(decided.is_ok(), expected, "{who} {operation} {kind}: {decided:?}");
                if let Err(refusal) = decided {
                    assert_eq!(refusal, Refusal::Api(Action::Host(*operation)));
                }
            }
        }
        let reads = rights.decide_reader(&identity(who));
        assert_eq!(reads.is_ok(), table.contains(&"ReadAuditLog"), "{who} {reads:?}");
    }
}

#[test]
fn nobody_else_has_anything() {
    let rights = Rights::embedded().unwrap();
    for who in [
        "azote:operator/mallory",
        "azote:operator/control-plane",
        "azote:service/alice",
        "azote:tenant/acme",
        "azote:tenant/alice",
        "azote:host/h-0123456789abcdef0",
    ] {
        for operation in Operation::ALL {
            let asked = Asked::new(who, &[*operation], &[of_kind(operation.kinds()[0])]);
            assert_eq!(asked.decide(&rights), Err(Refusal::Subject));
        }
        assert_eq!(rights.decide_reader(&identity(who)), Err(Refusal::Subject));
    }
}

#[test]
fn the_context_decides() {
    let rights = Rights::embedded().unwrap();
    let mut cycle = Asked::new("azote:operator/alice", &[Operation::PowerCycleHost], &[here()]);
    assert_eq!(cycle.code(&rights), "granted");
    cycle.ticket = None;
    let near = Refusal::Condition(Action::Host(Operation::PowerCycleHost), "keepers-power-cycle".to_owned());
    assert_eq!(cycle.decide(&rights), Err(near));

    let volume = [Resource::Volume(VolumeId::from_random(1))];
    let mut attach = Asked::new("azote:service/control-plane", &[Operation::AttachVolume], &volume);
    let mut detach = Asked::new("azote:service/control-plane", &[Operation::DetachVolume], &volume);
    for attestation in [Attestation::Unknown, Attestation::Passed] {
        attach.host.attestation = attestation;
        assert_eq!(attach.code(&rights), "granted");
    }
    attach.host.attestation = Attestation::Failed;
    detach.host.attestation = Attestation::Failed;
    let forbidden = Refusal::Forbidden(Action::Host(Operation::AttachVolume), "new-work-attested".to_owned());
    assert_eq!(attach.decide(&rights), Err(forbidden));
    assert_eq!(detach.code(&rights), "granted", "what is attached must come off");

    for (fleet, environment) in [("prod", Environment::Lab), ("lab", Environment::Production)] {
        cycle.host = HostFacts { fleet: fleet.parse().unwrap(), environment, ..facts() };
        assert_eq!(cycle.code(&rights), "rights.host");
    }
}

#[test]
fn time_and_environment_are_told_to_policies() {
    let sources = edited(
        "when { context has ticket };",
        "when { context.environment == Environment::\"lab\" && !context.drained && \
         context.now >= datetime(\"2027-01-15\") && context.now.toTime() < duration(\"18h\") };",
    );
    let rights = Rights::parse(&sources).unwrap();
    let mut cycle = Asked::new("azote:operator/alice", &[Operation::PowerCycleHost], &[here()]);
    let midnight = 1_799_971_200; // 2027-01-15T00:00:00Z
    for (now, code) in [
        (midnight, "granted"),
        (midnight - 1, "rights.condition"),
        (midnight + 18 * 3600 - 1, "granted"),
        (midnight + 18 * 3600, "rights.condition"),
        (midnight + 24 * 3600, "granted"),
        (u64::MAX, "rights.malformed"),
    ] {
        cycle.now = now;
        assert_eq!(cycle.code(&rights), code, "{now}");
    }
    cycle.now = midnight;
    cycle.host.drained = true;
    assert_eq!(cycle.code(&rights), "rights.condition");
}

#[test]
fn what_is_asked_for_must_make_sense() {
    let rights = Rights::embedded().unwrap();
    use Operation::*;
    let (volume, instance) = (of_kind(operations::Kind::Volume), of_kind(operations::Kind::Instance));
    let there = Resource::Host(HostId::from_random(2));
    let many: Vec<_> =
        (0..=token::MAX_RESOURCES as u128).map(|n| Resource::Volume(VolumeId::from_random(n))).collect();
    let service = "azote:service/control-plane";
    for (operations, resources, code) in [
        (vec![StartInstance], vec![instance.clone(), volume.clone()], "granted"),
        (vec![AttachVolume], many[1..].to_vec(), "granted"),
        (vec![AttachVolume], many.clone(), "rights.malformed"),
        (vec![], vec![volume.clone()], "rights.malformed"),
        (vec![AttachVolume], vec![], "rights.malformed"),
        (vec![AttachVolume, AttachVolume], vec![volume.clone()], "rights.malformed"),
        (vec![AttachVolume], vec![volume.clone(), volume.clone()], "rights.malformed"),
        (vec![AttachVolume], vec![volume.clone(), instance.clone()], "granted"),
        (vec![DetachVolume], vec![instance.clone()], "rights.resource"),
        (vec![DetachVolume], vec![volume.clone(), instance.clone()], "rights.resource"),
        (vec![ReadConsole, WriteConsole], vec![instance.clone()], "granted"),
        (vec![ReadConsole], vec![here()], "rights.resource"),
        (vec![HostStatus, AttachVolume], vec![volume.clone()], "rights.resource"),
        (vec![HostStatus], vec![there], "rights.resource"),
        (vec![HostStatus, AttachVolume], vec![here(), volume.clone()], "granted"),
        (vec![HostStatus, DrainHost], vec![here()], "rights.api"),
    ] {
        let asked = Asked::new(service, &operations, &resources);
        assert_eq!(asked.code(&rights), code, "{operations:?} {resources:?}");
    }
    let mut asked = Asked::new(service, &[HostStatus], &[here()]);
    for (ticket, code) in [
        ("T-1", "granted"),
        ("", "rights.malformed"),
        ("a b", "rights.malformed"),
        ("\u{e4}", "rights.malformed"),
    ] {
        asked.ticket = Some(ticket.to_owned());
        assert_eq!(asked.code(&rights), code);
    }
    for (length, code) in [(64, "granted"), (65, "rights.malformed")] {
        asked.ticket = Some("x".repeat(length));
        assert_eq!(asked.code(&rights), code);
    }
}

#[test]
fn a_grant_has_bounds_uses_and_every_account() {
    let rights = Rights::embedded().unwrap();
    let asked = Asked::new("azote:operator/alice", &[Operation::HostStatus], &[here()]);
    let grant = asked.decide(&rights).unwrap();
    let bounds = rights.quotas().token;
    assert_eq!((grant.uses, grant.quotas.len()), (bounds.uses, 0), "looking costs nothing");
    assert_eq!(grant.groups, ["host-keepers".parse().unwrap()]);
    assert_eq!(grant.policies, ["keepers-see"]);
    assert_eq!(grant.lifetime(None), Ok(bounds.default_seconds));
    for (life, good) in [
        (bounds.shortest_seconds, true),
        (bounds.shortest_seconds - 1, false),
        (bounds.longest_seconds, true),
        (bounds.longest_seconds + 1, false),
    ] {
        assert_eq!(grant.lifetime(Some(life)).is_ok(), good, "{life}");
    }

    let asked = Asked::new("azote:operator/alice", &[Operation::HostStatus, Operation::DrainHost], &[here()]);
    let grant = asked.decide(&rights).unwrap();
    assert_eq!(grant.uses, 1, "sensitive");
    let quota = &rights.quotas().quotas[0];
    let accounts: Vec<_> =
        grant.quotas.iter().map(|key| (key.to_string(), key.limit, key.window, key.cost)).collect();
    assert_eq!(
        accounts,
        [
            ("keepers-hosts/member/azote:operator/alice".to_owned(), quota.member, quota.window_seconds, 1),
            ("keepers-hosts/group/host-keepers".to_owned(), quota.together, quota.window_seconds, 1),
            ("keepers-hosts/fleet/lab".to_owned(), quota.fleet, quota.window_seconds, 1),
        ]
    );

    let volumes: Vec<_> = (1..=5).map(|n| Resource::Volume(VolumeId::from_random(n))).collect();
    let both = [Operation::AttachVolume, Operation::DetachVolume];
    let grant = Asked::new("azote:service/control-plane", &both, &volumes).decide(&rights).unwrap();
    assert!(grant.quotas.iter().all(|key| key.cost == 5), "each resource once: {:?}", grant.quotas);
    let mixed = [&volumes[..], &[here()]].concat();
    let operations = [Operation::AttachVolume, Operation::HostStatus];
    let grant = Asked::new("azote:service/control-plane", &operations, &mixed).decide(&rights).unwrap();
    assert!(grant.quotas.iter().all(|key| key.cost == 5), "the host is only looked at");
}

#[test]
fn nothing_that_changes_a_host_goes_uncounted() {
    let rights = Rights::embedded().unwrap();
    for (who, table) in TABLE {
        for operation in table.iter().filter_map(|name| name.parse::<Operation>().ok()) {
            let resources: Vec<_> = operation.kinds().iter().copied().map(of_kind).collect();
            let grant = Asked::new(who, &[operation], &resources).decide(&rights).unwrap();
            let changes = operation.effect() == operations::Effect::Change;
            assert_eq!(grant.quotas.len(), if changes { 3 } else { 0 }, "{who} {operation}");
        }
    }
}

#[test]
fn a_policy_that_fails_refuses_instead_of_being_passed_over() {
    // `offset` beyond the range of datetime is an error at run time; Cedar alone would pass over the forbid.
    let sources = with_policy(
        "@id(\"fails\") @why(\"-\") forbid (principal, action == Action::\"DrainHost\", resource) \
         when { context.now.offset(duration(\"9223372036854775807ms\")) > context.now };",
    );
    let rights = Rights::parse(&sources).unwrap();
    let drain = Asked::new("azote:operator/alice", &[Operation::DrainHost], &[here()]);
    assert_eq!(drain.decide(&rights), Err(Refusal::Failed));
    let see = Asked::new("azote:operator/alice", &[Operation::HostStatus], &[here()]);
    assert_eq!(see.code(&rights), "granted");
}

/// Whether Cedar allows it under a schema, with entities of no family but the one group.
fn allows(schema: &Schema, policies: &PolicySet, principal: &str, action: Action, resource: &str) -> bool {
    let uid = |text: &str| text.parse::<EntityUid>().unwrap();
    let action = uid(&format!("Action::\"{action}\""));
    let pairs = "{\"now\": {\"__extn\": {\"fn\": \"datetime\", \"arg\": \"2027-01-01\"}}, \
        \"environment\": {\"__entity\": {\"type\": \"Environment\", \"id\": \"lab\"}}, \
        \"attestation\": {\"__entity\": {\"type\": \"Attestation\", \"id\": \"passed\"}}, \"drained\": false}";
    let context = if action == uid("Action::\"ReadAuditLog\"") {
        Context::empty()
    } else {
        Context::from_json_str(pairs, Some((schema, &action))).unwrap()
    };
    let request = Request::new(uid(principal), action, uid(resource), context, Some(schema)).unwrap();
    Authorizer::new().is_authorized(&request, policies, &Entities::empty()).decision() == Decision::Allow
}

#[test]
fn under_the_widest_schema_the_floor_denies_what_a_planted_policy_permits() {
    let (schema, _) = Schema::from_cedarschema_str(&wide_schema()).unwrap();
    let planted: PolicySet = "permit (principal, action, resource);".parse().unwrap();
    let mut floored = floor();
    floored.add(planted.policies().next().unwrap().clone()).unwrap();
    let principals = ["Operator", "ControlPlane", "Pipeline", "Auditor", "Tenant"];
    let resources = ["Host", "Volume", "Instance", "AuditLog", "CustomerContent"];
    for action in Action::all() {
        for principal in principals {
            for resource in resources {
                let [who, what] = [format!("{principal}::\"x\""), format!("{resource}::\"x\"")];
                assert!(allows(&schema, &planted, &who, action, &what), "the planted policy permits it");
                let tenant = principal == "Tenant";
                let expected = match resource {
                    "CustomerContent" => tenant,
                    "Volume" | "Instance" => tenant || principal == "ControlPlane",
                    _ => !tenant,
                };
                assert_eq!(allows(&schema, &floored, &who, action, &what), expected, "{who} {action} {what}");
            }
        }
    }
}

#[test]
fn the_floor_stands_in_every_decision() {
    let rights = Rights::embedded().unwrap();
    let written = FLOOR.matches("@id(\"floor-").count();
    assert_eq!(floor().num_of_policies(), written);
    assert!(written > 0);
    let decided_over = Action::all().map(|action| &rights.slice(action).unwrap().policies);
    for policies in decided_over.chain([&rights.whole]) {
        assert!(floor().policies().all(|policy| policies.policy(policy.id()).is_some()));
    }
    assert!(rights.policies().policies().all(|policy| !policy.id().to_string().starts_with("floor-")));
}

#[test]
fn in_the_schema_no_operation_is_for_customer_content_and_none_is_for_tenants() {
    let (schema, _) = Schema::from_cedarschema_str(&schema()).unwrap();
    let mut environments = 0;
    for environment in schema.request_envs() {
        environments += 1;
        assert_ne!(environment.resource().to_string(), "CustomerContent");
        assert_ne!(environment.principal().to_string(), "Tenant");
        if ["Volume", "Instance"].contains(&environment.resource().to_string().as_str()) {
            assert_eq!(environment.principal().to_string(), "ControlPlane");
        }
    }
    let declared: usize = Operation::ALL.iter().map(|o| o.callers().len() * o.kinds().len()).sum();
    assert_eq!(environments, declared + Action::ReadAuditLog.callers().len());
}

proptest! {
    #[test]
    fn no_request_panics_and_nobody_gets_more_than_the_table(
        who in 0..TABLE.len(),
        operations in prop::collection::vec(0..Operation::ALL.len(), 0..4),
        kinds in prop::collection::vec((0..3usize, 0..3u128), 0..4),
        attestation in 0..3usize,
        ticket in prop::option::of(".{0,70}"),
        now: u64,
    ) {
        let rights = Rights::embedded().unwrap();
        let resource = |(kind, n)| match kind {
            0 => Resource::Host(HostId::from_random(n)),
            1 => Resource::Volume(VolumeId::from_random(n)),
            _ => Resource::Instance(InstanceId::from_random(n)),
        };
        let operations: Vec<_> = operations.into_iter().map(|n| Operation::ALL[n]).collect();
        let resources: Vec<_> = kinds.into_iter().map(resource).collect();
        let (who, table) = TABLE[who];
        let mut asked = Asked::new(who, &operations, &resources);
        asked.host.attestation = Attestation::ALL[attestation];
        asked.ticket = ticket;
        asked.now = now;
        if asked.decide(&rights).is_ok() {
            prop_assert!(operations.iter().all(|o| table.contains(&o.name())));
        }
    }
}
