//! `azote rights`: checks, shows, compares and reviews rights configurations. Needs nothing that runs.

use crate::{
    cloud::now,
    failure::{Doing, Failure},
    out::Out,
};
use clap::{Subcommand, ValueHint};
use ids::Identity;
use rights::{Direction, Review, ReviewRefused, Reviewer, Reviewers, RightsError, Sources, changes};
use serde_json::json;
use service::Credentials;
use std::{
    fmt::Write as _,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};
use token::PublicKey;

/// Longest review, and list of reviewers, that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Subcommand)]
pub(crate) enum Rights {
    /// Hold a configuration to every rule that the token service holds it to.
    Check {
        /// Its folder; the one of this release without it.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
    },
    /// Who may do what: groups, policies, quotas, and the floor below them.
    Show {
        /// Its folder; the one of this release without it.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
        /// One policy, as it is written.
        #[arg(long)]
        policy: Option<String>,
        /// The Cedar schema of this release, as it belongs into `schema.cedarschema`.
        #[arg(long, conflicts_with_all = ["policy", "folder"])]
        schema: bool,
    },
    /// What a new configuration allows and an old one does not, and the reverse, in words.
    #[command(after_help = "Example: azote rights diff released/policies policies")]
    Diff {
        /// The folder of the old one; it can be of another release.
        #[arg(value_hint = ValueHint::DirPath)]
        old: PathBuf,
        /// The folder of the new one.
        #[arg(value_hint = ValueHint::DirPath)]
        new: PathBuf,
    },
    /// The review that the token service wants to see: two people other than the author.
    #[command(
        subcommand,
        after_help = "\
Examples:
  azote rights review new policies --author azote:operator/ann > review.json
  azote rights review sign review.json policies --identity bea.pem > signed.json
  azote rights review verify signed.json policies --reviewers reviewers.toml"
    )]
    Review(Reviewing),
}

#[derive(Subcommand)]
pub(crate) enum Reviewing {
    /// Print your entry for the list of reviewers.
    Reviewer {
        /// Your certificate and key (PEM); only the public half is printed.
        #[arg(long, value_hint = ValueHint::FilePath)]
        identity: PathBuf,
    },
    /// Print a review without signatures.
    New {
        /// The folder of the configuration.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
        /// Who wrote it.
        #[arg(long)]
        author: Identity,
        /// The folder of the configuration that it takes the place of.
        #[arg(long, value_hint = ValueHint::DirPath)]
        previous: Option<PathBuf>,
    },
    /// Print the review with one more signature.
    Sign {
        /// The review.
        #[arg(value_hint = ValueHint::FilePath)]
        review: PathBuf,
        /// The folder of the configuration that you have read.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: PathBuf,
        /// Your certificate and key (PEM).
        #[arg(long, value_hint = ValueHint::FilePath)]
        identity: PathBuf,
    },
    /// Check a review.
    Verify {
        /// The review.
        #[arg(value_hint = ValueHint::FilePath)]
        review: PathBuf,
        /// The folder of the configuration; the one of this release without it.
        #[arg(value_hint = ValueHint::DirPath)]
        folder: Option<PathBuf>,
        /// Who may review, with their keys.
        #[arg(long, value_hint = ValueHint::FilePath)]
        reviewers: PathBuf,
    },
}

