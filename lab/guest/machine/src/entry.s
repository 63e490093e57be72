/*
 * From the PVH entry (32-bit, no paging) and the start of further processors (16-bit) to Rust at CPL3, and the
 * handlers at CPL0. Handlers use plain integer instructions only: some machines emulate CPL0.
 * Selectors and table layout are Linux's. Paging: identity, all pages open to CPL3.
 */
.set CODE32, 0x08
.set CODE, 0x10
.set DATA, 0x18
.set USER_DATA, 0x2b
.set USER_CODE, 0x33
.set TSS, 0x40
.set CPUS, 16
.set TSS_BYTES, 8448        /* 104 bytes, 8 KiB of I/O permissions, the byte that ends them */
.set TSS_LIMIT, 0x2068
.set USER_STACK, 32768
.set SERVICE, 0x5a00        /* RAX of a UD2 that asks a handler for a service; numbers as in arch.rs */
.set SERVICES, 6

.section .note.pvh, "a", @note
.balign 4
.long 4, 4, 18              /* XEN_ELFNOTE_PHYS32_ENTRY */
.asciz "Xen"
.long entry32

.section .text.entry, "ax"
.code32
.globl entry32
entry32:
    rdtsc
    movl %eax, first_tsc
    movl %edx, first_tsc + 4
    movl %ebx, start_info
    cld
    movl $tables + 0x1007, tables               /* PML4[0] */
    movl $tables + 0x2007, tables + 0x1000      /* the first four GiB in 2 MiB pages */
    movl $tables + 0x3007, tables + 0x1008
    movl $tables + 0x4007, tables + 0x1010
    movl $tables + 0x5007, tables + 0x1018
    movl $tables + 0x2000, %edi
    movl $0x87, %eax
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    jnc 1b
    xorl %ebp, %ebp                             /* processor 0 */

enter_long:
    movl $tables, %eax
    movl %eax, %cr3
    movl $0x620, %eax                           /* PAE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax                            /* EFER.LME */
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffff3, %eax                      /* caches on, no emulation of the FPU */
    orl $0x80000023, %eax                       /* PG, NE, MP, PE */
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $CODE, $long

ap32:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %ss
    movl $1, %ebp
    lock xaddl %ebp, next_cpu
    cmpl $CPUS, %ebp
    jb enter_long
2:  hlt
    jmp 2b

.code64
long:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    imull $4096, %ebp, %ecx
    leaq kernel_stacks + 4096(%rcx), %rcx
    movq %rcx, %rsp
    imull $TSS_BYTES, %ebp, %eax
    leaq tss(%rax), %rax
    movq %rcx, 4(%rax)                          /* RSP0 */
    movw $104, 102(%rax)
    movb $0xff, 104 + 8192(%rax)
    movl %ebp, %ecx                             /* the descriptor */
    shll $4, %ecx
    leaq gdt + TSS(%rcx), %rcx
    movw $TSS_LIMIT, (%rcx)
    movw %ax, 2(%rcx)
    shrl $16, %eax
    movb %al, 4(%rcx)
    movb $0x89, 5(%rcx)
    movb %ah, 7(%rcx)
    movl %ebp, %eax
    shll $4, %eax
    addl $TSS, %eax
    ltr %ax
    lidt idt_pointer
    imull $USER_STACK, %ebp, %ecx
    leaq user_stacks + USER_STACK - 8(%rcx), %rcx
    pushq $USER_DATA
    pushq %rcx
    pushq $2
    pushq $USER_CODE
    pushq $body
    movl %ebp, %edi
    iretq

/* Copied to 0x8000. */
.code16
.globl trampoline, trampoline_end
trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl gdt_pointer32 - trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap32
gdt_pointer32:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

.code64
.text
.globl vectors
.balign 16
vectors:
.set vector, 0
.rept 256
    .balign 16
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    pushq $0
    .endif
    pushq $vector
    jmp common
    .set vector, vector + 1
.endr

/* Stack: 0 rdx, 8 rcx, 16 rax, 24 vector, 32 error, 40 rip, 48 cs, 56 flags, 64 rsp, 72 ss */
common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    movl 24(%rsp), %eax
    cmpl $32, %eax
    jae interrupt
    cmpl $6, %eax
    je undefined
    cmpl $13, %eax
    je protection

fault:
    movl %eax, fault_vector
    movq 32(%rsp), %rcx
    movq %rcx, fault_error
    movq %cr2, %rcx
    movq %rcx, fault_address
    movq fault_resume, %rcx
    testq %rcx, %rcx
    jz 1f
    movq %rcx, 40(%rsp)
    movq fault_stack, %rcx
    movq %rcx, 64(%rsp)
    jmp leave
1:  movl %eax, %edi                             /* nobody expects it: fatal(vector, rip), at CPL3 */
    movq 40(%rsp), %rsi
    movq $fatal, 40(%rsp)
    movq $USER_CODE, 48(%rsp)
    movq $2, 56(%rsp)
    movq $user_stacks + USER_STACK - 8, 64(%rsp)
    movq $USER_DATA, 72(%rsp)
    jmp leave

