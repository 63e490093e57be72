//! A TPM 2.0 client: measure, read, quote, seal
