//! Go, pinned by hash in `tests/go-requirements.txt` and fetched once into the target folder.

use std::path::PathBuf;

use super::python;

/// What `go` needs, as assignments of a shell: it compiles its library once, and fetches nothing.
pub const ENVIRONMENT: &str = concat!(
    "CGO_ENABLED=0 GOPROXY=off GOTELEMETRY=off GOTOOLCHAIN=local GOCACHE=",
    env!("CARGO_TARGET_TMPDIR"),
    "/go-cache"
);

/// The folder with `go`.
///
/// # Panics
/// As [`python::packages`].
pub fn programs() -> PathBuf {
    python::packages("go-requirements.txt").join("go/bin")
}
