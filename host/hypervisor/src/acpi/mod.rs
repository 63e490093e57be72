//! (engineer B)
