//! The kong.conf grammar: text in, keys with their values and line numbers out.
//!
//! It reads what Kong's reader reads, and where Kong would drop something without a word it reports a mistake. What the
//! keys mean is in `keys` and in `settings`; nothing here knows one key from another.

use zeroize::Zeroizing;

use crate::secret::Secret;

/// What a kong.conf says, before anybody asks what it means.
#[derive(Debug, Default)]
pub struct Conf {
    pub entries: Vec<Entry>,
    /// Line number and what is wrong there.
    pub mistakes: Vec<(usize, &'static str)>,
    pub warnings: Vec<(usize, &'static str)>,
}

#[derive(Debug)]
pub struct Entry {
    /// Every character but letters and digits has become `_`, as in Kong.
    pub key: String,
    pub value: Secret<String>,
    pub line: usize,
}

const BYTE_ORDER_MARK: char = '\u{feff}';

impl Conf {
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let bare = text.strip_prefix(BYTE_ORDER_MARK);
        if bare.is_some() {
            conf.warnings
                .push((1, "the file begins with a byte-order mark, which hides its first key from Kong"));
        }
        let lines = bare.unwrap_or(text).lines().enumerate().map(|(at, line)| (at + 1, line));
        let mut lines = lines.filter(|(_, line)| !is_blank_or_comment(line));
        while let Some((number, first)) = lines.next() {
            let Some(line) = join_continuations(first, &mut lines) else {
                conf.mistakes.push((number, "the line ends in \\ and the file ends before it continues"));
                break;
            };
            conf.read_line(number, &line);
        }
        conf
    }

    fn read_line(&mut self, number: usize, line: &str) {
        let line = without_comment(line);
        let trimmed = line.trim();
        if trimmed.is_empty() {
            return;
        }
        if trimmed.starts_with('[') {
            self.mistakes
                .push((number, "kong.conf has no [sections]: Kong would lose every key below this line"));
            return;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            self.mistakes.push((number, "expected key = value, and there is no ="));
            return;
        };
        if key.trim().contains(|c: char| c == ':' || c.is_whitespace())
            && key.trim_start().starts_with("keyring")
        {
            // Nothing of it is quoted: with its = in the wrong place, a line's key may hold its secret.
            self.mistakes
                .push((number, "expected key = value, and there is a blank or a colon before the ="));
            return;
        }
        let key = key.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.entries.push(Entry { key, value: Secret::new(value.trim().to_owned()), line: number });
    }
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with(['#', ';'])
}

/// The line with those that continue it: a final `\` goes, and nothing is put in its place. `None` when the file ends
/// first.
fn join_continuations<'a>(
    first: &str,
    rest: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Option<Zeroizing<String>> {
    let mut joined = Zeroizing::new(first.to_owned());
    while joined.ends_with('\\') {
        joined.pop();
        joined.push_str(rest.next()?.1);
    }
    Some(joined)
}

/// The line up to its first `#` that no `\` stands before; of each `\#` the `#` stays.
fn without_comment(line: &str) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(line.len()));
    for c in line.chars() {
        match c {
            '#' if kept.ends_with('\\') => {
                kept.pop();
                kept.push(c);
            }
            '#' => break,
            _ => kept.push(c),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a conf says, a line each, in order of the line numbers.
    fn listed(conf: &Conf) -> String {
        let note = |kind, notes: &[(usize, &str)]| {
            notes.iter().map(|(line, says)| (*line, format!("{line} {kind}: {says}"))).collect::<Vec<_>>()
        };
        let mut lines = note("mistake", &conf.mistakes);
        lines.extend(note("warning", &conf.warnings));
        let entry =
            |entry: &Entry| (entry.line, format!("{} {} = {}", entry.line, entry.key, entry.value.expose()));
        lines.extend(conf.entries.iter().map(entry));
        lines.sort_by_key(|(line, _)| *line);
        lines.into_iter().map(|(_, text)| text + "\n").collect()
    }

    /// The table of Kong's grammar: each file's name says what is expected of it.
    #[test]
    fn every_file_of_the_table_reads_as_its_name_says() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kong-conf");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let confs: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
        assert!(confs.len() >= 23, "{}", confs.len());
        for path in confs {
            let text = std::fs::read_to_string(&path).unwrap();
            let expected = std::fs::read_to_string(path.with_extension("expected")).unwrap();
            assert_eq!(listed(&Conf::parse(&text)), expected, "{}", path.display());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            Conf::parse(&text);
        }

        #[test]
        fn a_value_that_was_written_reads_back(value in r"[^\s\\#\r\n]([^\\\r\n]*[^\s\\#\r\n])?") {
            let written = format!("key = {}\n", value.replace('#', r"\#"));
            let conf = Conf::parse(&written);
            prop_assert_eq!(conf.entries[0].value.expose(), &value);
        }
    }
}
