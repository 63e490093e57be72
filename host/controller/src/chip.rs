//! The security chip, as the controller uses it.

use crate::{
    Refusal,
    peer::{ChipSide, Peer, unexpected},
};
use host_api::Sha256;
use std::{fmt, os::fd::BorrowedFd};
use wire::chip::{self, Attempts, Event, EventKind, Line, Master, Region, Reply, Request, Reset, Target};

/// The hashes of the main board's firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// Of the processors'.
    pub code: Sha256,
    /// Of the management controller's; none on a board without a flash for it.
    pub bmc: Option<Sha256>,
}

impl Firmware {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Sha256> {
        [&self.code].into_iter().chain(&self.bmc)
    }

    fn told(&self) -> chip::Firmware {
        chip::Firmware { code: self.code.to_string(), bmc: self.bmc.as_ref().map(ToString::to_string) }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.bmc.as_ref().map_or(Ok(()), |bmc| write!(f, " and {bmc} of the BMC"))
    }
}

/// The security chip's private socket.
#[derive(Debug)]
pub struct Chip(Peer<ChipSide>);

impl Chip {
    /// Takes the socket.
    pub fn new(peer: Peer<ChipSide>) -> Self {
        Self(peer)
    }

    /// Whether it is still there.
    pub fn is_there(&mut self) -> bool {
        self.0.is_there()
    }

    /// Whether the processors are held, and how many writes were refused.
    pub fn status(&mut self) -> Result<(bool, u64), Refusal> {
        match self.0.call(&Request::Status, &[])? {
            Reply::Status { lines, refused_writes } => Ok((lines.cpu == Reset::Held, refused_writes)),
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    /// The hashes of the main board's firmware as it is in flash now.
    pub fn measure(&mut self) -> Result<Firmware, Refusal> {
        let (code, _) = self.measure_region(Region::Code)?;
        let (bmc, length) = self.measure_region(Region::Bmc)?;
        Ok(Firmware { code, bmc: (length > 0).then_some(bmc) })
    }

    fn measure_region(&mut self, region: Region) -> Result<(Sha256, u64), Refusal> {
        match self.0.call(&Request::Measure { region }, &[])? {
            Reply::Measured { sha256, length } => {
                Ok((sha256.parse().map_err(|_| unexpected::<ChipSide>())?, length))
            }
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    /// Lets the management controller go, for exactly this firmware: before the main board is asked for anything.
    pub fn release_bmc(&mut self, firmware: &Firmware) -> Result<(), Refusal> {
        self.release_line(Line::Bmc, firmware)
    }

    /// Lets everything go, for exactly this firmware: the management controller, the board, the processors.
    pub fn release(&mut self, firmware: &Firmware) -> Result<(), Refusal> {
        [Line::Bmc, Line::Board, Line::Cpu].into_iter().try_for_each(|line| self.release_line(line, firmware))
    }

    fn release_line(&mut self, line: Line, firmware: &Firmware) -> Result<(), Refusal> {
        self.done(&Request::Release { line, firmware: firmware.told() })
    }

    /// Holds the main board and its processors, not its management controller.
    pub fn hold(&mut self) -> Result<(), Refusal> {
        [Line::Cpu, Line::Board].into_iter().try_for_each(|line| self.done(&Request::Hold { line }))
    }

    /// Holds everything.
    pub fn hold_all(&mut self) -> Result<(), Refusal> {
        self.hold()?;
        self.done(&Request::Hold { line: Line::Bmc })
    }

    /// Writes exactly this image into a flash. The board must be held.
    pub fn update(&mut self, region: Region, sha256: &Sha256, image: BorrowedFd<'_>) -> Result<(), Refusal> {
        match self.0.call(&Request::Update { region, sha256: sha256.to_string() }, &[image])? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    /// Events with a number greater than `after`, and how many were lost before them.
    pub fn events(&mut self, after: u64) -> Result<(Vec<Event>, u64), Refusal> {
        match self.0.call(&Request::Events { after }, &[])? {
            Reply::Events { events, dropped } => Ok((events, dropped)),
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), Refusal> {
        match self.0.call(request, &[])? {
            Reply::Done => Ok(()),
            _ => Err(unexpected::<ChipSide>()),
        }
    }
}

/// `1 write`, `2 writes`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// An event as the host's log tells it: a code and a detail.
pub fn describe(event: &Event) -> (&'static str, String) {
    let seq = event.seq;
    match &event.what {
        EventKind::WriteRefused(refused) => {
            // Firmware that looks for its flash writes what is there; that is no attack.
            let code = if refused.changing > 0 { "chip.write-refused" } else { "chip.write-unchanged" };
            (code, format!("event {seq}: {}", attempts("write", refused)))
        }
        EventKind::ReadRefused(refused) => {
            ("chip.read-refused", format!("event {seq}: {}", attempts("read", refused)))
        }
        EventKind::ResetReleased { line } => ("chip.reset-released", format!("event {seq}: {}", name(*line))),
        EventKind::ResetHeld { line } => ("chip.reset-held", format!("event {seq}: {}", name(*line))),
        EventKind::Updated { sha256, .. } => ("chip.updated", format!("event {seq}: {sha256}")),
        EventKind::UpdateRefused { code } => ("chip.update-refused", format!("event {seq}: {code}")),
    }
}

fn attempts(what: &str, refused: &Attempts) -> String {
    let Attempts { master, target, offset, bytes, attempts, .. } = refused;
    let by = match master {
        Master::Cpu => "",
        Master::Bmc => " by the BMC",
    };
    let target = match target {
        Target::Code => "the firmware",
        Target::Variables => "the variables",
        Target::Bmc => "the BMC's firmware",
        Target::Registers => "a flash's registers",
        Target::Identity => "the board's identity",
        Target::ResetController => "the reset controller",
    };
    format!("{} of {} to {target} at {offset:#x}{by}", counted(*attempts, what), counted(*bytes, "byte"))
}

fn name(line: Line) -> &'static str {
    match line {
        Line::Bmc => "BMC",
        Line::Board => "board",
        Line::Cpu => "processors",
    }
}
