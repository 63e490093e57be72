//! What runs on the host and is not the host's: a guest with root, a card that was taken over, a clock that somebody
//! sets; and keys that belong to another volume.

use crate::{
    Outcome,
    crew::{ALICE, Ask, CONTROL_PLANE, Code, refused},
    play::{Act, Scenario},
    stage::Stage,
};
use host_api::{Api, AttachVolume, ReadStatus, Resource, SealedKey, StopInstance};
use ids::{InstanceId, VolumeId};
use rustix::process::Signal;
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};
use wire::{Link, chip};

/// How long the rule on clocks keeps another alarm of its kind back.
const CLOCK_AGAIN: Duration = Duration::from_secs(10);
/// Longest that a guest may take to boot or to answer.
const GUEST: Duration = Duration::from_secs(90);
/// A physical address in the main board's firmware, which ends at 4 GiB.
const FIRMWARE: u64 = 0xffe0_0000;
/// Has a guest's shell and tools in memory.
const TO_MEMORY: &str = "cp /bin/busybox /bin/flash /tmp && cd /tmp && for a in sh cat devmem printf sed id; \
    do ln -s busybox $a; done && export PATH=/tmp";
const HOUR: i64 = 3600;

pub(crate) fn then() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "control plane attaches a volume with another volume's key",
            wrong_key,
            "key.sealed",
            "wrong-key",
        )
        .says(&["key.sealed"]),
        Scenario::new(
            "guest with root writes to its firmware flash while the controller is dead",
            firmware,
            "chip.write-refused",
            "firmware-write",
        )
        .says(&["chip.write-refused"])
        // Nobody is blamed for what a host does not tell while it cannot be read: the gaps before would be late.
        .alone(),
    ]
}

pub(crate) fn last() -> Vec<Scenario> {
    vec![
        Scenario::new("time travel: the host's clock is set forward", forward, "clock.ahead", "clock-jumped")
            .says(&["clock.jumped"])
            .alone(),
        Scenario::new(
            "time travel: the host's clock is set back to revive a token",
            back,
            "token.expired",
            "clock-jumped",
        )
        .says(&["clock.jumped"])
        .waits(CLOCK_AGAIN)
        .alone(),
        Scenario::new("taken-over card makes a connection outward", outbound, "card.gone", "outbound")
            .says(&["sandbox.outbound"])
            .alone(),
    ]
}

/// Runs `azote` and gives one text of what it printed.
fn azote(stage: &Stage, what: &str, arguments: &[&str]) -> Outcome<String> {
    let value = stage.rack.azote(arguments)?;
    let text = value.get(what).and_then(|id| id.as_str()).map(str::to_owned);
    text.ok_or_else(|| format!("azote {} gave no {what}", arguments.join(" ")))
}

/// The key is sealed to this host's card, for another volume: the card must find that it is not this volume's.
fn wrong_key(stage: &mut Stage) -> Outcome<Act> {
    let id = azote(stage, "id", &["volume", "create", "--size", "1MiB"])?;
    let crew = &stage.crew;
    let status = crew.does(ALICE, &Ask::new(Api::HostStatus, crew.here()), &ReadStatus {})??;
    let card = status.card.and_then(|card| card.certificate).ok_or("the host has no card")?;
    let certificate = crew.card(&card.to_bytes(), &status.certificate.to_string())?;
    let context = seal::Context { host: crew.host.clone(), volume: VolumeId::from_random(3) };
    let key = seal::VolumeKey::generate().map_err(|e| e.to_string())?;
    let sealed = seal::seal(&certificate.public_key, &context, &key).map_err(|e| e.to_string())?;
    let volume: VolumeId = id.parse().map_err(|e| format!("{id}: {e}"))?;
    let call = AttachVolume {
        volume: volume.clone(),
        device_name: "/dev/sdz".to_owned().try_into().map_err(|e| format!("{e}"))?,
        size: 1 << 20,
        instance: None,
        slot: 16.try_into().map_err(|e| format!("{e}"))?,
        sealed_key: SealedKey::from_bytes(&sealed).map_err(|e| e.to_string())?,
    };
    let token = crew.given(CONTROL_PLANE, &Ask::new(Api::AttachVolume, Resource::Volume(volume)))?;
    Act::once(|| crew.call(CONTROL_PLANE, &token, &call).map(refused))
}

