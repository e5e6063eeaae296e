//! The daemon's modules are compiled as for the fuzz targets: with the clock and the network that a simulation sets.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");
    println!("cargo:rustc-cfg=fuzzing");
    for name in ["KEYRINGD_COMMIT", "KEYRINGD_TARGET"] {
        println!("cargo:rustc-env={name}=models");
    }
}
