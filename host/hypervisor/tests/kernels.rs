//! Kernels are hostile: whatever their headers say, they load or are refused, and what is loaded is what was measured.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "kvm/image.rs"]
mod image;

use hypervisor::{
    boot::{BootError, Entry, Image, Source, load},
    layout::KERNEL,
    memory::Memory,
};
use image::{bz_image, elf, sealed};
use proptest::{collection::vec, prelude::*};
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};

const MEMORY: u64 = 8 << 20;
const CODE: &[u8] = &[0xF4, 0xEB, 0xFD];

fn start(kernel: &[u8], initrd: Option<&[u8]>) -> Result<(Entry, String), BootError> {
    let memory = Memory::new(MEMORY).unwrap();
    let kernel = Source::new("kernel", sealed(kernel))?;
    let initrd = initrd.map(|bytes| Source::new("initial RAM disk", sealed(bytes)).unwrap());
    let image = Image { kernel: &kernel, initrd: initrd.as_ref(), command_line: "", rsdp: 0xE_0000 };
    load(&memory, &image).map(|(entry, measurement)| (entry, measurement.kernel))
}

/// Loaded or refused; loaded kernels begin in memory and are measured as they are.
fn check(kernel: &[u8]) {
    if let Ok((entry, measured)) = start(kernel, None) {
        let (Entry::Long { ip } | Entry::Pvh { ip }) = entry;
        assert!((KERNEL..MEMORY).contains(&ip), "{entry:?}");
        let digest: String = Sha256::digest(kernel).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(measured, digest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn headers_may_say_anything(
        linux: bool,
        changes in vec((0..0x300usize, any::<u8>()), 0..8),
        words in vec((0..0x280usize, prop::sample::select(vec![0u64, 1, u64::MAX, 1 << 31, 1 << 63, MEMORY - 1])), 0..3),
        cut in 0..9000usize,
    ) {
        let mut kernel = if linux { bz_image(CODE) } else { elf(CODE) };
        for (at, byte) in changes {
            kernel.get_mut(at).into_iter().for_each(|to| *to = byte);
        }
        for (at, word) in words {
            kernel.iter_mut().skip(at).zip(word.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        }
        kernel.truncate(cut.max(1));
        check(&kernel);
    }

    #[test]
    fn bytes_may_be_anything(kernel in vec(any::<u8>(), 1..600)) {
        check(&kernel);
    }
}

#[test]
fn whole_kernels_load_and_what_does_not_fit_is_refused() {
    assert_eq!(start(&elf(CODE), Some(b"initial")).unwrap().0, Entry::Pvh { ip: KERNEL });
    assert_eq!(start(&bz_image(CODE), Some(b"initial")).unwrap().0, Entry::Long { ip: KERNEL + 0x200 });
    let large = vec![1; usize::try_from(MEMORY - KERNEL).unwrap()];
    for kernel in [elf(CODE), bz_image(CODE)] {
        assert!(matches!(start(&kernel, Some(&large)), Err(BootError::TooLarge("initial RAM disk"))));
    }
    assert!(matches!(start(&bz_image(&large), None), Err(BootError::TooLarge("kernel"))));
}

#[test]
fn a_kernel_that_can_still_change_is_refused() {
    let open = memfd_create("kernel", MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(matches!(Source::new("kernel", open), Err(BootError::Unsealed("kernel"))));
    let file = std::fs::File::open("Cargo.toml").unwrap();
    assert!(matches!(Source::new("kernel", file.into()), Err(BootError::Unsealed("kernel"))));
}
