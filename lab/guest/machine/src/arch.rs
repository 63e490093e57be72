//! The processor and the bus: everything that is `unsafe` in the guest.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

global_asm!(include_str!("entry.s"), options(att_syntax));

/// Interrupt vector of the local timer.
pub(crate) const TIMER: u8 = 0x20;
/// Interrupt vector that processors send to each other.
pub(crate) const CALL: u8 = 0x21;
/// Vector of I/O interrupt line 0.
pub(crate) const LINES: u8 = 0x30;
/// First vector for MSI-X.
pub(crate) const MESSAGES: u8 = 0x60;
/// Where the code for further processors is put.
pub(crate) const TRAMPOLINE: u64 = 0x8000;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; 512]>);
// SAFETY: written by processor 0 only, in `map_gib`; the processor reads it as page tables.
unsafe impl Sync for Page {}
/// Page directories beyond the first 4 GiB, and one directory-pointer table for 512 GiB on.
static MORE: [Page; 10] = [const { Page(UnsafeCell::new([0; 512])) }; 10];

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static vectors: u8;
    static trampoline: u8;
    static trampoline_end: u8;
    static mut idt: [u64; 512];
    static mut tables: [u64; 512 * 6];
    static counters: [AtomicU32; 256];
    static level_lines: AtomicU32;
    static first_tsc: AtomicU64;
    static interrupt_tsc: AtomicU64;
    static start_info: AtomicU32;
    static cpuid_words: [AtomicU32; 4];
    static fault_error: AtomicU64;
    static fault_address: AtomicU64;
    fn attempt(code: extern "C" fn(u64), argument: u64) -> i32;
    fn idle(counter: *const AtomicU32, seen: u32);
}

/// A number that lies in memory or in a register of a device.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

/// The image: code, tables and stacks. Everything else is free for `peek` and `poke`.
pub(crate) fn image() -> (u64, u64) {
    (&raw const image_start as u64, &raw const image_end as u64)
}

fn outside_image<T>(address: u64) {
    let (start, end) = image();
    let last = address.saturating_add(size_of::<T>() as u64);
    assert!(last <= start || address >= end, "access to the image at {address:#x}");
}

/// Reads guest-physical memory or a register. An address that is not mapped faults.
#[inline]
pub(crate) fn peek<T: Plain>(address: u64) -> T {
    outside_image::<T>(address);
    // SAFETY: outside the image there is nothing that Rust knows of; any bits are a valid `T`.
    unsafe { read_volatile(address as *const T) }
}

/// Writes guest-physical memory or a register.
#[inline]
pub(crate) fn poke<T: Plain>(address: u64, value: T) {
    outside_image::<T>(address);
    // SAFETY: outside the image there is nothing that Rust knows of.
    unsafe { write_volatile(address as *mut T, value) }
}

macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        /// Reads a port.
        #[inline]
        pub(crate) fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: no port of these machines writes to memory without being told an address by `poke`.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack)) };
            value
        }
        /// Writes a port.
        #[inline]
        pub(crate) fn $write(port: u16, value: $type) {
            // SAFETY: no port of these machines writes to memory without being told an address by `poke`.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nomem, nostack)) };
        }
    };
}
port!(in8, out8, u8, "al");
port!(in16, out16, u16, "ax");
port!(in32, out32, u32, "eax");

