//! A private apt: its own sources, lists, archives and an empty status, so that the machine's package
//! system is only read. Proxies and credentials of the machine's apt configuration stay in force; its hooks
//! and pins do not.

use crate::{Error, Progress, find::on_path};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Releases by whose name (or alias) a Debian archive is recognised in the machine's sources.
const RELEASES: [&str; 9] =
    ["bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable", "bullseye"];
/// Debian's keys, for all its releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// For `map_err`.
pub(crate) fn file_error(path: &Path, source: io::Error) -> Error {
    Error::File { path: path.to_owned(), source }
}

/// The Debian archive in what `apt-get update --print-uris` prints. That the archive also carries the
/// release's `-updates` tells Debian's from a third party's that uses Debian's release names.
pub(crate) fn debian_archive(uris: &str) -> Option<String> {
    let suites = || {
        uris.lines().filter_map(|line| {
            let (base, rest) = line.strip_prefix('\'')?.split_once("/dists/")?;
            let usable = !base.contains([' ', '\n', ']', '[']) && !base.starts_with("cdrom:");
            Some((base, rest.split_once("/InRelease'")?.0)).filter(|_| usable)
        })
    };
    let debian = || suites().filter(|(_, suite)| RELEASES.contains(suite));
    let full =
        debian().find(|(base, suite)| suites().any(|(b, s)| b == *base && s == format!("{suite}-updates")));
    full.or_else(|| debian().next()).map(|(base, _)| base.to_owned())
}

/// A private apt state in one folder.
pub(crate) struct Apt {
    home: PathBuf,
}

impl Apt {
    /// Makes the state in `home`, for the given suites of the machine's Debian archive.
    pub(crate) fn new(home: &Path, suites: &[&str]) -> Result<Self, Error> {
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            on_path(tool).ok_or(Error::NoApt(tool))?;
        }
        let uris = run(
            Command::new("apt-get").args(["update", "--print-uris"]).env("LC_ALL", "C"),
            "reading apt's configuration",
        )?;
        let archive = debian_archive(&uris).ok_or(Error::NoArchive)?;
        let keys =
            if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let sources: String =
            suites.iter().map(|suite| format!("deb {keys}{archive} {suite} main\n")).collect();
        for folder in ["lists/partial", "archives/partial"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).map_err(|e| file_error(&folder, e))?;
        }
        let home = home.canonicalize().map_err(|e| file_error(home, e))?;
        for (name, text) in
            [("sources.list", sources), ("status", String::new()), ("apt.conf", configuration(&home))]
        {
            let path = home.join(name);
            fs::write(&path, text).map_err(|e| file_error(&path, e))?;
        }
        Ok(Self { home })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.home.join("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Fetches the package lists.
    pub(crate) fn update(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), Error> {
        watch(self.command("apt-get").arg("update"), "fetching package lists", progress)
    }

    /// Fetches packages and all that they depend on, taking from `suite` what it has.
    pub(crate) fn fetch(
        &self,
        suite: &str,
        packages: &[&str],
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Error> {
        let mut command = self.command("apt-get");
        command.args(["-y", "--download-only", "--no-install-recommends", "-t", suite, "install"]);
        watch(command.args(packages), "fetching packages", progress)
    }

    /// Fetches the package that the meta-package `meta` of `suite` stands for, and nothing that it depends on.
    pub(crate) fn fetch_behind(&self, meta: &str, suite: &str) -> Result<(), Error> {
        const STEP: &str = "fetching the kernel";
        let depends = run(self.command("apt-cache").arg("depends").arg(format!("{meta}/{suite}")), STEP)?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package =
            package.filter(|name| !name.starts_with(['-', '<'])).ok_or(Error::Unsuitable("kernel"))?;
        self.download(package, STEP)
    }

    /// Fetches one package and nothing that it depends on.
    pub(crate) fn download(&self, package: &str, step: &'static str) -> Result<(), Error> {
        let folder = self.home.join("archives");
        run(self.command("apt-get").args(["download", package]).current_dir(folder), step).map(drop)
    }

    /// The fetched package files, sorted by name.
    pub(crate) fn packages(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.home.join("archives");
        let entries = fs::read_dir(&folder).map_err(|e| file_error(&folder, e))?;
        let mut packages: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == "deb"))
            .collect();
        packages.sort();
        Ok(packages)
    }
}

/// apt's configuration, read after the machine's own. Who runs apt as root here fetches as root too: apt's
/// own user could not reach a private folder.
fn configuration(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{home}";
Dir::State::lists "{home}/lists";
Dir::State::status "{home}/status";
Dir::Cache "{home}";
Dir::Cache::archives "{home}/archives";
Dir::Log "{home}";
#clear APT::Update;
#clear APT::Default-Release;
#clear APT::Architectures;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::CNF;
#clear DPkg;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"#
    )
}

/// Runs a command to its end; its output.
pub(crate) fn run(command: &mut Command, step: &'static str) -> Result<String, Error> {
    let failed = |output: String| Error::Step { step, output: tail(&output) };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs apt to its end and passes on how far it says it is.
fn watch(
    command: &mut Command,
    step: &'static str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), Error> {
    let failed = |output: &str| Error::Step { step, output: tail(output) };
    let start = command.args(["-q", "-o", "APT::Status-Fd=1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start.spawn().map_err(|e| failed(&e.to_string()))?;
    let complaints = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    progress(Progress { step, percent: 0 });
    for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
        if let Some(percent) = line.ok().as_deref().and_then(percent) {
            progress(Progress { step, percent });
        }
    }
    let said = complaints.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let status = child.wait().map_err(|e| failed(&e.to_string()))?;
    // apt calls a list that it could not refresh a warning; here nothing older is there to fall back on.
    if !status.success() || said.contains("Failed to fetch") {
        return Err(failed(&said));
    }
    progress(Progress { step, percent: 100 });
    Ok(())
}

/// The percentage in a status line of apt: `dlstatus:12:34.5:Retrieving file 12 of 110`.
pub(crate) fn percent(line: &str) -> Option<u8> {
    let whole = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.split('.').next()?;
    whole.parse::<u8>().ok().map(|percent| percent.min(100))
}

/// The last lines of what a program said.
fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("; ")
}