/// Carries out `azote rights …`.
pub(crate) fn run(out: Out, verb: &Rights) -> Result<(), Failure> {
    match verb {
        Rights::Check { folder } => check(out, folder.as_deref()),
        Rights::Show { schema: true, .. } => {
            let schema = rights::schema();
            out.result(schema.trim_end(), &json!({"schema": schema}));
            Ok(())
        }
        Rights::Show { folder, policy, .. } => show(out, folder.as_deref(), policy.as_deref()),
        Rights::Diff { old, new } => diff(out, old, new),
        Rights::Review(Reviewing::New { folder, author, previous }) => {
            let set = sound(folder)?.hash();
            let previous = previous.as_deref().map(Sources::read).transpose().map_err(wrong)?;
            let review = Review::new(set, previous.map(|sources| sources.hash()), now(), author.clone());
            print(out, &review)
        }
        Rights::Review(Reviewing::Reviewer { identity }) => {
            let list = Reviewers { reviewers: vec![person(identity)?.0] };
            out.result(toml::to_string(&list).map_err(Failure::state)?.trim_end(), &list);
            Ok(())
        }
        Rights::Review(Reviewing::Sign { review, folder, identity }) => {
            print(out, &signed(review, folder, identity)?)
        }
        Rights::Review(Reviewing::Verify { review, folder, reviewers }) => {
            verify(out, review, folder.as_deref(), reviewers)
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "handed to `map_err` by name")]
fn wrong(error: RightsError) -> Failure {
    Failure::Advice(error.code(), error.to_string())
}

fn refused(error: ReviewRefused) -> Failure {
    Failure::Advice(error.code(), error.to_string())
}

fn read(folder: Option<&Path>) -> Result<Sources, Failure> {
    folder.map_or_else(|| Ok(rights::sources()), Sources::read).map_err(wrong)
}

/// A configuration that passes every check.
fn sound(folder: &Path) -> Result<Sources, Failure> {
    let sources = Sources::read(folder).map_err(wrong)?;
    rights::Rights::parse(&sources).map_err(wrong)?;
    Ok(sources)
}

fn check(out: Out, folder: Option<&Path>) -> Result<(), Failure> {
    let sources = read(folder)?;
    let rights = rights::Rights::parse(&sources).map_err(wrong)?;
    let (set, policies) = (sources.hash(), rights.policies().num_of_policies());
    let (groups, quotas) = (rights.groups().groups.len(), rights.quotas().quotas.len());
    let text = format!("sound: {policies} policies, {groups} groups, {quotas} quotas\n{set}");
    out.result(&text, &json!({"set": set, "policies": policies, "groups": groups, "quotas": quotas}));
    Ok(())
}

fn show(out: Out, folder: Option<&Path>, policy: Option<&str>) -> Result<(), Failure> {
    let sources = read(folder)?;
    let rights = rights::Rights::parse(&sources).map_err(wrong)?;
    if let Some(id) = policy {
        let floor = rights::floor();
        let mut all = rights.policies().policies().chain(floor.policies());
        let found = all.find(|policy| policy.id().to_string() == id).map(ToString::to_string);
        let found =
            found.ok_or_else(|| Failure::Advice("rights.name", format!("there is no policy {id}")))?;
        out.result(found.trim(), &json!({"policy": found}));
        return Ok(());
    }
    let value = json!({
        "set": sources.hash(),
        "groups": rights.groups(),
        "table": rights.table(),
        "quotas": rights.quotas(),
        "floor": rights::FLOOR,
    });
    out.result(describe(out, &sources, &rights).trim_end(), &value);
    Ok(())
}

fn describe(out: Out, sources: &Sources, rights: &rights::Rights) -> String {
    let (groups, quotas, table) = (rights.groups(), rights.quotas(), rights.table());
    let mut text = String::new();
    // Writing to a string does not fail.
    for fleet in &groups.fleets {
        let _ = writeln!(text, "fleet {} ({}): {}", fleet.name, fleet.environment.name(), fleet.why);
    }
    for group in &groups.groups {
        let members: Vec<String> = group.members.iter().map(ToString::to_string).collect();
        let head = out.paint(1, &format!("{} ({})", group.name, group.caller));
        let _ = writeln!(text, "\n{head}: {}\n  {}", members.join(", "), group.why);
        for row in table.iter().filter(|row| row.group.as_deref() == Some(group.name.as_str())) {
            text += &line(row);
        }
        for quota in quotas.quotas.iter().filter(|quota| quota.group == group.name) {
            let _ = writeln!(text, "  at most {quota}");
        }
    }
    let _ = writeln!(text, "\n{}", out.paint(1, "forbidden to everybody"));
    for row in table.iter().filter(|row| row.group.is_none()) {
        text += &line(row);
    }
    let _ = writeln!(text, "\n{}{}", out.paint(1, "below it all, compiled in"), rights::FLOOR);
    let (token, host) = (quotas.token, quotas.host);
    let _ = writeln!(
        text,
        "tokens live {} to {} s, {} s if not asked; {} calls, 1 if sensitive\n\
         a host does each sensitive operation at most {} times in {} s\n{}",
        token.shortest_seconds,
        token.longest_seconds,
        token.default_seconds,
        token.uses,
        host.sensitive,
        host.window_seconds,
        sources.hash()
    );
    text
}

fn line(row: &rights::Right) -> String {
    let operation = row.operation.as_deref().unwrap_or("(a class)");
    let fleet = row.fleet.as_deref().unwrap_or("-");
    let when = if row.conditional { "if" } else { "" };
    format!("  {operation:<16} {fleet:<12} {when:<2} {}: {}\n", row.policy, row.why)
}

fn diff(out: Out, old: &Path, new: &Path) -> Result<(), Failure> {
    let before = Sources::read(old).and_then(|sources| rights::Rights::parse_other_release(&sources));
    let before = before.map_err(wrong)?;
    let after = rights::Rights::parse(&Sources::read(new).map_err(wrong)?).map_err(wrong)?;
    let found = changes(&before, &after);
    let mut text = String::new();
    for change in &found {
        let sign = match change.direction {
            Direction::Wider => out.paint(31, "wider   "),
            Direction::Narrower => out.paint(32, "narrower"),
            Direction::Text => "text    ".to_owned(),
        };
        let _ = writeln!(text, "{sign}  {}", change.what);
    }
    if found.is_empty() {
        text += "the same";
    }
    out.result(text.trim_end(), &found);
    Ok(())
}

fn text_of(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.doing(path.display())?;
    Ok(text)
}

fn print(out: Out, review: &Review) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(review).map_err(Failure::state)?;
    out.result(&text, review);
    Ok(())
}

