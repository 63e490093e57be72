//! The emulated mainboard: hardware's stand-in
