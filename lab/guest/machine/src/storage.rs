//! What an NVMe function must do, through the driver of `nvme`.

use crate::apic;
use crate::arch::{count, peek, poke};
use crate::machine::Machine;
use crate::nvme::{DEPTH, MOST, Nvme, command};
use crate::report::{Outcome, Time, fail, require, skip, text};

/// The controller under test, started by the first check of it.
fn nvme(machine: &mut Machine) -> Outcome<Nvme> {
    match machine.nvme.take() {
        Some(nvme) => Ok(nvme),
        None => Nvme::start(machine, Nvme::find()?),
    }
}

/// Runs a check and keeps the controller for the next one, if it passed.
fn with(machine: &mut Machine, check: fn(&mut Machine, &mut Nvme) -> Outcome) -> Outcome {
    let mut nvme = nvme(machine)?;
    let value = check(machine, &mut nvme)?;
    machine.nvme = Some(nvme);
    Ok(value)
}

fn pattern(block: u64, word: u64, round: u64) -> u64 {
    (block << 20 | word << 4 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(memory: u64, block: u64, bytes: u64, round: u64) {
    (0..bytes / 8).for_each(|word| poke(memory + 8 * word, pattern(block, word, round)));
}

fn holds(memory: u64, block: u64, bytes: u64, round: u64) -> Outcome<()> {
    for word in 0..bytes / 8 {
        let (found, wanted) = (peek::<u64>(memory + 8 * word), pattern(block, word, round));
        require!(found == wanted, "block {block}, word {word}: {found:#x} came back, not {wanted:#x}");
    }
    Ok(())
}

/// Resets, enables, identifies, makes two queue pairs with an interrupt each.
pub(crate) fn start(machine: &mut Machine) -> Outcome {
    with(machine, |_, nvme| {
        let mut model = [0; 20];
        model.iter_mut().zip(nvme.identity + 24..).for_each(|(to, at)| *to = peek(at));
        let model = str::from_utf8(&model).unwrap_or("?").trim_end();
        let (size, count) = ((nvme.blocks * nvme.block) >> 20, nvme.messages.count);
        Ok(text!("{model:?}..., {size} MiB of {} byte blocks, {count} interrupts, 2 queue pairs", nvme.block))
    })
}

/// What is written comes back: one page, two, a list of 32; by every queue; after a flush.
pub(crate) fn data(machine: &mut Machine) -> Outcome {
    with(machine, |machine, nvme| {
        let list = machine.pages(1);
        let (from, to) = (machine.pages(MOST / 4096), machine.pages(MOST / 4096));
        let mut moved = 0;
        for round in 0..3 {
            for queue in 0..nvme.queues.len() {
                for bytes in [nvme.block, 4096, 8192, MOST] {
                    let block = 64 + (round * 2 + queue as u64) * 600;
                    require!(block + MOST / nvme.block <= nvme.blocks, "{} blocks are too few", nvme.blocks);
                    fill(from, block, bytes, round);
                    let write = nvme.transfer(true, block, from, bytes, list);
                    nvme.queues[queue].run(machine, write)?;
                    nvme.queues[queue].run(machine, command(0, 1))?;
                    fill(to, !block, bytes, round);
                    let read = nvme.transfer(false, block, to, bytes, list);
                    nvme.queues[queue].run(machine, read)?;
                    holds(to, block, bytes, round)?;
                    moved += 2 * bytes;
                }
            }
        }
        Ok(text!("{} KiB in transfers of {} to {MOST} bytes", moved >> 10, nvme.block))
    })
}

/// Full queues, both at once: every command is answered once and every block holds its own data.
pub(crate) fn queues(machine: &mut Machine) -> Outcome {
    const EACH: u64 = 2000;
    with(machine, |machine, nvme| {
        let deep = u64::from(DEPTH - 2);
        let buffers = [machine.pages(deep + 2), machine.pages(deep + 2)];
        let (start, mut done) = (machine.clock.now(), [0; 2]);
        let mut sent = [0; 2];
        let blocks = 4096 / nvme.block;
        while done != [EACH; 2] {
            for (n, base) in buffers.iter().enumerate() {
                let before = sent[n];
                while sent[n] < EACH && sent[n] - done[n] < deep {
                    let slot = sent[n] % (deep + 2);
                    let block = (n as u64 * 512 + slot) * blocks;
                    poke(base + slot * 4096, pattern(block, 0, 0));
                    let words = nvme.transfer(true, block, base + slot * 4096, 4096, 0);
                    nvme.queues[n].put(words);
                    sent[n] += 1;
                }
                if sent[n] != before {
                    nvme.queues[n].ring();
                }
                if done[n] < EACH {
                    let mut next = Some(nvme.queues[n].wait(machine)?);
                    while let Some(answer) = next {
                        require!(answer.status == 0, "status {:#x}", answer.status);
                        done[n] += 1;
                        next = nvme.queues[n].take();
                    }
                }
            }
        }
        let took = machine.clock.now() - start;
        for (n, base) in buffers.iter().enumerate() {
            for slot in 0..deep + 2 {
                let block = (n as u64 * 512 + slot) * blocks;
                poke(*base, 0u64);
                let read = nvme.transfer(false, block, *base, 4096, 0);
                nvme.queues[n].run(machine, read)?;
                let found = peek::<u64>(*base);
                require!(found == pattern(block, 0, 0), "block {block} holds {found:#x}");
            }
        }
        Ok(text!("{} writes of 4 KiB, {} in flight, {} each", 2 * EACH, 2 * deep, Time(took / (2 * EACH))))
    })
}

/// A masked interrupt waits and comes when it is let go; each queue's interrupt is its own.
pub(crate) fn interrupts(machine: &mut Machine) -> Outcome {
    with(machine, |machine, nvme| {
        let (one, other) = (nvme.queues[0].vector, nvme.queues[1].vector);
        nvme.messages.mask(1, true);
        let (seen, seen_other) = (count(one), count(other));
        nvme.queues[0].put(command(0, 1));
        nvme.queues[0].ring();
        nvme.queues[1].run(machine, command(0, 1))?;
        machine.clock.spin(50_000_000);
        require!(count(one) == seen, "a masked interrupt came");
        require!(count(other) > seen_other, "the other queue's interrupt did not come");
        nvme.messages.mask(1, false);
        require!(apic::wait_for(machine, one, seen, 2000), "it did not come in 2 s after it was let go");
        let Some(answer) = nvme.queues[0].take() else { fail!("an interrupt without a completion") };
        require!(answer.status == 0, "status {:#x}", answer.status);
        // From doorbell to interrupt, one at a time.
        let (mut all, mut worst) = (0, 0);
        for _ in 0..200 {
            let start = machine.clock.now();
            nvme.queues[0].run(machine, command(0, 1))?;
            let took = machine.clock.now() - start;
            all += took;
            worst = worst.max(took);
        }
        Ok(text!(
            "masked, let go, own per queue; flush and back: mean {}, worst {}",
            Time(all / 200),
            Time(worst)
        ))
    })
}

/// Data where no memory is, a block beyond the end, a command that is not: refused, and the device goes on.
pub(crate) fn hostile(machine: &mut Machine) -> Outcome {
    with(machine, |machine, nvme| {
        let page = machine.pages(1);
        let nowhere = nvme.transfer(false, 0, 0xff_0000_0000, 4096, 0);
        let beyond = nvme.transfer(false, nvme.blocks, page, 4096, 0);
        let unknown = command(0x7f, 1);
        for (what, words) in [
            ("data outside memory", nowhere),
            ("a block beyond the end", beyond),
            ("no such command", unknown),
        ] {
            nvme.queues[0].put(words);
            nvme.queues[0].ring();
            let answer = nvme.queues[0].wait(machine)?;
            require!(answer.status != 0, "{what} was accepted");
        }
        let read = nvme.transfer(false, 0, page, 4096, 0);
        nvme.queues[0].run(machine, read)?;
        Ok(text!("data outside memory, blocks beyond the end, unknown command: refused"))
    })
}

/// A disabled controller starts again.
pub(crate) fn restart(machine: &mut Machine) -> Outcome {
    let old = nvme(machine)?;
    let function = old.function;
    old.stop(machine)?;
    machine.nvme = Some(Nvme::start(machine, function)?);
    with(machine, |machine, nvme| {
        nvme.queues[1].run(machine, command(0, 1))?;
        Ok(text!("off, on, queues made again"))
    })
}

/// A function level reset leaves nothing of what was set, and the function works again.
pub(crate) fn reset(machine: &mut Machine) -> Outcome {
    let function = nvme(machine)?.function;
    let express = function.capability(0x10).filter(|at| function.read(at + 4) >> 28 & 1 == 1);
    let Some(express) = express else { skip!("slot {} does not say that it can be reset", function.0) };
    function.write(express + 8, function.read(express + 8) & 0xffff | 1 << 15);
    machine.clock.spin(100_000_000);
    let messages = function.capability(0x11).map_or(0, |at| function.read(at));
    let (state, bar) = (function.read(4), function.read(0x10));
    require!(
        state & 6 == 0 && bar & !0xf == 0 && messages >> 31 == 0,
        "after it: command {state:#x}, BAR 0 {bar:#x}, MSI-X {messages:#x}"
    );
    machine.nvme = Some(Nvme::start(machine, function)?);
    with(machine, |machine, nvme| {
        nvme.queues[0].run(machine, command(0, 1))?;
        Ok(text!("decoding, BARs and interrupts were off; started anew"))
    })
}
