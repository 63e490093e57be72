//! Confines a process to its sandbox file
