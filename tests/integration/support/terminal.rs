//! A real terminal, which `script` opens.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use super::process::ending_with_us;

/// A shell command with a terminal as its standard input, output and error. Its standard output is what the terminal gets.
pub fn terminal(line: &str) -> Command {
    let mut command = ending_with_us(Path::new("script"));
    command
        .args(["-qefc", line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end. Returns the exit code, and what the terminal got.
pub fn on_terminal(line: &str, input: &[u8]) -> (Option<i32>, String) {
    let mut child = terminal(line).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"))
}
