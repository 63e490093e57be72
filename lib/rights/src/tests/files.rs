use super::*;

#[test]
fn the_schema_file_is_the_one_of_this_release() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/schema.cedarschema");
    let said = "the table of operations changed: `azote rights show --schema > policies/schema.cedarschema`";
    assert!(std::fs::read_to_string(file).unwrap() == schema(), "{said}");
}

#[test]
fn the_shipped_configuration_is_sound() {
    if let Err(error) = Rights::embedded() {
        panic!("{}: {error}", error.code());
    }
}

#[test]
fn a_folder_is_read_within_bounds_and_hashed_as_sha256sum_would() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = sources();
    let files = [
        ("groups.toml", &shipped.groups),
        ("quotas.toml", &shipped.quotas),
        ("rights.cedar", &shipped.policies),
        ("schema.cedarschema", &shipped.schema),
    ];
    for (name, text) in files {
        assert_eq!(Sources::read(folder.path()).unwrap_err().code(), "rights.unreadable", "without {name}");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("floor.cedar"), FLOOR).unwrap();
    let read = Sources::read(folder.path()).unwrap();
    assert_eq!((&read, read.hash()), (&shipped, shipped.hash()));
    let sums = "sha256sum floor.cedar groups.toml quotas.toml rights.cedar schema.cedarschema";
    let output =
        |command| std::process::Command::new("sh").arg("-c").arg(command).current_dir(folder.path()).output();
    assert_eq!(String::from_utf8(output(sums.to_owned()).unwrap().stdout).unwrap(), read.listing());
    let whole = String::from_utf8(output(format!("{sums} | sha256sum")).unwrap().stdout).unwrap();
    assert_eq!(whole.split_whitespace().next().unwrap(), read.hash().to_string());
    std::fs::write(folder.path().join("rights.cedar"), " ".repeat(256 * 1024 + 1)).unwrap();
    assert_eq!(Sources::read(folder.path()).unwrap_err().code(), "rights.size");
}

#[test]
fn every_file_counts_in_the_hash() {
    let shipped = sources();
    let mut seen = BTreeSet::from([shipped.hash()]);
    for n in 0..4 {
        let mut changed = shipped.clone();
        let texts = [&mut changed.groups, &mut changed.quotas, &mut changed.policies, &mut changed.schema];
        texts.into_iter().nth(n).unwrap().push('#');
        assert!(seen.insert(changed.hash()), "{n}");
    }
    let text = shipped.hash().to_string();
    assert_eq!(text.parse(), Ok(shipped.hash()));
    for bad in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace(&text[..1], "g")] {
        assert!(bad.parse::<SetHash>().is_err(), "{bad}");
    }
}

#[test]
fn another_schema_is_refused() {
    let mut wide = sources();
    wide.schema = wide_schema();
    assert_eq!(code(&wide), "rights.schema");
    wide.schema = schema().replace("principal: [Auditor]", "principal: [Auditor, Operator]");
    assert_eq!(code(&wide), "rights.schema");
}

fn planted(head: &str, rest: &str) -> Sources {
    with_policy(&format!("{head}\npermit ({rest};"))
}

