//! XTS-AES-256 for volumes
