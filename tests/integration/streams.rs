//! Payloads of any size on the command line: complete or refused, in constant memory, without partial files.
//!
//! Unit tests of `cipher::stream` cover the format.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::support::{
    Daemon, OpenBao,
    daemon::{PROGRAM, run},
    success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const MIB: usize = 1 << 20;
const SEALED_SEGMENT: usize = (64 << 10) + 16;

/// A temporary folder per test, so that leftover files are detected.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// All file names, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// The header and the segments of a stream.
fn split(stream: &[u8]) -> (&[u8], Vec<&[u8]>) {
    assert!(stream.starts_with(b"KRS1"), "not a stream");
    let wrapped_len = usize::from(u16::from_be_bytes([stream[4], stream[5]]));
    let (header, segments) = stream.split_at(6 + wrapped_len + 7);
    (header, segments.chunks(SEALED_SEGMENT).collect())
}

#[track_caller]
fn silent(output: &Output) {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn refused(output: &Output, message: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(message), "{message} in {errors}");
}

#[test]
fn any_size_goes_through_files_and_pipes() {
    let (daemon, files) = (Daemon::dev(), Files::new());
    for (len, is_stream) in [(MIB, false), (MIB + 1, true), (5 * MIB, true)] {
        let plaintext = random(len);
        let plain = files.write("plain", &plaintext);
        let (sealed, opened) = (files.path("sealed"), files.path("opened"));
        silent(&daemon.command(&["encrypt", "-i", &plain, "-o", &sealed, "--aad", "a", "--force"], b""));
        assert_eq!(files.read("sealed").starts_with(b"KRS1"), is_stream, "{len}");
        silent(&daemon.command(&["decrypt", "-i", &sealed, "-o", &opened, "--aad", "a", "--force"], b""));
        assert!(files.read("opened") == plaintext, "{len}");
    }
    let other_aad = daemon.command(&["decrypt", "--aad", "b"], &files.read("sealed"));
    refused(&other_aad, "has other associated data");
    assert!(other_aad.stdout.is_empty());
    assert_eq!(files.names(), ["opened", "plain", "sealed"]);

    let plaintext = random(2 * MIB);
    let sealed = daemon.command(&["encrypt"], &plaintext);
    silent(&sealed);
    let opened = daemon.command(&["decrypt"], &sealed.stdout);
    silent(&opened);
    assert!(opened.stdout == plaintext);
}

#[test]
fn a_damaged_stream_is_refused_and_no_file_appears() {
    let (daemon, files) = (Daemon::dev(), Files::new());
    let sealed = daemon.command(&["encrypt"], &random(MIB + 100)).stdout;
    let (header, segments) = split(&sealed);
    assert_eq!(segments.len(), 17);
    let (last, full) = segments.split_last().unwrap();
    let joined = |parts: &[&[u8]]| [header, &parts.concat()].concat();
    let damaged = [
        ("cut in the header", sealed[..header.len() - 1].to_vec()),
        ("cut after the header", header.to_vec()),
        ("cut between segments", joined(full)),
        ("cut in a segment", sealed[..header.len() + SEALED_SEGMENT + 1000].to_vec()),
        ("cut by a byte", sealed[..sealed.len() - 1].to_vec()),
        ("swapped", joined(&[&[full[1], full[0]], &full[2..], &[last]].concat())),
        ("a byte longer", joined(&[full, &[last, b"\n"]].concat())),
        ("the last segment twice", joined(&[full, &[last, last]].concat())),
    ];
    for (what, stream) in damaged {
        let input = files.write("damaged", &stream);
        for command in ["decrypt", "rewrap"] {
            let output = daemon.command(&[command, "-i", &input, "-o", &files.path("never")], b"");
            refused(
                &output,
                if stream.len() < header.len() { "not a stream" } else { "is truncated, was changed" },
            );
            assert_eq!(files.names(), ["damaged"], "{command} of a stream that is {what}");
        }
    }
    // A pipe receives the authentic part; the exit code reports that it is incomplete.
    let cut = daemon.command(&["decrypt"], &joined(full));
    refused(&cut, "is truncated, was changed");
    assert_eq!(cut.stdout.len(), 15 * (64 << 10));
}

#[test]
fn an_existing_file_is_reported_first_and_kept() {
    let (daemon, files) = (Daemon::dev(), Files::new());
    let plaintext = random(MIB + 1);
    let (plain, kept) = (files.write("plain", &plaintext), files.write("kept", b"old"));
    for command in ["encrypt", "decrypt", "rewrap"] {
        let output = run(&[command, "-i", &plain, "-o", &kept, "--socket", "/no/such.sock"], &[], b"");
        refused(&output, "exists; use --force to replace it");
        let arguments = [command, "-o", "/dev/null", "--force", "--socket", "/no/such.sock"];
        let output = run(&arguments, &[], b"kr1:x:AAAA");
        refused(&output, "there is no socket /no/such.sock");
        assert!(!fs::metadata("/dev/null").unwrap().is_file(), "a device is never replaced");
    }
    refused(&daemon.command(&["decrypt", "-o", &kept, "--force"], b"KRS1"), "not a stream");
    assert_eq!((files.read("kept"), files.names()), (b"old".to_vec(), vec!["kept".into(), "plain".into()]));

    silent(&daemon.command(&["encrypt", "-i", &plain, "-o", &plain, "--force"], b""));
    assert!(files.read("plain").starts_with(b"KRS1"));
    silent(&daemon.command(&["decrypt", "-i", &plain, "-o", &plain, "--force"], b""));
    assert!(files.read("plain") == plaintext);
}