#[test]
fn break_glass_in_every_shape_is_refused() {
    const HEAD: &str = "@id(\"break-glass\") @why(\"an emergency\")";
    const GROUP: &str = "principal in Group::\"host-keepers\"";
    const FLEET: &str = "resource in Fleet::\"lab\"";
    const STATUS: &str = "action == Action::\"HostStatus\"";
    assert_eq!(
        code(&planted(HEAD, &format!("{GROUP}, {STATUS}, {FLEET})"))),
        "taken",
        "the shape that is taken"
    );
    for rest in [
        "principal, action, resource)".to_owned(),
        "principal, action, resource) when { principal in Group::\"host-keepers\" }".to_owned(),
        format!("{GROUP}, action, {FLEET})"),
        format!("{GROUP}, action in Action::\"observe\", {FLEET})"),
        format!("{GROUP}, action in [Action::\"observe\"], {FLEET})"),
        format!("{GROUP}, {STATUS}, resource)"),
        format!("{GROUP}, {STATUS}, resource is Host)"),
        format!("{GROUP}, {STATUS}, resource == Host::\"h-0123456789abcdef0\")"),
        format!("principal, {STATUS}, {FLEET})"),
        format!("principal is Operator, {STATUS}, {FLEET})"),
        format!("principal == Operator::\"azote:operator/mallory\", {STATUS}, {FLEET})"),
        format!("principal in Group::\"host-keeper\", {STATUS}, {FLEET})"),
        format!("{GROUP}, {STATUS}, resource in Fleet::\"labs\")"),
        format!("{GROUP}, {STATUS}, {FLEET}) when {{ principal != Operator::\"azote:operator/alice\" }}"),
        format!("{GROUP}, {STATUS}, {FLEET}) when {{ principal in Group::\"nobody\" }}"),
        format!("{GROUP}, action == Action::\"ReadLog\", {FLEET})"),
        format!("{GROUP}, action == Action::\"StopInstance\", {FLEET})"),
        format!("{GROUP}, action == Action::\"ReadAuditLog\", resource == AuditLog::\"audit\")"),
        format!("principal in Group::\"log-readers\", action == Action::\"ReadAuditLog\", {FLEET})"),
        "principal in Group::\"log-readers\", action == Action::\"HostStatus\", resource == AuditLog::\"audit\")".to_owned(),
        format!("{GROUP}, action == Action::\"ReadMemory\", {FLEET})"),
    ] {
        assert_eq!(code(&planted(HEAD, &rest)), "rights.policy", "{rest}");
    }
}

#[test]
fn policies_that_do_not_fit_the_schema_are_refused() {
    const HEAD: &str = "@id(\"new\") @why(\"-\")";
    let scope =
        "principal in Group::\"host-keepers\", action == Action::\"DrainHost\", resource in Fleet::\"lab\")";
    for (condition, code_expected) in [
        ("context.drained", "taken"),
        ("context.drayned", "rights.validation"),
        ("context.ticket == \"T-1\"", "rights.validation"),
        ("context has ticket && context.ticket == 1", "rights.validation"),
        ("context.attestation == Attestation::\"pased\"", "rights.validation"),
        ("context.environment == Environment::\"live\"", "rights.validation"),
        ("context.attestation == \"passed\"", "rights.validation"),
        ("principal is Tenant", "rights.validation"),
        ("resource is CustomerContent", "rights.validation"),
        ("false", "rights.validation"),
        ("context.now > datetime(\"tomorrow\")", "rights.validation"),
    ] {
        let said = code(&planted(HEAD, &format!("{scope} when {{ {condition} }}")));
        assert_eq!(said, code_expected, "{condition}");
    }
    let forbid = "@id(\"f\") @why(\"-\") forbid (principal is Tenant, action, resource);";
    assert_eq!(code(&with_policy(forbid)), "rights.validation", "a forbid that can never apply");
    let forbid =
        "@id(\"f\") @why(\"-\") forbid (principal == Operator::\"azote:operator/alice\", action, resource);";
    assert_eq!(code(&with_policy(forbid)), "rights.policy", "a forbid of one person");
}

#[test]
fn policies_are_named_explained_and_written_out() {
    const SCOPE: &str = "permit (principal in Group::\"host-keepers\", action == Action::\"DrainHost\", resource in Fleet::\"lab\");";
    for (head, expected) in [
        ("@id(\"new\") @why(\"-\")", "taken"),
        ("", "rights.policy"),
        ("@why(\"-\")", "rights.policy"),
        ("@id(\"new\")", "rights.policy"),
        ("@id(\"new\") @why(\" \")", "rights.policy"),
        ("@id(\"new\") @why(\"-\") @note(\"-\")", "rights.policy"),
        ("@id(\"New\") @why(\"-\")", "rights.policy"),
        ("@id(\"floor-content\") @why(\"-\")", "rights.policy"),
        ("@id(\"keepers-drain\") @why(\"-\")", "rights.policy"),
        ("@id(\"new\") @why(\"-\") permit", "rights.form"),
    ] {
        assert_eq!(code(&with_policy(&format!("{head}\n{SCOPE}"))), expected, "{head}");
    }
    let long = "x".repeat(301);
    assert_eq!(code(&with_policy(&format!("@id(\"new\") @why(\"{long}\")\n{SCOPE}"))), "rights.policy");
    let template = "@id(\"t\") @why(\"-\") permit (principal in ?principal, action == Action::\"DrainHost\", resource in ?resource);";
    assert_eq!(code(&with_policy(template)), "rights.form");
}

