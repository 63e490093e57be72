//! TLS 1.3 services and clients with one error shape
