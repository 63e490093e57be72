//! Network volumes as NVMe functions, encrypted
