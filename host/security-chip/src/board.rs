//! The reset line's wire to the main board.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};
use wire::{
    Link, LinkError,
    chip::{Line, LineReply},
};

/// How long the board may take to follow the line: an emulated one first gives its emulator 20 seconds.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 25_000 });

/// A connected main board. It answers every message, in order.
#[derive(Debug)]
pub(crate) struct Board {
    link: Link<Line, LineReply>,
    unanswered: u32,
    deadline: Instant,
}

impl Board {
    /// Tells a board that has just connected how the line is.
    pub(crate) fn new(link: Link<Line, LineReply>, line: Line) -> Result<Self, LinkError> {
        let mut board = Self { link, unanswered: 0, deadline: Instant::now() };
        board.send(line)?;
        Ok(board)
    }

    /// Puts the line into a state. Does not wait.
    pub(crate) fn send(&mut self, line: Line) -> Result<(), LinkError> {
        self.link.send(&line, &[])?;
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
