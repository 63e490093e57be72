//! The console's output, kept for the tenant.

/// Takes what the guest writes to its serial port.
pub trait Output: Send {
    /// Bytes in the order in which the guest wrote them. Never waits.
    fn put(&mut self, bytes: &[u8]);
}
