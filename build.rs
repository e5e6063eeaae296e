//! Links the allocator's options into the program, and gives it the commit, the date and the target of this build, for
//! `--version` and the metric `build_info`.
//!
//! The date is that of `SOURCE_DATE_EPOCH`, or of the commit, so that two builds of one commit are equal. Outside of git, such as
//! in a container without it, `KEYRINGD_COMMIT` may name the commit.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo passes its values to a build script by the environment"
)]

use std::{
    env,
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

fn main() {
    link_allocator_options();
    name_build();
}

/// jemalloc reads them from a symbol.
fn link_allocator_options() {
    let source = "src/allocator.c";
    println!("cargo::rerun-if-changed={source}");
    for object in cc::Build::new().file(source).compile_intermediates() {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}

fn name_build() {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["SOURCE_DATE_EPOCH", "KEYRINGD_COMMIT"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // A debug build keeps the commit that it was first built at: otherwise each commit would compile everything again.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release")
        && let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let named = env::var("KEYRINGD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit =
        named.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    let seconds = env::var("SOURCE_DATE_EPOCH").ok().or_else(|| git(&["log", "-1", "--format=%ct"]));
    let date = seconds.and_then(|seconds| seconds.parse().ok()).map_or_else(|| "unknown".to_owned(), date);
    println!("cargo::rustc-env=KEYRINGD_COMMIT={commit}");
    println!("cargo::rustc-env=KEYRINGD_DATE={date}");
    println!("cargo::rustc-env=KEYRINGD_TARGET={}", env::var("TARGET").unwrap_or_default());
}

/// The output of git in this very repository; `None` outside of one.
fn git(arguments: &[&str]) -> Option<String> {
    let root = env::var("CARGO_MANIFEST_DIR").ok()?;
    Path::new(&root).join(".git").exists().then_some(())?; // not that of a folder above
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// `2026-11-28` in UTC.
fn date(seconds: u64) -> String {
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}