/// Writes bytes to one port with one instruction.
pub(crate) fn out_string(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes` only.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack)
        );
    };
}

/// Reads bytes from one port with one instruction.
pub(crate) fn in_string(port: u16, bytes: &mut [u8]) {
    // SAFETY: writes `bytes` only.
    unsafe {
        asm!(
            "rep insb",
            in("dx") port,
            inout("rdi") bytes.as_mut_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack)
        );
    };
}

/// The time-stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter at the first instruction.
pub(crate) fn started() -> u64 {
    // SAFETY: a static of entry.s, written before Rust runs.
    unsafe { first_tsc.load(Ordering::Relaxed) }
}

/// The time-stamp counter in the last interrupt's handler.
pub(crate) fn interrupted() -> u64 {
    // SAFETY: a static of entry.s, written whole.
    unsafe { interrupt_tsc.load(Ordering::Acquire) }
}

/// Address of the PVH start info.
pub(crate) fn start() -> u64 {
    // SAFETY: a static of entry.s, written before Rust runs.
    u64::from(unsafe { start_info.load(Ordering::Relaxed) })
}

/// Asks the handlers at CPL0 for a service: (RCX, RDX) as they answer.
fn service(number: u64, rcx: u64, rdx: u64) -> (u64, u64) {
    let (mut c, mut d) = (rcx, rdx);
    // SAFETY: the handler keeps all other registers; see entry.s.
    unsafe { asm!("ud2", in("rax") 0x5a00 + number, inout("rcx") c, inout("rdx") d) };
    (c, d)
}

/// Reads a model-specific register; `None` if the processor refuses.
pub(crate) fn read_msr(register: u32) -> Option<u64> {
    let (refused, value) = service(0, u64::from(register), 0);
    (refused == 0).then_some(value)
}

/// Writes a model-specific register; false if the processor refuses.
pub(crate) fn write_msr(register: u32, value: u64) -> bool {
    service(1, u64::from(register), value).0 == 0
}

/// Lets interrupts come from now on.
pub(crate) fn interrupts_on() {
    service(2, 0, 0);
}

/// Forgets cached translations. Also the cheapest service: one fault and one return.
pub(crate) fn flush() {
    service(3, 0, 0);
}

/// CPUID as CPL0 sees it: EAX, EBX, ECX, EDX. Processor 0 only.
pub(crate) fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    service(4, u64::from(leaf), u64::from(sub));
    // SAFETY: a static of entry.s.
    unsafe { &cpuid_words }.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// Ends this machine the hard way.
pub(crate) fn triple_fault() -> ! {
    loop {
        service(5, 0, 0);
    }
}

/// How often a vector came, on all processors.
pub(crate) fn count(vector: u8) -> u32 {
    counter(vector).load(Ordering::Acquire)
}

/// The counter of a vector, to sleep on.
pub(crate) fn counter(vector: u8) -> &'static AtomicU32 {
    // SAFETY: a static of entry.s; the handlers write it with locked instructions.
    unsafe { &counters[usize::from(vector)] }
}

/// Sleeps until an interrupt, unless the counter differs from `seen` already.
pub(crate) fn sleep(counter: &AtomicU32, seen: u32) {
    // SAFETY: the handler behind HLT reads the counter and nothing else.
    unsafe { idle(counter, seen) }
}

/// Lines whose handler masks them before it ends the interrupt: those that stay raised until served.
pub(crate) fn mask_when_served(line: u8) {
    // SAFETY: a static of entry.s.
    unsafe { &level_lines }.fetch_or(1 << line, Ordering::Relaxed);
}

/// A fault: vector, error code, address for page faults.
pub(crate) struct Fault {
    /// Exception vector.
    pub(crate) vector: i32,
    /// Error code; 0 for vectors without.
    pub(crate) error: u64,
    /// CR2.
    pub(crate) address: u64,
}

/// Runs `code` and catches the fault it raises. Processor 0 only.
pub(crate) fn fault_of(code: extern "C" fn(u64), argument: u64) -> Option<Fault> {
    // SAFETY: `code` owns nothing that must be dropped: it is plain instructions.
    let vector = unsafe { attempt(code, argument) };
    // SAFETY: a static of entry.s, written whole.
    let error = unsafe { fault_error.load(Ordering::Relaxed) };
    // SAFETY: a static of entry.s, written whole.
    let address = unsafe { fault_address.load(Ordering::Relaxed) };
    (vector >= 0).then_some(Fault { vector, error, address })
}

/// Raises an invalid-opcode fault.
pub(crate) extern "C" fn undefined(_: u64) {
    // SAFETY: faults; RAX is no service's number.
    unsafe { asm!("ud2", in("rax") 0) };
}

/// Divides by its argument.
pub(crate) extern "C" fn divide(by: u64) {
    // SAFETY: faults if `by` is 0.
    unsafe { asm!("div {}", in(reg) by, inout("rax") 1u64 => _, inout("rdx") 0u64 => _) };
}

/// Uses an instruction that CPL3 may not.
pub(crate) extern "C" fn privileged(_: u64) {
    // SAFETY: faults at CPL3.
    unsafe { asm!("mov {}, cr0", out(reg) _) };
}

/// Reads memory.
pub(crate) extern "C" fn load(address: u64) {
    peek::<u8>(address);
}

/// Adds with a locked read-modify-write.
pub(crate) fn locked_or(address: u64, bits: u32) {
    outside_image::<u32>(address);
    // SAFETY: outside the image.
    unsafe { asm!("lock or dword ptr [{}], {:e}", in(reg) address, in(reg) bits, options(nostack)) };
}

/// Fills the interrupt table and copies the code for further processors.
pub(crate) fn install() {
    let first = &raw const vectors as u64;
    for vector in 0..256u64 {
        let at = first + 16 * vector;
        let low = at & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48;
        let entry = (&raw mut idt).cast::<u64>().wrapping_add(2 * vector as usize);
        // SAFETY: inside the table; no interrupt is let through yet.
        unsafe { entry.write(low) };
        // SAFETY: the second half of the same entry.
        unsafe { entry.wrapping_add(1).write(at >> 32) };
    }
    let (from, to) = (&raw const trampoline, &raw const trampoline_end as usize);
    for at in 0..to - from as usize {
        // SAFETY: inside the trampoline's code.
        poke(TRAMPOLINE + at as u64, unsafe { from.wrapping_add(at).read() });
    }
}

/// Maps the GiB around `address` one to one, if it is not. Up to 1 TiB; false if there is no table left.
pub(crate) fn map_gib(address: u64) -> bool {
    static USED: AtomicU32 = AtomicU32::new(0);
    let top = (&raw mut tables).cast::<u64>();
    let gib = address >> 30;
    let new_table = || {
        let table = MORE.get(USED.fetch_add(1, Ordering::Relaxed) as usize)?;
        Some(table.0.get().cast::<u64>())
    };
    // Present, writable, user; directories hold 2 MiB pages.
    let pointers = match gib {
        0..512 => top.wrapping_add(512),
        512..1024 => {
            // SAFETY: the second entry of the top table.
            let held = unsafe { top.wrapping_add(1).read_volatile() };
            if held == 0 {
                let Some(table) = new_table() else { return false };
                // SAFETY: the second entry of the top table.
                unsafe { top.wrapping_add(1).write_volatile(table as u64 | 7) };
                table
            } else {
                (held & !0xfff) as *mut u64
            }
        }
        _ => return false,
    };
    let slot = pointers.wrapping_add((gib & 511) as usize);
    // SAFETY: inside the directory-pointer table.
    if unsafe { slot.read_volatile() } != 0 {
        return true;
    }
    let Some(directory) = new_table() else { return false };
    for page in 0..512 {
        // SAFETY: inside the new directory.
        unsafe { directory.wrapping_add(page).write_volatile(gib << 30 | (page as u64) << 21 | 0x87) };
    }
    // SAFETY: inside the directory-pointer table.
    unsafe { slot.write_volatile(directory as u64 | 7) };
    flush();
    true
}