#[test]
fn a_rewrap_moves_a_text_and_a_stream_to_the_active_key() {
    let (server, files) = (OpenBao::shared(), Files::new());
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    let plaintext = random(MIB + 1);
    let text = success(&daemon.command(&["encrypt", "--aad", "a"], b"hello"));
    let stream = daemon.command(&["encrypt", "--aad", "a"], &plaintext).stdout;
    server.put_record("second", KEY);
    daemon.sync();

    let rewrapped = success(&daemon.command(&["rewrap", "--aad", "a"], text.as_bytes()));
    assert!(text.starts_with("kr1:first:") && rewrapped.starts_with("kr1:second:"), "{rewrapped}");
    assert_eq!(success(&daemon.command(&["decrypt", "--aad", "a"], rewrapped.as_bytes())), "hello");

    let path = files.write("stream", &stream);
    refused(&daemon.command(&["rewrap", "-i", &path, "-o", &path, "--force"], b""), "decryption failed");
    silent(&daemon.command(&["rewrap", "-i", &path, "-o", &path, "--aad", "a", "--force"], b""));
    let rewrapped = files.read("stream");
    let ((old, before), (new, after)) = (split(&stream), split(&rewrapped));
    assert!(old[6..].starts_with(b"kr1:first:") && new[6..].starts_with(b"kr1:second:"));
    assert!(before == after, "the segments do not change");
    assert!(daemon.command(&["decrypt", "--aad", "a"], &rewrapped).stdout == plaintext);
}

#[test]
fn a_payload_beyond_the_request_limit_becomes_a_stream() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_MAX_REQUEST_SIZE", "1k")]);
    for len in [1000, 100 << 10, MIB] {
        let plaintext = random(len);
        let sealed = daemon.command(&["encrypt"], &plaintext);
        silent(&sealed);
        assert!(sealed.stdout.starts_with(b"KRS1"), "{len}");
        assert!(daemon.command(&["decrypt"], &sealed.stdout).stdout == plaintext, "{len}");
    }
    assert!(success(&daemon.command(&["encrypt"], b"short")).starts_with("kr1:first:"));
}

/// A running command whose standard input stays open.
fn spawn(daemon: &Daemon, arguments: &[&str], input: Stdio, output: Stdio) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).arg("--socket").arg(daemon.socket()).env_clear();
    command.stdin(input).stdout(output).spawn().unwrap()
}

#[test]
fn an_interrupted_command_leaves_no_file() {
    let (daemon, files) = (Daemon::dev(), Files::new());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
        let arguments = ["encrypt", "-o", &files.path("never")];
        let mut child = spawn(&daemon, &arguments, Stdio::piped(), Stdio::null());
        child.stdin.as_mut().unwrap().write_all(&random(2 * MIB)).unwrap();
        assert_eq!(files.names().len(), 1, "one temporary file");
        signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let status = wait_for("the command to end", || child.try_wait().unwrap());
        assert_eq!((status.signal(), files.names()), (Some(signal as i32), Vec::new()));
    }
}

#[test]
fn a_closed_standard_input_or_output_is_refused() {
    let (daemon, files) = (Daemon::dev(), Files::new());
    fs::write(files.path("plain"), "hello").unwrap();
    let socket = daemon.socket();
    for (arguments, message) in [
        (format!("encrypt -i {} >&-", files.path("plain")), "standard output is closed"),
        ("encrypt <&- ".to_owned(), "standard input is closed"),
        ("man >&-".to_owned(), "standard output is closed"),
    ] {
        let (command, rest) = arguments.split_once(' ').unwrap();
        let option = if command == "man" { String::new() } else { format!("--socket {}", socket.display()) };
        let line = format!("{PROGRAM} {command} {option} {rest}");
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{line}: {output:?}");
    }
    let to_nowhere = format!("{PROGRAM} encrypt --socket {} < /dev/null > /dev/null", socket.display());
    assert!(Command::new("sh").args(["-c", &to_nowhere]).status().unwrap().success());
}

/// The peak of the resident memory, in KiB.
fn peak(child: &Child) -> usize {
    let status = fs::read_to_string(Path::new("/proc").join(child.id().to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The peaks of encrypt and decrypt after `len` bytes passed through both.
fn peaks_over(daemon: &Daemon, len: usize) -> [usize; 2] {
    let mut encrypt = spawn(daemon, &["encrypt"], Stdio::piped(), Stdio::piped());
    let sealed = encrypt.stdout.take().unwrap();
    let mut decrypt = spawn(daemon, &["decrypt"], sealed.into(), File::create("/dev/null").unwrap().into());
    let mut plaintext = encrypt.stdin.take().unwrap();
    io::copy(&mut io::repeat(0).take(len as u64), &mut plaintext).unwrap();
    let peaks = [&encrypt, &decrypt].map(peak);
    drop(plaintext);
    for child in [&mut encrypt, &mut decrypt] {
        assert!(child.wait().unwrap().success());
    }
    peaks
}

#[test]
fn memory_does_not_grow_with_the_payload() {
    let daemon = Daemon::dev();
    let [few, many] = [2 * MIB, 12 * MIB].map(|len| peaks_over(&daemon, len));
    for (few, many) in few.into_iter().zip(many) {
        assert!(many < few + (4 << 10), "{few} KiB over 2 MiB, {many} KiB over 12 MiB");
    }
}
