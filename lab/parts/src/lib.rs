//! Finds or fetches what the lab is built from
