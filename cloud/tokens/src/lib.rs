//! Signs short-lived bearer tokens from the rights configuration
