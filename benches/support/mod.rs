//! What the integration tests use to start programs. They are the tests' own files, of which a bench needs a part.

#![expect(dead_code, reason = "the tests use more of it")]

#[path = "../../tests/integration/support/http.rs"]
pub mod http;
#[path = "../../tests/integration/support/openbao.rs"]
pub mod openbao;
#[path = "../../tests/integration/support/process.rs"]
pub mod process;
#[path = "../../tests/integration/support/python.rs"]
pub mod python;
