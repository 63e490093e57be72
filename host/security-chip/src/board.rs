//! The reset lines' wire to the main board.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};
use wire::{
    Link, LinkError,
    chip::{LineReply, Lines},
};

/// How long the board may take to follow the lines: an emulated one first gives its emulator 20 seconds.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 25_000 });

/// A connected main board. It answers every message, in order.
#[derive(Debug)]
pub(crate) struct Board {
    link: Link<Lines, LineReply>,
    unanswered: u32,
    deadline: Instant,
}

impl Board {
    /// Tells a board that has just connected how the lines are.
    pub(crate) fn new(link: Link<Lines, LineReply>, lines: Lines) -> Result<Self, LinkError> {
        let mut board = Self { link, unanswered: 0, deadline: Instant::now() };
        board.send(lines)?;
        Ok(board)
    }

    /// Puts the lines into a state. Does not wait.
    pub(crate) fn send(&mut self, lines: Lines) -> Result<(), LinkError> {
        self.link.send(&lines, &[])?;
        self.unanswered += 1;
        self.deadline = Instant::now() + PATIENCE;
        Ok(())
    }

    /// Takes an answer that has arrived. Gives the one to the last message only.
    pub(crate) fn receive(&mut self) -> Result<Option<LineReply>, LinkError> {
        let (reply, _) = self.link.receive()?;
        // An answer without a question: the two ends no longer speak of the same thing.
        self.unanswered = self.unanswered.checked_sub(1).ok_or(LinkError::Closed)?;
        Ok((self.unanswered == 0).then_some(reply))
    }

    /// When to give up, if an answer is outstanding.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.unanswered > 0).then_some(self.deadline)
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