interrupt:
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, interrupt_tsc
    movl 24(%rsp), %eax
    lock incl counters(, %rax, 4)
    cmpl $0xff, %eax                            /* spurious: no EOI */
    je leave
    leal -0x30(%rax), %ecx                      /* 0x30 + line: mask lines that stay raised */
    cmpl $24, %ecx
    jae 2f
    movl level_lines, %edx
    btl %ecx, %edx
    jnc 2f
    leal 0x10(, %rcx, 2), %ecx
    movl $0xfec00000, %edx
    movl (%rdx), %eax
    pushq %rax
    movl %ecx, (%rdx)
    movl 0x10(%rdx), %eax
    orl $0x10000, %eax
    movl %eax, 0x10(%rdx)
    popq %rax
    movl %eax, (%rdx)
2:  movl $0xfee000b0, %edx
    movl $0, (%rdx)

leave:
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

undefined:
    testb $3, 48(%rsp)
    jz fault
    movq 40(%rsp), %rcx
    cmpw $0x0b0f, (%rcx)
    jne fault
    movl 16(%rsp), %ecx
    subl $SERVICE, %ecx
    cmpl $SERVICES, %ecx
    jae fault
    addq $2, 40(%rsp)
    jmp *services(, %rcx, 8)
service_read:                                   /* RCX: register. RCX: 0 or 1 for refused, RDX: value */
    movl 8(%rsp), %ecx
    movq $0, 8(%rsp)
read_msr:
    rdmsr
    shlq $32, %rdx
    orq %rax, %rdx
    movq %rdx, (%rsp)
    jmp leave
service_write:                                  /* RCX: register, RDX: value. RCX as above */
    movl 8(%rsp), %ecx
    movl (%rsp), %eax
    movl 4(%rsp), %edx
    movq $0, 8(%rsp)
write_msr:
    wrmsr
    jmp leave
refused_msr:
    movq $1, 8(%rsp)
    jmp leave
service_interrupts:
    orl $0x200, 56(%rsp)
    jmp leave
service_flush:
    movq %cr3, %rax
    movq %rax, %cr3
    jmp leave
service_cpuid:                                  /* RCX: leaf, RDX: sub-leaf. Result in cpuid_words */
    pushq %rbx
    movl 16(%rsp), %eax
    movl 8(%rsp), %ecx
    cpuid
    movl %eax, cpuid_words
    movl %ebx, cpuid_words + 4
    movl %ecx, cpuid_words + 8
    movl %edx, cpuid_words + 12
    popq %rbx
    jmp leave
service_triple:
    lidt no_idt
    ud2

/* RDI: a counter, RSI: its value when last seen. Returns when it has changed or after some interrupt. */
.globl idle
idle:
    hlt
    ret

protection:
    movq 40(%rsp), %rcx
    testb $3, 48(%rsp)
    jz 3f
    cmpb $0xf4, (%rcx)
    jne fault
    incq 40(%rsp)
    cmpl (%rdi), %esi
    jne leave
    sti
    hlt
    cli
    jmp leave
3:  cmpq $read_msr, %rcx
    je 4f
    cmpq $write_msr, %rcx
    jne fault
4:  movq $refused_msr, 40(%rsp)
    jmp leave

/* attempt(f, argument): the vector of the fault that f raised, or -1. */
.globl attempt
attempt:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, fault_stack
    movl $-1, fault_vector
    movq $5f, fault_resume
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
5:  movq $0, fault_resume
    movl fault_vector, %eax
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

/* What the compiler calls by itself. */
.globl memcpy, memmove, memset, memcmp, bcmp, rust_eh_personality, _Unwind_Resume
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
    je 6f
    movzbl -1(%rdi), %ecx
    movzbl -1(%rsi), %eax
    subl %eax, %ecx
    movl %ecx, %eax
6:  ret
rust_eh_personality:
_Unwind_Resume:
    ud2

.data
.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0
    .fill CPUS * 2, 8, 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
no_idt:
    .word 0
    .quad 0
.balign 8
services:
    .quad service_read, service_write, service_interrupts, service_flush, service_cpuid, service_triple
next_cpu:
    .long 1

.bss
.globl tables, idt, counters, first_tsc, start_info, level_lines, interrupt_tsc, cpuid_words
.globl fault_vector, fault_error, fault_address
.balign 4096
tables: .skip 6 * 4096
idt: .skip 4096
kernel_stacks: .skip CPUS * 4096
user_stacks: .skip CPUS * USER_STACK
tss: .skip CPUS * TSS_BYTES
counters: .skip 1024
first_tsc: .skip 8
interrupt_tsc: .skip 8
fault_resume: .skip 8
fault_stack: .skip 8
fault_error: .skip 8
fault_address: .skip 8
fault_vector: .skip 4
start_info: .skip 4
level_lines: .skip 4
cpuid_words: .skip 16
