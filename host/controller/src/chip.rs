//! The security chip, as the controller uses it.

use crate::{
    Refusal,
    peer::{ChipSide, Peer, unexpected},
};
use host_api::Sha256;
use wire::chip::{Event, EventKind, Region, Reply, Request};

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

    /// Whether reset is held, and how many firmware writes were refused.
    pub fn status(&mut self) -> Result<(bool, u64), Refusal> {
        match self.0.call(&Request::Status, &[])? {
            Reply::Status { reset_held, refused_writes } => Ok((reset_held, refused_writes)),
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    /// The hash of the main board's firmware as it is in flash now.
    pub fn measure(&mut self) -> Result<Sha256, Refusal> {
        match self.0.call(&Request::Measure { region: Region::Code }, &[])? {
            Reply::Measured { sha256, .. } => sha256.parse().map_err(|_| unexpected::<ChipSide>()),
            _ => Err(unexpected::<ChipSide>()),
        }
    }

    /// Lets reset go for firmware with exactly this hash.
    pub fn release(&mut self, code: &Sha256) -> Result<(), Refusal> {
        self.done(&Request::ReleaseReset { code: code.to_string() })
    }

    /// Holds the main board in reset.
    pub fn hold(&mut self) -> Result<(), Refusal> {
        self.done(&Request::HoldReset)
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
        EventKind::WriteRefused { region, offset, bytes, attempts, changing } => {
            let region = match region {
                Region::Code => "the firmware",
                Region::Variables => "the variables",
            };
            let (writes, bytes) = (counted(*attempts, "write"), counted(*bytes, "byte"));
            // Firmware that looks for its flash writes what is there; that is no attack.
            let code = if *changing > 0 { "chip.write-refused" } else { "chip.write-unchanged" };
            (code, format!("event {seq}: {writes} of {bytes} to {region} at {offset:#x}"))
        }
        EventKind::ResetReleased => ("chip.reset-released", format!("event {seq}")),
        EventKind::ResetHeld => ("chip.reset-held", format!("event {seq}")),
        EventKind::Updated { sha256 } => ("chip.updated", format!("event {seq}: {sha256}")),
        EventKind::UpdateRefused { code } => ("chip.update-refused", format!("event {seq}: {code}")),
    }
}
