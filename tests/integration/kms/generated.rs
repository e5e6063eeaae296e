//! The generated code of the messages is current: protox compiles `v2.proto` in memory, so that a build needs no protoc.

use std::{fs, path::Path};

/// The head of the generated file.
const HEAD: &str = "//! The messages of Kubernetes' KMS v2 and the trait of its service, from `v2.proto` in this folder.\n\
//! Generated: `UPDATE_EXPECT=1 cargo test --test integration kms::generated` writes this file.\n\n";

fn generated() -> String {
    let (folder, out) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/kms"), tempfile::tempdir());
    let (messages, out) = (protox::compile(["v2.proto"], [folder]).unwrap(), out.unwrap());
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .skip_debug([".v2.EncryptRequest", ".v2.DecryptResponse"]) // they hold plaintexts
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_fds(messages)
        .unwrap();
    HEAD.to_owned() + &fs::read_to_string(out.path().join("v2.rs")).unwrap()
}

#[test]
fn the_committed_code_is_what_the_messages_generate() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/kms/v2.rs");
    expect_test::expect_file![file].assert_eq(&generated());
}
