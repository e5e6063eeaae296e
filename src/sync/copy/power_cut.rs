//! A power cut, as a test: a process that writes copies is killed at random times. The file is always the old or the new copy.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use super::{
    CopyError, CopyFile, fresh_path,
    tests::{contents, file},
};
use crate::keyring::SecretLocation;

/// Names the folder of the writer, which is this test program again.
const WRITER: &str = "KEYRINGD_TEST_COPY_WRITER";
const WRITER_TEST: &str = "sync::copy::power_cut::copies_that_follow_each_other_are_read_back";

const KILLS: usize = 500;

/// The number of a copy, which is its time.
fn number(file: &CopyFile) -> Result<u64, CopyError> {
    let read = file.read(&SecretLocation::default(), SystemTime::now())?;
    let [keyring] = &read.keyrings[..] else { panic!("{read:?}") };
    Ok(keyring.synced.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
}

fn write(file: &CopyFile, number: u64) {
    let contents = contents(SystemTime::UNIX_EPOCH + Duration::from_secs(number));
    file.write(&contents, &SecretLocation::default()).unwrap();
}

/// For the test below it goes on until it is killed.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent passes the folder of its writer")]
fn copies_that_follow_each_other_are_read_back() {
    let (own, named) = (tempfile::tempdir().unwrap(), std::env::var_os(WRITER));
    let file = file(named.as_deref().map_or_else(|| own.path(), Path::new), Duration::MAX);
    let first = match number(&file) {
        Ok(last) => last + 1,
        Err(CopyError::None(_)) => 1,
        Err(error) => panic!("{error}"),
    };
    let last = if named.is_some() { u64::MAX } else { 20 };
    for next in first..=last {
        write(&file, next);
        assert_eq!(number(&file).unwrap(), next);
    }
}

/// Up to 8 ms, in which a writer writes several copies.
#[expect(clippy::disallowed_methods, reason = "the power is cut at a random time")]
fn wait_at_random() {
    let random = getrandom::u32().unwrap() % 8000;
    std::thread::sleep(Duration::from_micros(random.into()));
}

#[test]
fn a_writer_that_is_killed_500_times_leaves_the_old_or_the_new_copy() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), Duration::MAX);
    write(&file, 1);
    let (mut last, mut interrupted) = (1, 0);
    for kill in 0..KILLS {
        let inode = || fs::metadata(file.path()).unwrap().ino();
        let before = inode();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", WRITER_TEST])
            .env(WRITER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while inode() == before {
            assert!(writer.try_wait().unwrap().is_none(), "the writer ended by itself before kill {kill}");
            std::thread::yield_now();
        }
        wait_at_random();
        writer.kill().unwrap();
        writer.wait().unwrap();
        let now = number(&file).unwrap();
        assert!(now >= last, "copy {now} after copy {last}");
        last = now;
        interrupted += usize::from(fresh_path(file.path()).exists());
    }
    assert!(last > KILLS as u64, "{last} copies");
    assert!(interrupted > 0, "no kill was during a write");
}
