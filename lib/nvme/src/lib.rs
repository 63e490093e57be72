//! An NVMe 1.4 controller and a small driver, without I/O
