//! Holds reset and owns the firmware flash
