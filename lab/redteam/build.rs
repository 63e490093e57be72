//! Compiles the shim and links it into the real programs that a scenario takes over.

use std::{env, path::Path};

const SHIMMED: [&str; 2] = ["shimmed-controller", "shimmed-volume-card"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=shim.c");
    let orders = Path::new(&env::var("OUT_DIR")?).join("orders");
    // The shim and who gives it orders have it from here both.
    println!("cargo::rustc-env=ORDERS={}", orders.display());
    let orders = format!("\"{}\"", orders.display());
    for object in cc::Build::new().file("shim.c").define("ORDERS", &*orders).compile_intermediates() {
        for program in SHIMMED {
            println!("cargo::rustc-link-arg-bin={program}={}", object.display());
            println!("cargo::rustc-link-arg-bin={program}=-Wl,--wrap=clock_gettime,--wrap=malloc");
        }
    }
    Ok(())
}
