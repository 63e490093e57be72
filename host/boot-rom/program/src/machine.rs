//! Everything that is `unsafe` in the program: how it starts, what the compiler calls by itself, and the three system
//! calls that only it makes.

use boot_rom::Refusal;
use core::{
    arch::{asm, global_asm},
    ffi::{CStr, c_char},
    ptr::null,
};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};

global_asm!(
    r#"
.globl _start
_start:
    xorl %ebp, %ebp
    movq %rsp, %rdi
    andq $-16, %rsp
    call start
    ud2

.globl memcpy, memmove, memset, memcmp, bcmp, strlen, rust_eh_personality, _Unwind_Resume
memmove:
    movq %rdi, %rax
    subq %rsi, %rax
    cmpq %rdx, %rax
    jae memcpy
    movq %rdi, %rax
    movq %rdx, %rcx
    leaq -1(%rdi, %rdx), %rdi
    leaq -1(%rsi, %rdx), %rsi
    std
    rep movsb
    cld
    ret
memcpy:
    movq %rdi, %rax
    movq %rdx, %rcx
    rep movsb
    ret
memset:
    movq %rdi, %r8
    movl %esi, %eax
    movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret
memcmp:
bcmp:
    movq %rdx, %rcx
    xorl %eax, %eax
    cmpl %eax, %eax
    repe cmpsb
    je 1f
    movzbl -1(%rdi), %ecx
    movzbl -1(%rsi), %eax
    subl %eax, %ecx
    movl %ecx, %eax
1:  ret
strlen:
    movq $-1, %rcx
    xorl %eax, %eax
    repne scasb
    notq %rcx
    leaq -1(%rcx), %rax
    ret
rust_eh_personality:
_Unwind_Resume:
    ud2
"#,
    options(att_syntax)
);

const DUP2: usize = 33;
const EXIT_GROUP: usize = 231;
const EXECVEAT: usize = 322;
const CLOSE_RANGE: usize = 436;
const AT_EMPTY_PATH: usize = 0x1000;

/// A system call of Linux on x86-64.
///
/// # Safety
/// As the call demands.
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel clobbers rcx and r11 only; the rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The command line and the environment, as the kernel laid them out (System V ABI, x86-64 supplement, §3.4.1).
pub(crate) struct Words {
    count: usize,
    first: *mut *const c_char,
}

impl Words {
    fn at(&self, at: usize) -> Option<&'static CStr> {
        if at >= self.count {
            return None;
        }
        // SAFETY: below `count` there are pointers, in memory that lives as long as the process.
        let word = unsafe { *self.first.wrapping_add(at) };
        // SAFETY: they point to texts that end with a zero and live as long as the process.
        Some(unsafe { CStr::from_ptr(word) })
    }

    /// The command line.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static CStr> {
        (0..self.count).map_while(|at| self.at(at))
    }

    /// Becomes `image`, which is called `name` and gets the words after the one at `at`, and of the environment
    /// nothing: what a host does depends on nobody's environment. Returns only if the system refuses.
    pub(crate) fn become_image(&mut self, image: OwnedFd, at: usize, name: &'static CStr) -> Refusal {
        if at >= self.count {
            return Refusal::Arguments;
        }
        let arguments = self.first.wrapping_add(at);
        // SAFETY: below `count` there are pointers, and the kernel gave this memory to the process to write; &mut self
        // keeps others from reading it meanwhile.
        unsafe { *arguments = name.as_ptr() };
        let environment: [*const c_char; 1] = [null()];
        let descriptor = image.as_raw_fd() as usize;
        let arguments =
            [descriptor, c"".as_ptr() as usize, arguments as usize, environment.as_ptr() as usize];
        let [a, b, c, d] = arguments;
        // SAFETY: both lists end with a null pointer, the first one where the kernel put it.
        unsafe { call(EXECVEAT, [a, b, c, d, AT_EMPTY_PATH]) };
        Refusal::Start
    }
}

/// Makes `from` the descriptor `to` of the next program, in place of what `to` was: nothing of this program that is
/// still in use.
pub(crate) fn place(from: BorrowedFd<'_>, to: i32) -> Result<(), Refusal> {
    let (from, to) = (from.as_raw_fd() as usize, to as usize);
    // SAFETY: no memory is touched; `rom` keeps what it uses at higher numbers.
    let done = unsafe { call(DUP2, [from, to, 0, 0, 0]) };
    if done < 0 { Err(Refusal::Start) } else { Ok(()) }
}

/// Closes all that whoever started this process left open, but for standard input, output and error.
pub(crate) fn close_inherited() -> Result<(), Refusal> {
    // SAFETY: no memory is touched, and no value of this program owns a descriptor yet.
    let done = unsafe { call(CLOSE_RANGE, [3, u32::MAX as usize, 0, 0, 0]) };
    if done < 0 { Err(Refusal::Start) } else { Ok(()) }
}

/// Standard error, as whoever started this process gave it.
pub(crate) fn standard_error() -> BorrowedFd<'static> {
    // SAFETY: this program never closes it; if it was closed before, a write fails or, while this program has few
    // files open, cannot reach one of them: those lie at higher numbers.
    unsafe { BorrowedFd::borrow_raw(2) }
}

fn exit(status: usize) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0, 0]) };
    }
}

/// Called once, with the stack as the kernel left it.
#[unsafe(no_mangle)]
extern "C" fn start(stack: *mut usize) -> ! {
    // SAFETY: the kernel has put the count there, and the pointers after it, for as long as the process lives.
    let count = unsafe { *stack };
    let first = stack.wrapping_add(1).cast();
    crate::main(&mut Words { count, first });
    exit(1)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::system::say(format_args!("azote-boot-rom: a defect of the boot ROM itself\n"));
    exit(1)
}