/// Boots a guest and has its root write to the flash, where it is mapped and over SPI, while the controller is dead: the
/// security chip holds what it holds, and the controller that comes back hears of it. The code is what the host's log
/// has of it, which its alarm must carry; that the flash is as before, we see ourselves.
fn firmware(stage: &mut Stage) -> Outcome<Act> {
    let parts =
        parts::Parts::locate_or_fetch(&parts::default_dir(), &mut |_| {}).map_err(|e| e.to_string())?;
    let image = image::build(&parts, &parts::default_dir(), &mut |_| {}).map_err(|e| e.to_string())?;
    let volume = azote(stage, "id", &["volume", "create", "--image", &image.display().to_string()])?;
    azote(stage, "volume", &["volume", "attach", &volume])?;
    azote(stage, "instance", &["instance", "start", &volume])?;
    let path = stage.rack.state.join("run/console");
    let mut console = UnixStream::connect(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    booted(&mut console)?;
    // The volume goes with the controller: what is needed must be in memory.
    types(&mut console, &format!("{TO_MEMORY}; echo copied-$?"), "copied-0")?;
    let flash = stage.rack.state.join("flash/code.bin");
    let before = fs::read(&flash).map_err(|e| e.to_string())?;
    let controller = stage.rack.unit("controller")?;
    stage.rack.end("controller", Signal::KILL)?;
    let attacked = attack(console, &stage.rack.state.join("run/chip"));
    stage.rack.start(&controller)?;
    attacked?;
    let at = Instant::now();
    stage.told("firmware-write", at)?;
    let same = fs::read(&flash).map_err(|e| e.to_string())? == before;
    Ok(Act { codes: vec![if same { "chip.write-refused" } else { "the flash was written" }.to_owned()], at })
}

/// Writes to the flash, as a guest's root, under a chip without a controller.
fn attack(mut console: UnixStream, chip: &Path) -> Outcome<()> {
    let (chip, refused) = asked(chip)?;
    // Byte program, the byte, and back to reading: the commands of a CFI flash.
    let program = format!("for v in 0x40 0x00 0xff; do devmem {FIRMWARE:#x} 8 $v; done; echo rung-$?");
    types(&mut console, &program, "rung-0")?;
    types(&mut console, "sh flash attack 100000", "flash: nothing has changed")?;
    let (lines, more) = held(&chip)?;
    if lines == chip::Lines::RELEASED && more >= refused + 3 {
        return Ok(());
    }
    Err(format!("the chip without a controller: {lines:?}, {refused} writes refused, then {more}"))
}

/// A connection to the chip, and how many writes it has refused. It has one controller: of one that was killed, some
/// thread may end later than the rest.
fn asked(path: &Path) -> Outcome<(Link<chip::Request, chip::Reply>, u64)> {
    let start = Instant::now();
    loop {
        let chip = wire::connect(path).map_err(|e| e.to_string())?;
        match held(&chip) {
            Ok((_, refused)) => return Ok((chip, refused)),
            Err(_) if start.elapsed() < Duration::from_secs(5) => sleep(Duration::from_millis(10)),
            Err(error) => return Err(error),
        }
    }
}

/// How the chip's lines are, and how many writes it has refused.
fn held(chip: &Link<chip::Request, chip::Reply>) -> Outcome<(chip::Lines, u64)> {
    match chip.call(&chip::Request::Status, &[]) {
        Ok(chip::Reply::Status { lines, refused_writes }) => Ok((lines, refused_writes)),
        other => Err(format!("the chip does not tell its status: {other:?}")),
    }
}

/// Waits for a guest's shell, which is typed at again and again: a guest that boots does not listen yet.
fn booted(console: &mut UnixStream) -> Outcome<()> {
    typed(console, "echo up-$((6*7))", "up-42", Duration::from_secs(5))
}

/// Types a command at a guest's shell, once, and waits until it prints `wanted` on a line of its own.
fn types(console: &mut UnixStream, command: &str, wanted: &str) -> Outcome<()> {
    typed(console, command, wanted, GUEST)
}

fn typed(console: &mut UnixStream, command: &str, wanted: &str, again: Duration) -> Outcome<()> {
    console.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
    let (start, mut seen) = (Instant::now(), String::new());
    let mut last: Option<Instant> = None;
    while start.elapsed() < GUEST {
        if last.is_none_or(|at| at.elapsed() > again) {
            console.write_all(format!("{command}\n").as_bytes()).map_err(|e| e.to_string())?;
            last = Some(Instant::now());
        }
        let mut bytes = [0; 4096];
        if let Ok(count) = console.read(&mut bytes) {
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        if seen.lines().any(|line| line.trim() == wanted) {
            return Ok(());
        }
    }
    let tail: String = seen.chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
    Err(format!("the guest did not answer `{command}` with {wanted}: {tail}"))
}

/// Runs the host with a clock that can be set, sets it, makes a call, and puts things right again.
fn clock(
    stage: &mut Stage,
    set: i64,
    call: impl FnOnce(&mut Stage) -> Outcome<Result<(), Code>>,
) -> Outcome<Act> {
    stage.set_clock(0)?;
    stage.shimmed("azote-controller", |stage| {
        let at = Instant::now();
        stage.set_clock(set)?;
        let tried = call(stage).map(refused);
        let told = stage.told("clock-jumped", at);
        stage.set_clock(0)?;
        told?;
        Ok(Act { codes: vec![tried?], at })
    })
}

/// Nothing is changed on a host that does not know the time; it can be looked at.
fn forward(stage: &mut Stage) -> Outcome<Act> {
    clock(stage, HOUR, |stage| {
        let crew = &stage.crew;
        crew.does(ALICE, &Ask::new(Api::HostStatus, crew.here()), &ReadStatus {})??;
        let instance = InstanceId::from_random(1);
        let ask = Ask::new(Api::StopInstance, Resource::Instance(instance.clone()));
        crew.does(CONTROL_PLANE, &ask, &StopInstance { instance, force: true }).map(|done| done.map(drop))
    })
}

/// A token that was good before the clock was set, and whose time has passed since.
fn back(stage: &mut Stage) -> Outcome<Act> {
    let life = Duration::from_secs(1);
    clock(stage, -HOUR, |stage| {
        let ask = Ask { life, ..Ask::new(Api::HostStatus, stage.crew.here()) };
        let token = stage.crew.given(ALICE, &ask)?;
        sleep(life + Duration::from_millis(1100));
        Ok(stage.crew.call(ALICE, &token, &ReadStatus {})?.map(drop))
    })
}

/// The card runs as ever, until something in it connects outward: the kernel ends it, and the host has no card.
fn outbound(stage: &mut Stage) -> Outcome<Act> {
    stage.shimmed("azote-volume-card", |stage| {
        let at = Instant::now();
        stage.connect_outward()?;
        let crew = &stage.crew;
        let status = || crew.does(ALICE, &Ask::new(Api::HostStatus, crew.here()), &ReadStatus {});
        // Whatever it is asked sets it to work.
        status()??;
        let told = stage.told("outbound", at);
        let status = status()??;
        let gone = status.card.is_none_or(|card| card.certificate.is_none());
        told?;
        Ok(Act { codes: vec![if gone { "card.gone" } else { "the card goes on" }.to_owned()], at })
    })
}
