//! The image on a plain QEMU with its own NVMe: firmware, Debian's kernel, a shell, and an orderly end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use image::{PROMPT, READY};
use parts::{Parts, Tool};
use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

struct Guest {
    qemu: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Guest {
    fn start(mut command: Command) -> Self {
        let mut qemu = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, output) = mpsc::channel();
        let mut pipe = qemu.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                if send.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { input: qemu.stdin.take().unwrap(), qemu, output, seen: String::new() }
    }

    /// What the guest printed up to `text`, from where the last call ended.
    fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(at) = self.seen.find(text) {
                return self.seen.drain(..at + text.len()).collect();
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} in:\n{}", self.seen),
            }
        }
    }

    fn run(&mut self, command: &str) -> String {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.until(PROMPT)
    }
}

fn machine(parts: &Parts, image: &Path) -> Command {
    let mut qemu = parts.command(Tool::Qemu);
    qemu.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-machine", "q35"]);
    qemu.args(["-accel", "tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", "512"]);
    for flash in [parts.firmware_code(), parts.firmware_variables()] {
        qemu.arg("-drive").arg(format!("if=pflash,format=raw,snapshot=on,file={}", flash.display()));
    }
    qemu.arg("-drive").arg(format!("if=none,id=root,format=raw,snapshot=on,file={}", image.display()));
    qemu.args(["-device", "nvme,serial=test-disk,drive=root,bootindex=0"]);
    qemu
}

#[test]
fn debians_kernel_boots_from_nvme_to_a_root_shell_and_ends_in_order() {
    let parts = Parts::locate_or_fetch(&parts::default_dir(), &mut |at| println!("{at}")).unwrap();
    let image = image::build(&parts, &parts::default_dir(), &mut |at| println!("{at}")).unwrap();
    let began = Instant::now();
    let mut guest = Guest::start(machine(&parts, &image));
    let told = guest.until(READY);
    println!("ready after {:.1} s", began.elapsed().as_secs_f32());
    let kernel = parts.kernel().file_name().unwrap().to_string_lossy().replace("vmlinuz-", "kernel ");
    for line in [kernel.as_str(), "root nvme0n1p2", "nvme0 QEMU NVMe Ctrl test-disk"] {
        assert!(told.contains(&format!("azote-guest: {line}\r\n")), "no {line:?} in:\n{told}");
    }
    guest.until(PROMPT);
    assert!(guest.run("id -u; echo $((6 * 7))").contains("0\r\n42\r\n"));
    // The flash ends where 4 GiB end; a guest's root may read it, and write to it.
    let firmware = std::fs::read(parts.firmware_code()).unwrap();
    let start = (1_u64 << 32) - firmware.len() as u64;
    let byte = format!("\n0x{:02X}\r\n", firmware[0x48]);
    let read = guest.run(&format!("devmem {:#x} 8", start + 0x48));
    assert!(read.contains(&byte), "{byte:?} in {read:?}");
    guest.input.write_all(b"poweroff\n").unwrap();
    let end = guest.until("Power down");
    assert!(!end.contains("can't"), "{end}");
    assert!(guest.qemu.wait().unwrap().success());
}