fn person(identity: &Path) -> Result<(Reviewer, Credentials), Failure> {
    let credentials = Credentials::read(identity).map_err(Failure::state)?;
    let key = PublicKey(credentials.key().public());
    Ok((Reviewer { identity: credentials.identity().map_err(Failure::state)?, key }, credentials))
}

fn signed(review: &Path, folder: &Path, identity: &Path) -> Result<Review, Failure> {
    let mut review = Review::parse(&text_of(review)?).map_err(refused)?;
    if sound(folder)?.hash() != review.set {
        return Err(refused(ReviewRefused::Set));
    }
    let (reviewer, credentials) = person(identity)?;
    review.sign(&reviewer.identity, credentials.key().pair()).map_err(refused)?;
    Ok(review)
}

fn verify(out: Out, review: &Path, folder: Option<&Path>, reviewers: &Path) -> Result<(), Failure> {
    let review = Review::parse(&text_of(review)?).map_err(refused)?;
    let reviewers = Reviewers::parse(&text_of(reviewers)?).map_err(refused)?;
    let by = review.verify(&reviewers, &read(folder)?.hash()).map_err(refused)?;
    let names: Vec<String> = by.iter().map(ToString::to_string).collect();
    let text = format!("{}\nby {}, reviewed by {}", review.set, review.author, names.join(", "));
    out.result(&text, &json!({"set": review.set, "author": review.author, "reviewers": by}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(sources: &Sources) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("groups.toml", &sources.groups),
            ("quotas.toml", &sources.quotas),
            ("rights.cedar", &sources.policies),
            ("schema.cedarschema", &sources.schema),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn what_is_shown_names_every_group_member_operation_and_policy() {
        let sources = rights::sources();
        let rights = rights::Rights::embedded().unwrap();
        let text = describe(Out::new(false), &sources, &rights);
        for group in &rights.groups().groups {
            assert!(text.contains(group.name.as_str()));
            group.members.iter().for_each(|member| assert!(text.contains(&member.to_string())));
            group.operations.iter().for_each(|operation| assert!(text.contains(operation.name())));
        }
        rights.policies().policies().for_each(|policy| assert!(text.contains(&policy.id().to_string())));
        assert!(text.contains(&sources.hash().to_string()));
    }

    #[test]
    fn a_wrong_folder_is_refused_with_its_code() {
        let mut sources = rights::sources();
        sources.policies += "@id(\"glass\") @why(\"-\") permit (principal, action, resource);";
        let folder = write(&sources);
        let out = Out::new(false);
        assert_eq!(check(out, Some(folder.path())).unwrap_err().code(), "rights.policy");
        assert_eq!(diff(out, folder.path(), folder.path()).unwrap_err().code(), "rights.policy");
        assert_eq!(check(out, Some(Path::new("/nowhere"))).unwrap_err().code(), "rights.unreadable");
        let author: Identity = "azote:operator/ann".parse().unwrap();
        let new = Reviewing::New { folder: folder.path().to_owned(), author, previous: None };
        assert_eq!(run(out, &Rights::Review(new)).unwrap_err().code(), "rights.policy");
        let missing = Some("nothing");
        assert_eq!(show(out, None, missing).unwrap_err().code(), "rights.name");
    }

    #[test]
    fn a_review_is_signed_by_people_and_verified() {
        let folder = write(&rights::sources());
        let path = |name: &str| folder.path().join(name);
        let ca = pki::Ca::create(folder.path()).unwrap();
        let life = std::time::Duration::from_secs(3600);
        let mut list = Reviewers { reviewers: Vec::new() };
        for name in ["ann", "bea", "cid"] {
            let who = format!("azote:operator/{name}").parse().unwrap();
            ca.client_identity(&who, life, &path(name)).unwrap();
            list.reviewers.push(person(&path(name)).unwrap().0);
        }
        std::fs::write(path("list"), toml::to_string(&list).unwrap()).unwrap();
        let keep = |review: &Review| std::fs::write(path("review"), serde_json::to_string(review).unwrap());
        let mut other = rights::sources();
        keep(&Review::new(other.hash(), None, now(), list.reviewers[0].identity.clone())).unwrap();
        let check = || verify(Out::new(true), &path("review"), Some(folder.path()), &path("list"));
        let sign = |name| signed(&path("review"), folder.path(), &path(name));
        assert_eq!(check().unwrap_err().code(), "review.signatures");
        assert_eq!(sign("ann").unwrap_err().code(), "review.author");
        for name in ["bea", "cid"] {
            keep(&sign(name).unwrap()).unwrap();
        }
        check().unwrap();
        other.policies.push('\n');
        std::fs::write(path("rights.cedar"), &other.policies).unwrap();
        assert_eq!(check().unwrap_err().code(), "review.set");
        assert_eq!(sign("bea").unwrap_err().code(), "review.set", "nobody signs what they have not read");
    }
}