#[test]
fn groups_are_checked() {
    for (from, to, expected) in [
        ("azote:operator/alice", "azote:operator/bob", "taken"),
        ("azote:operator/alice", "azote:operator/*", "rights.form"),
        ("azote:operator/alice", "azote:service/alice", "rights.name"),
        ("azote:operator/alice", "azote:tenant/alice", "rights.name"),
        ("azote:operator/alice", "azote:operator/ada", "rights.name"),
        ("azote:service/pipeline", "azote:operator/pipeline", "rights.name"),
        ("name = \"pipeline\"", "name = \"auditors\"", "rights.name"),
        ("name = \"pipeline\"", "name = \"Pipeline\"", "rights.form"),
        ("name = \"lab\"", "name = \"prod\"", "rights.policy"),
        ("environment = \"lab\"", "environment = \"live\"", "rights.form"),
        ("\"PowerCycleHost\"]", "\"PowerCycleHost\", \"ReadMemory\"]", "rights.form"),
        ("\"PowerCycleHost\"]\nmembers", "\"PowerCycleHost\", \"ReadLog\"]\nmembers", "rights.name"),
        ("\"PowerCycleHost\"]\nmembers", "\"PowerCycleHost\", \"ReadAuditLog\"]\nmembers", "rights.name"),
        (
            "[\"HostStatus\", \"AttestHost\", \"ListFirmware\"",
            "[\"AttestHost\", \"ListFirmware\"",
            "rights.policy",
        ),
        ("why = \"They find out what happened. They change nothing.\"", "why = \" \"", "rights.name"),
        ("why = \"They find out what happened. They change nothing.\"", "", "rights.form"),
        ("caller = \"pipeline\"", "caller = \"tenant\"", "rights.form"),
        ("caller = \"pipeline\"", "caller = \"pipeline\"\nadmin = true", "rights.form"),
    ] {
        assert_eq!(code(&edited(from, to)), expected, "{from} -> {to}");
    }
    let promised = edited("    Action::\"OfferCertificate\",\n", "");
    assert_eq!(code(&promised), "rights.name", "listed, but no policy gives it");
    let mut crowd = sources();
    let people: Vec<_> = (0..5000).map(|n| format!("\"azote:operator/p{n}\"")).collect();
    crowd.groups = crowd.groups.replace("\"azote:operator/alice\"", &people.join(","));
    assert_eq!(code(&crowd), "rights.name");
}

