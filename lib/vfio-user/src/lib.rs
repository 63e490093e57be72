//! The vfio-user protocol, server and client
