//! What a start refuses, and with which code: each thing that it measures or has sealed, changed by one byte.

use crate::{
    bus::{Exchange, finds_the_key, tells_a_password},
    rack::{Rack, firmware},
};
use host_api::{ListFirmware, PowerCycleHost, StartInstance, VerifyFirmware};
use ids::{InstanceId, VolumeId};
use std::{
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Changes one byte of a file, before its middle; the same again puts it back.
fn flip(path: &Path) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let place = SeekFrom::Start(file.metadata().unwrap().len() / 3);
    let mut byte = [0];
    file.seek(place).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(place).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

fn blob(rack: &Rack, image: &str) -> PathBuf {
    let bytes = fs::read(rack.dir.path().join("first").join(image)).unwrap();
    let name = host_api::Sha256::from_digest(&controller::boot::sha256(&bytes));
    rack.dir.path().join(format!("state/store/{name}.blob"))
}

fn only_file(folder: PathBuf) -> PathBuf {
    fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn a_changed_byte_before_or_in_the_settings_leaves_a_report_and_nothing_else() {
    let mut rack = Rack::enrolled();
    let state = rack.dir.path().join("state");
    for (file, code, entry) in [
        (state.join("known-good.set"), "boot.set", "known-good set"),
        (only_file(state.join("configurations")), "boot.configuration", "configuration"),
        (blob(&rack, "policies"), "boot.policies", "policies"),
        (state.join("early.sealed"), "boot.sealed", "sealed keys"),
        (state.join("certificate.pem"), "boot.identity", "certificate"),
        (state.join("tpm.name"), "boot.identity", "endorsement key"),
    ] {
        flip(&file);
        let refused = rack.try_controller();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{}: {said}", file.display());
        assert_eq!(rack.report(), (code.to_owned(), entry.to_owned()));
        assert!(!rack.ran() && !rack.dir.path().join("address").exists());
        flip(&file);
    }
    for file in ["known-good.set", "early.sealed", "certificate.pem", "tpm.name"] {
        let (path, aside) = (state.join(file), state.join("aside"));
        fs::rename(&path, &aside).unwrap();
        assert_eq!(rack.try_controller().status.code(), Some(1), "{file} was taken away");
        fs::rename(&aside, &path).unwrap();
    }
    rack.power_cycle();
    assert!(rack.status().await.in_service, "all is as it was");
    assert!(!rack.dir.path().join("report").exists(), "an old report");
}

#[tokio::test]
async fn a_changed_image_firmware_or_store_takes_the_host_out_of_service() {
    let mut rack = Rack::enrolled();
    let (state, flash) = (rack.dir.path().join("state"), rack.dir.path().join("code"));
    for (file, code, entry) in [
        (blob(&rack, "volume-card"), "boot.image", "volume card"),
        (flash, "boot.firmware", "main-board firmware"),
        (state.join("store.sealed"), "boot.sealed", "sealed keys"),
        (state.join("store/index"), "store.index", "firmware store"),
    ] {
        flip(&file);
        // The chip reads its flash when it is powered.
        rack.replace_chip();
        rack.power_cycle();
        let status = rack.status().await;
        let reason = status.out_of_service.unwrap();
        assert_eq!(reason.code.as_str(), code, "{}", reason.message.as_str());
        assert!(reason.message.as_str().starts_with(entry), "{}", reason.message.as_str());
        assert!(!status.in_service && status.chip.unwrap().reset_held && !rack.ran());
        assert!(status.card.unwrap().certificate.is_none(), "a card was started");
        let start = StartInstance::metal(InstanceId::from_random(1), VolumeId::from_random(1));
        assert_eq!(rack.refused(start).await, "host.out-of-service");
        assert_eq!(rack.refused(PowerCycleHost {}).await, "host.out-of-service");
        flip(&file);
    }
    rack.replace_chip();
    rack.power_cycle();
    assert!(rack.status().await.in_service, "all is as it was");
}

#[tokio::test]
async fn what_is_in_store_and_flash_is_read_again_when_somebody_asks() {
    let rack = Rack::start();
    let listed = rack.call(ListFirmware {}).await.unwrap();
    let kinds: Vec<_> = listed.images.iter().map(|image| image.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["stage-1", "controller", "policies", "volume-card", "attestation-card", "mainboard-firmware"]
    );
    assert!(listed.images.iter().all(|image| image.intact.is_none()));
    let intact = async || -> Vec<_> {
        let verified = rack.call(VerifyFirmware {}).await.unwrap();
        verified.images.iter().map(|image| image.intact).collect()
    };
    let (good, bad) = (Some(true), Some(false));
    assert_eq!(intact().await, [None, None, good, good, good, good]);
    let card = blob(&rack, "volume-card");
    flip(&card);
    assert_eq!(intact().await, [None, None, good, bad, good, good]);
    flip(&card);
    fs::remove_file(blob(&rack, "mainboard-firmware")).unwrap();
    assert_eq!(intact().await, [None, None, good, good, good, bad]);
}

#[tokio::test]
async fn a_second_start_without_a_power_cycle_gets_nothing_from_the_tpm() {
    let mut rack = Rack::start();
    assert!(rack.status().await.in_service);
    assert_eq!(rack.try_controller_again().status.code(), Some(1));
    assert_eq!(rack.report(), ("boot.log".to_owned(), "event log".to_owned()));
}

#[tokio::test]
async fn what_a_host_is_made_of_does_not_cross_the_bus_of_its_tpm() {
    let mut rack = Rack::start();
    assert!(rack.status().await.in_service);
    let (seen, state) = (rack.bus.seen(), rack.dir.path().join("state"));
    let asked = |code: u32| seen.iter().filter(|exchange| exchange.code() == code).count();
    // Unseal, Create, HierarchyChangeAuth, NV_Increment: an enrolment and a start.
    assert_eq!([0x15e, 0x153, 0x129, 0x134].map(asked), [2, 3, 2, 2], "what is to be looked for");
    assert!(!tells_a_password(&seen));
    for sealed in ["early.sealed", "store.sealed"] {
        assert!(!finds_the_key(&seen, &fs::read(state.join(sealed)).unwrap()), "{sealed}");
    }
    // A connection begins with the question which objects are loaded.
    let begins = |exchange: &Exchange| exchange.command[6..].starts_with(b"\0\0\x01\x7a\0\0\0\x01\x80\0\0\0");
    let start = &seen[seen.iter().rposition(begins).unwrap()..];
    // One session for all of it, salted to the key that enrolment has put into its place.
    let salted = |exchange: &&Exchange| exchange.command[6..14] == [0, 0, 1, 0x76, 0x81, 1, 0, 2];
    assert_eq!(start.iter().filter(salted).count(), 1);
    rack.switch_off_and_on();
    let key = tpm::Tpm::connect(&rack.dir.path().join("tpm.sock")).unwrap().endorsement_key().unwrap();
    assert_eq!(fs::read(state.join("tpm.name")).unwrap(), tpm::name(&key).unwrap());
}

#[tokio::test]
async fn a_disk_on_another_board_and_a_board_that_was_cleared_open_nothing() {
    let mut rack = Rack::start();
    let aside = rack.dir.path().join("tpm-aside");
    rack.controller.0.kill().unwrap();
    fs::rename(rack.dir.path().join("tpm"), &aside).unwrap();
    fs::create_dir(rack.dir.path().join("tpm")).unwrap();
    assert_eq!(rack.try_controller().status.code(), Some(1));
    assert_eq!(rack.report().0, "boot.identity", "another TPM");
    fs::remove_dir_all(rack.dir.path().join("tpm")).unwrap();
    fs::rename(&aside, rack.dir.path().join("tpm")).unwrap();
    rack.power_cycle();
    assert!(rack.status().await.in_service);
    assert!(!rack.enrol_anew().success(), "an enrolled host was enrolled again");
}

#[tokio::test]
async fn a_host_takes_the_next_release_and_configuration_and_goes_back_to_none() {
    let mut rack = Rack::start();
    let first = rack.status().await;
    rack.release("second", 2, 1);
    rack.release("old", 1, 0);
    rack.configure("later", 2, "guest-memory=0\n");
    rack.switch_off_and_on();
    let updated = rack.update(&[("release", "second"), ("configuration", "later")]);
    assert!(updated.status.success(), "{}", String::from_utf8_lossy(&updated.stderr));
    assert_eq!(fs::read(rack.dir.path().join("code")).unwrap(), firmware(1));
    rack.power_cycle();
    let second = rack.status().await;
    assert!(second.in_service, "{:?}", second.out_of_service);
    assert_eq!(second.release.unwrap().version.as_str(), "second");
    assert_ne!(first.measurements[0], second.measurements[0], "the configuration");
    assert_eq!(
        fs::read_dir(rack.dir.path().join("state/store")).unwrap().count(),
        1 + 4,
        "old images are there"
    );

    for (arguments, why) in [
        (&[("release", "old")], "update.rollback"),
        (&[("configuration", "configuration")], "update.rollback"),
    ] {
        rack.switch_off_and_on();
        let refused = rack.update(arguments);
        assert_eq!(refused.status.code(), Some(1));
        assert_eq!(rack.report().0, why);
    }
    // A byte of an image that is to be installed.
    rack.release("third", 2, 1);
    flip(&rack.dir.path().join("third/volume-card"));
    rack.switch_off_and_on();
    assert_eq!(rack.update(&[("release", "third")]).status.code(), Some(1));
    rack.power_cycle();
    assert!(rack.status().await.in_service, "nothing was changed");
    rack.configure("latest", 3, "host-cores=2\n");
    rack.switch_off_and_on();
    assert!(rack.update(&[("configuration", "latest")]).status.success());
    rack.power_cycle();
    let third = rack.status().await;
    assert!(third.in_service && third.measurements[0] != second.measurements[0], "the configuration alone");
}

#[tokio::test]
async fn an_update_that_is_killed_at_any_moment_leaves_a_host_that_starts() {
    let mut rack = Rack::enrolled();
    let (mut old, mut new) = (0, 0);
    let mut present = "first".to_owned();
    // An update takes about 200 ms where nothing else goes on.
    for number in 0..8 {
        let next = format!("release {number}");
        rack.release(&next, 1, 0);
        let mut update = rack.start_update(&[("release", &next)]);
        std::thread::sleep(std::time::Duration::from_millis(40 * number));
        update.kill().unwrap();
        update.wait().unwrap();
        rack.power_cycle();
        let status = rack.status().await;
        assert!(status.in_service, "{:?}", status.out_of_service);
        let runs = status.release.unwrap().version.to_string();
        assert!(runs == present || runs == next, "{runs}");
        (old, new) = if runs == next { (old, new + 1) } else { (old + 1, new) };
        present = runs;
        rack.switch_off_and_on();
    }
    assert!(old > 0, "{old} updates were cut off, {new} went through");
}

#[tokio::test]
async fn an_earlier_state_of_the_disk_does_not_open_when_the_floor_has_risen() {
    let mut rack = Rack::start();
    rack.status().await;
    rack.controller.0.kill().unwrap();
    let (state, copy) = (rack.dir.path().join("state"), rack.dir.path().join("copy"));
    let copied = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    };
    copied(&state, &copy);
    rack.release("second", 2, 0);
    rack.switch_off_and_on();
    assert!(rack.update(&[("release", "second")]).status.success());
    rack.power_cycle();
    assert!(rack.status().await.in_service);
    rack.controller.0.kill().unwrap();
    fs::remove_dir_all(&state).unwrap();
    copied(&copy, &state);
    assert_eq!(rack.try_controller().status.code(), Some(1));
    assert_eq!(rack.report(), ("boot.rollback".to_owned(), "known-good set".to_owned()));
}

#[tokio::test]
async fn a_store_with_a_removable_half_is_gone_without_it() {
    let mut rack = Rack::with_security_key();
    rack.power_cycle();
    assert!(rack.status().await.in_service);
    let (half, aside) = (rack.dir.path().join("security-key"), rack.dir.path().join("pocket"));
    fs::rename(&half, &aside).unwrap();
    rack.power_cycle();
    assert_eq!(rack.status().await.out_of_service.unwrap().code.as_str(), "store.security-key");
    fs::write(&half, [7; 32]).unwrap();
    rack.power_cycle();
    assert_eq!(
        rack.status().await.out_of_service.unwrap().code.as_str(),
        "store.security-key",
        "another one"
    );
    fs::rename(&aside, &half).unwrap();
    rack.power_cycle();
    assert!(rack.status().await.in_service);
}