#[test]
fn quotas_are_checked() {
    for (from, to, expected) in [
        ("member = 20\n", "member = 21\n", "taken"),
        ("member = 20\n", "member = 0\n", "rights.quotas"),
        ("member = 20\n", "member = 41\n", "rights.quotas"),
        ("member = 20\n", "member = -1\n", "rights.form"),
        ("together = 40\nfleet = 40", "together = 40\nfleet = 41", "rights.quotas"),
        ("together = 40\nfleet = 40", "together = 40\nfleet = 0", "rights.quotas"),
        ("together = 40", "together = 1000001", "rights.quotas"),
        ("window_seconds = 86400", "window_seconds = 59", "rights.quotas"),
        ("window_seconds = 86400", "window_seconds = 2592001", "rights.quotas"),
        ("operations = [\"OfferCertificate\", \"UpdateTokenKeys\"]", "operations = []", "rights.quotas"),
        (
            "operations = [\"OfferCertificate\", \"UpdateTokenKeys\"]",
            "operations = [\"DrainHost\"]",
            "rights.quotas",
        ),
        (
            "operations = [\"DrainHost\", \"ResumeHost\", \"ResetHost\", \"PowerCycleHost\"]\nwindow",
            "operations = [\"DrainHost\"]\nwindow",
            "rights.quotas",
        ),
        ("name = \"audit-acknowledge\"", "name = \"keepers-hosts\"", "rights.quotas"),
        ("group = \"pipeline\"", "group = \"pipelines\"", "rights.quotas"),
        ("shortest_seconds = 1", "shortest_seconds = 0", "rights.quotas"),
        ("shortest_seconds = 1", "shortest_seconds = 3601", "rights.quotas"),
        ("longest_seconds = 14400", "longest_seconds = 86401", "rights.quotas"),
        ("longest_seconds = 14400", "longest_seconds = 3599", "rights.quotas"),
        ("uses = 1000", "uses = 0", "rights.quotas"),
        ("uses = 1000", "uses = 1001", "rights.quotas"),
        ("sensitive = 20", "sensitive = 0", "rights.quotas"),
    ] {
        assert_eq!(code(&edited(from, to)), expected, "{from} -> {to}");
    }
}

fn report(old: &Sources, new: &Sources) -> Vec<(Direction, String)> {
    let found = changes(&Rights::parse(old).unwrap(), &Rights::parse(new).unwrap());
    found.into_iter().map(|change| (change.direction, change.what)).collect()
}

fn line(direction: Direction, what: &str) -> (Direction, String) {
    (direction, what.to_owned())
}

#[test]
fn a_change_is_told_in_words_both_ways() {
    use Direction::*;
    let shipped = sources();
    assert_eq!(report(&shipped, &shipped), []);

    let bob = edited("[\"azote:operator/olga\"]", "[\"azote:operator/olga\", \"azote:operator/bob\"]");
    let may = |word| {
        [
            format!("azote:operator/bob may {word} HostStatus on any host of fleet lab"),
            format!("azote:operator/bob may {word} read the audit log"),
        ]
    };
    assert_eq!(report(&shipped, &bob), may("now").map(|what| (Wider, what)));
    assert_eq!(report(&bob, &shipped), may("no longer").map(|what| (Narrower, what)));

    let ticketless = edited("\nwhen { context has ticket };", ";");
    let said = report(&shipped, &ticketless);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0].0, Wider);
    let start = "azote:operator/alice may now PowerCycleHost on any host of fleet lab in ";
    assert!(said[0].1.starts_with(start) && said[0].1.contains("such as: without a ticket"), "{said:?}");
    assert_eq!(said[1], line(Text, "policy keepers-power-cycle reads otherwise"));

    let quota = edited("member = 20\n", "member = 30\n");
    let said = report(&shipped, &quota);
    assert!(
        said.len() == 1 && said[0].0 == Wider && said[0].1.starts_with("quota keepers-hosts: 20 by a member")
    );
    assert_eq!(report(&quota, &shipped)[0].0, Narrower);
    let longer = edited("longest_seconds = 14400", "longest_seconds = 14401");
    let what = "longest life of a token in seconds: 14400 becomes 14401";
    assert_eq!(report(&shipped, &longer), [line(Wider, what)]);
}

#[test]
fn conditions_on_tickets_and_times_are_told() {
    let shipped = sources();
    for (condition, needle) in [
        ("context has ticket && context.ticket like \"INC-*\"", "ticket T-1"),
        ("context has ticket && context.now < datetime(\"2031-05-06T07:08:09Z\")", "2031-05-06 07:08:09"),
        ("context has ticket && context.now.toTime() >= duration(\"6h\")", " 00:00:00"),
        ("context has ticket && !context.drained", "drained"),
        ("context has ticket && context.attestation == Attestation::\"passed\"", "attestation failed"),
    ] {
        let narrower = edited("when { context has ticket };", &format!("when {{ {condition} }};"));
        let said = report(&shipped, &narrower);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0].0, Direction::Narrower, "{said:?}");
        assert!(said[0].1.contains(needle), "{needle}: {said:?}");
        assert_eq!(report(&narrower, &shipped)[0].0, Direction::Wider);
    }
}

