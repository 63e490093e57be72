use super::*;
use boot_rom::Environment::{NonProduction, Production};
use release::{Make, RootKey, Stage1};
use std::fs;

struct Rig {
    scratch: tempfile::TempDir,
    key: RootKey,
}

impl Rig {
    fn new() -> Self {
        let (scratch, key) = (tempfile::tempdir().unwrap(), RootKey::generate().unwrap());
        let images = [(Kind::Stage1, "stage 1"), (Kind::Controller, "controller")]
            .map(|(kind, bytes)| (kind, format!("azote-{kind}"), bytes.as_bytes().to_vec()))
            .to_vec();
        let make = Make { version: "1.2", svn: 3, environment: ids::Environment::Production, images };
        make.write(&scratch.path().join("release"), &key).unwrap();
        Self { scratch, key }
    }

    fn path(&self) -> std::path::PathBuf {
        self.scratch.path().join("release")
    }

    fn log(&self) -> Events {
        let stage1 = fs::read(self.path().join("stage-1")).unwrap();
        let mut log = Events::new();
        for (name, digest) in
            [(events::ROOT_KEY, self.key.fingerprint()), (events::STAGE_1, release::sha256(&[&stage1]))]
        {
            log.push(Event::new(events::ROM_PCR, name, &digest).unwrap()).unwrap();
        }
        log
    }

    fn header(&self) -> Vec<u8> {
        fs::read(self.path().join("stage-1")).unwrap()[..HEADER].to_vec()
    }

    fn handed(&self) -> Handed {
        let memory = |bytes: &[u8]| sealed("test", bytes).unwrap();
        Handed::read(memory(self.log().bytes()), memory(&self.header())).unwrap()
    }

    fn refused(&self, memory: &Memory) -> &'static str {
        let error = hold_against(&self.handed(), memory, &self.path()).unwrap_err();
        let report = error.report();
        assert_eq!((report.stage.as_str(), report.code.as_str()), ("stage-1", error.code()));
        assert!(report.message.len() > 20 && !report.entry.is_empty());
        error.code()
    }
}

fn memory(environment: boot_rom::Environment, floor: u32) -> Memory {
    Memory { record: Some(Record { environment, host: *b"h-0123456789abcdef0", floor_base: 0 }), floor }
}

#[test]
fn a_release_that_fits_is_taken() {
    let rig = Rig::new();
    for memory in [Memory::default(), memory(Production, 3)] {
        let (folder, controller) = hold_against(&rig.handed(), &memory, &rig.path()).unwrap();
        assert_eq!((folder.manifest.svn, controller.as_slice()), (3, &b"controller"[..]));
    }
}

#[test]
fn other_environments_and_older_releases_are_refused() {
    let rig = Rig::new();
    assert_eq!(rig.refused(&memory(NonProduction, 0)), "stage-1.environment");
    assert_eq!(rig.refused(&memory(Production, 4)), "stage-1.rollback");
}

#[test]
fn a_changed_byte_is_refused_wherever_it_is() {
    let rig = Rig::new();
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = rig.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&path, bad).unwrap();
        let code = rig.refused(&Memory::default());
        fs::write(&path, good).unwrap();
        code
    };
    assert_eq!(change("controller", &|bytes| bytes[3] ^= 1), "stage-1.controller");
    assert_eq!(change("controller", &|bytes| bytes.push(0)), "stage-1.controller");
    assert_eq!(change("manifest", &|bytes| *bytes.last_mut().unwrap() ^= 1), "stage-1.signature");
    assert_eq!(change("manifest", &|bytes| bytes[0] ^= 1), "stage-1.manifest");
    assert_eq!(change("manifest", &|bytes| bytes.clear()), "stage-1.manifest");
    fs::remove_file(rig.path().join("controller")).unwrap();
    assert_eq!(rig.refused(&Memory::default()), "stage-1.controller");
    fs::remove_file(rig.path().join("manifest")).unwrap();
    assert_eq!(rig.refused(&Memory::default()), "stage-1.manifest");
}

#[test]
fn the_release_of_another_stage_1_is_refused() {
    let rig = Rig::new();
    let other = Stage1::sign(b"another", ids::Environment::Production, 3, "1.2", &rig.key).unwrap();
    let handed = rig.handed();
    fs::write(rig.path().join("stage-1"), other.bytes).unwrap();
    assert_eq!(rig.refused(&Memory::default()), "stage-1.manifest");
    hold_against(&handed, &Memory::default(), &rig.path()).unwrap();
    let stranger = Rig { scratch: tempfile::tempdir().unwrap(), ..Rig::new() };
    fs::rename(rig.path(), stranger.path()).unwrap();
    assert!(matches!(
        hold_against(&Rig::new().handed(), &Memory::default(), &stranger.path()),
        Err(Refusal::Signature)
    ));
}

#[test]
fn only_what_the_boot_rom_hands_on_is_taken() {
    let rig = Rig::new();
    let (log, header) = (rig.log().bytes().to_vec(), rig.header());
    let memory = |bytes: &[u8]| sealed("test", bytes).unwrap();
    let refused = |log: &[u8], header: &[u8]| {
        assert_eq!(Handed::read(memory(log), memory(header)).unwrap_err().code(), "stage-1.start");
    };
    refused(&[], &header);
    refused(&log[..72], &header);
    refused(&log[1..], &header);
    refused(&[&log[..], &log].concat(), &header);
    refused(&[&log[72..], &log[..72]].concat(), &header);
    refused(&log, &header[1..]);
    refused(&log, &[&header[..], b"x"].concat());
    let open = tempfile::tempfile().unwrap();
    assert!(Handed::read(open.into(), memory(&header)).is_err(), "a file is not sealed memory");
    let unsealed = memfd_create("log", MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(Handed::read(unsealed, memory(&header)).is_err());
}
