//! Bearer tokens bound to their holder's key