#[test]
fn a_release_with_fewer_operations_can_be_compared_with() {
    let mut old = sources();
    let start = old.schema.find("action PowerCycleHost").unwrap();
    let end = start + old.schema[start..].find("};").unwrap() + 2;
    old.schema.replace_range(start..end, "");
    let start = old.policies.find("@id(\"keepers-power-cycle\")").unwrap();
    let end = start + old.policies[start..].find("};").unwrap() + 2;
    old.policies.replace_range(start..end, "");
    old.groups = old.groups.replace(", \"PowerCycleHost\"", "");
    old.quotas = old.quotas.replace(", \"PowerCycleHost\"", "");
    assert_eq!(code(&old), "rights.schema", "nobody decides by it");
    let old = Rights::parse_other_release(&old).unwrap();
    let said = changes(&old, &Rights::embedded().unwrap());
    let start = "azote:operator/alice may now PowerCycleHost on any host of fleet lab";
    assert!(said[0].direction == Direction::Wider && said[0].what.starts_with(start), "{said:?}");
}

#[test]
fn a_new_fleet_is_told() {
    let fleet = "[[fleet]]\nname = \"spare\"\nenvironment = \"staging\"\nwhy = \"-\"\n\n[[group]]\nname = \"host-keepers\"";
    let mut wider = edited("[[group]]\nname = \"host-keepers\"", fleet);
    wider.policies.push_str(
        "@id(\"spare\") @why(\"-\") permit (principal in Group::\"host-keepers\", action == Action::\"HostStatus\", resource in Fleet::\"spare\");",
    );
    let what = "azote:operator/alice may now HostStatus on any host of fleet spare";
    assert_eq!(report(&sources(), &wider)[0], line(Direction::Wider, what));
}

#[test]
fn deep_and_long_policies_are_refused_without_a_crash() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| {
        format!(
            "@id(\"deep\") @why(\"-\") forbid (principal, action == Action::\"DrainHost\", resource) when {{ {}{inner}{} }};",
            open.repeat(n),
            close.repeat(n)
        )
    };
    let hidden = [("/* (", "true", ")"), ("\"\\\"\" == (", "true", ")"), ("// \"\n(", "true", ")")];
    for (open, inner, close) in hidden {
        assert!(!depth::is_shallow(&deep(open, inner, close, 100)), "{open}");
    }
    for (open, inner, close) in [
        ("(", "true", ")"),
        ("[", "true", "]"),
        ("{a: ", "true", "}"),
        ("if true then ", "true", " else true"),
        ("if true then true else ", "true", ""),
        ("true && ", "true", ""),
        ("true || ", "true", ""),
        ("context.drained == (", "true", ")"),
        ("1 + ", "1 == 2", ""),
        ("- ", "1 == 2", ""),
        ("context", ".a", ""),
        ("context.now.offset(duration(\"1ms\"))", "", ""),
    ] {
        // As much as the bounds let through, and far beyond them.
        let most = (1..2000).rev().find(|n| depth::is_shallow(&deep(open, inner, close, *n))).unwrap();
        let said = code(&with_policy(&deep(open, inner, close, most)));
        assert_ne!(said, "rights.size", "{open} x {most}");
        assert_eq!(code(&with_policy(&deep(open, inner, close, 20_000))), "rights.size", "{open}");
    }
    let many: String = (0..1001)
        .map(|n| format!("@id(\"p{n}\")@why(\"-\")permit(principal in Group::\"pipeline\",action==Action::\"HostStatus\",resource in Fleet::\"lab\");"))
        .collect();
    assert_eq!(code(&with_policy(&many)), "rights.size");
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,200}", which in 0..3usize) {
        let mut changed = sources();
        let file = [&mut changed.groups, &mut changed.quotas, &mut changed.policies].into_iter().nth(which).unwrap();
        *file = text;
        let _ = Rights::parse(&changed);
    }
}
