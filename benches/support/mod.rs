//! The parts of the integration tests' support that the benches use.

#![expect(dead_code, reason = "benches use only a part of it")]

#[path = "../../tests/integration/support/http.rs"]
pub mod http;
#[path = "../../tests/integration/support/kms.rs"]
pub mod kms;
#[path = "../../tests/integration/support/openbao.rs"]
pub mod openbao;
#[path = "../../tests/integration/support/process.rs"]
pub mod process;
#[path = "../../tests/integration/support/python.rs"]
pub mod python;
#[path = "../../tests/integration/support/tools.rs"]
pub mod tools;
