//! Links the allocator's options into the program, wherever it is built. jemalloc reads them from a symbol.

fn main() {
    let source = "src/allocator.c";
    println!("cargo::rerun-if-changed={source}");
    for object in cc::Build::new().file(source).compile_intermediates() {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
