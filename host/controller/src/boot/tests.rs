use super::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::io::Write;

#[test]
fn a_log_that_was_handed_on_is_read_from_its_beginning_and_only_whole() {
    assert!(handed(None).unwrap().is_empty(), "nothing ran before");
    let event = Event::new(8, "stage 1", &[7; 32]).unwrap();
    let hand = |bytes: &[u8]| {
        let mut file = File::from(memfd_create("events", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        handed(Some(file.into()))
    };
    assert_eq!(hand(event.bytes()).unwrap().iter().collect::<Vec<_>>(), [event]);
    for bad in [&event.bytes()[1..], &[0; 72], &vec![0; boot_rom::events::MAX_BYTES + 72]] {
        assert_eq!(hand(bad).unwrap_err().code, "boot.log");
    }
}

#[test]
fn a_report_is_a_line_that_names_stage_code_and_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report");
    forget(&path).unwrap();
    let failure: Failure = Halt::new("boot.image", "volume card", "say \"what\" to do").into();
    report(&path, &halt(&failure)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("}\n") && text.lines().count() == 1);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["stage"], "controller");
    assert_eq!((json["code"].as_str(), json["entry"].as_str()), (Some("boot.image"), Some("volume card")));
    assert_eq!(halt(&Failure::from(LogError::Full)).code, "log.full");
    assert_eq!(halt(&Failure::from("anything")).code, "boot.failed");
    forget(&path).unwrap();
    assert!(!path.exists());
}
