//! Builds the lab's root image from Debian packages
