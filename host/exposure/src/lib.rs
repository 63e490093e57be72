//! What each process on the host exposes, beside what its sandbox file names.
#![forbid(unsafe_code)]
