use crate::{
    Parts, Progress, Tool,
    apt::{debian_archive, percent},
    fetch::Wanted,
    find::qemu_version,
};
use std::path::PathBuf;

#[test]
fn the_debian_archive_is_told_from_others_with_the_same_release_names() {
    let uris = "\
'https://other.example/linux/debian/dists/bookworm/InRelease' other_InRelease 0 
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' security_InRelease 0 
'http://mirror.example/debian/dists/bookworm/InRelease' debian_InRelease 0 
'http://mirror.example/debian/dists/bookworm-updates/InRelease' updates_InRelease 0 
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' packages 0 ";
    assert_eq!(debian_archive(uris).unwrap(), "http://mirror.example/debian");
    let alone = "'mirror+file:/etc/apt/mirrors/debian.list/dists/trixie/InRelease' list 0 ";
    assert_eq!(debian_archive(alone).unwrap(), "mirror+file:/etc/apt/mirrors/debian.list");
}

#[test]
fn machines_without_a_debian_archive_are_told_so() {
    for uris in [
        "",
        "nonsense",
        "'http://mirror.example/ubuntu/dists/noble/InRelease' ubuntu 0 ",
        "'cdrom:[Debian 12]/dists/bookworm/InRelease' disc 0 ",
        "'http://mirror.example/a b/dists/bookworm/InRelease' space 0 ",
    ] {
        assert_eq!(debian_archive(uris), None, "{uris}");
    }
}

#[test]
fn apts_status_lines_give_the_percentage() {
    assert_eq!(percent("dlstatus:12:34.5678:Retrieving file 12 of 110 (3s remaining)"), Some(34));
    assert_eq!(percent("dlstatus:1:100.0000:Retrieving"), Some(100));
    for line in ["", "dlstatus:", "dlstatus:1:x:y", "Get:1 http://mirror.example", "pmstatus:a:1.0:b"] {
        assert_eq!(percent(line), None, "{line}");
    }
}

#[test]
fn a_stamp_of_another_wish_is_not_taken() {
    for wanted in [Wanted { qemu_on_path: None }, Wanted { qemu_on_path: Some(PathBuf::from("/opt/q/qemu")) }]
    {
        assert_eq!(Wanted::parse(&wanted.to_text()), Some(wanted.clone()));
        assert_eq!(Wanted::parse(&wanted.to_text().replace("swtpm", "other")), None);
    }
    for text in ["", "1", "\n\n", "\n/bin/sh\n"] {
        assert_eq!(Wanted::parse(text), None);
    }
}

#[test]
fn qemu_tells_its_version() {
    assert_eq!(qemu_version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds)\nCopyright"), Some((11, 1)));
    assert_eq!(qemu_version("QEMU emulator version 7.2.22"), Some((7, 2)));
    for text in ["", "version", "QEMU emulator version x.y", "QEMU emulator version 9"] {
        assert_eq!(qemu_version(text), None);
    }
}

#[test]
fn a_folder_without_parts_says_how_to_get_them() {
    let dir = tempfile::tempdir().unwrap();
    let error = Parts::locate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("cargo xtask parts"), "{error}");
}

#[test]
fn two_who_fetch_at_once_get_the_same_working_parts() {
    let dir = crate::default_dir();
    let fetch = || Parts::locate_or_fetch(&dir, &mut |at: Progress<'_>| println!("{at}")).unwrap();
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(fetch);
        (fetch(), other.join().unwrap())
    });
    assert_eq!(a.versions(), b.versions());
    for (tool, argument, answer) in [
        (Tool::Qemu, "--version", "QEMU emulator"),
        (Tool::Swtpm, "--version", "TPM emulator"),
        (Tool::Sfdisk, "--version", "sfdisk"),
        (Tool::MkfsFat, "--help", "mkfs.fat"),
        (Tool::Mmd, "-V", "mtools"),
        (Tool::Mcopy, "-V", "mtools"),
        (Tool::Mke2fs, "-V", "mke2fs"),
        (Tool::Debugfs, "-V", "debugfs"),
    ] {
        let output = a.command(tool).arg(argument).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8_lossy(&text).contains(answer), "{tool:?}");
    }
    assert!(a.kernel_modules().join("kernel").is_dir());
}
