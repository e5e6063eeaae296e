//! The kong.conf grammar: text in, keys with their values and line numbers out.
//!
//! It accepts what Kong accepts. Where Kong would drop text silently, it reports a mistake. The meaning of the keys is in
//! `keys`.

use zeroize::Zeroizing;

use crate::secret::Secret;

/// The content of a kong.conf.
#[derive(Debug, Default)]
pub(super) struct Conf {
    pub lines: Vec<Line>,
    /// Line numbers and messages.
    pub mistakes: Vec<(usize, &'static str)>,
    pub warnings: Vec<(usize, &'static str)>,
}

/// A line that sets a key.
#[derive(Debug)]
pub(super) struct Line {
    /// Every character except letters and digits is replaced by `_`, as in Kong.
    pub key: String,
    pub value: Secret<String>,
    pub number: usize,
}

const BYTE_ORDER_MARK: char = '\u{feff}';

impl Conf {
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let bare = text.strip_prefix(BYTE_ORDER_MARK);
        if bare.is_some() {
            conf.warnings.push((1, "the file begins with a byte-order mark: Kong ignores the first key"));
        }
        let lines = bare.unwrap_or(text).lines().enumerate().map(|(at, line)| (at + 1, line));
        let mut lines = lines
            .filter(|(_, line)| !line.trim_start().starts_with(['#', ';']) && !line.trim_start().is_empty());
        while let Some((number, first)) = lines.next() {
            let Some(line) = join_continuations(first, &mut lines) else {
                conf.mistakes.push((number, "the line ends with \\ but the file has no further line"));
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
                .push((number, "a kong.conf has no [sections]: Kong ignores every key below this line"));
            return;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            self.mistakes.push((number, "expected key = value, found no ="));
            return;
        };
        if key.trim().contains(|c: char| c == ':' || c.is_whitespace())
            && key.trim_start().starts_with("keyring")
        {
            // Quote nothing: if the = is in the wrong place, the key may hold a secret.
            self.mistakes.push((number, "expected key = value, found a blank or a colon in the key"));
            return;
        }
        let key = key.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.lines.push(Line { key, value: Secret::new(value.trim().to_owned()), number });
    }
}

/// The line with its continuation lines. Each final `\` is removed. `None` if the file ends first.
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

/// The line up to the first `#` without a `\` before it. Each `\#` becomes `#`.
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

    /// Lines and notes as text, in order of the line numbers.
    fn listed(conf: &Conf) -> String {
        let note = |kind, notes: &[(usize, &str)]| {
            notes
                .iter()
                .map(|(line, message)| (*line, format!("{line} {kind}: {message}")))
                .collect::<Vec<_>>()
        };
        let mut lines = note("mistake", &conf.mistakes);
        lines.extend(note("warning", &conf.warnings));
        let text =
            |line: &Line| (line.number, format!("{} {} = {}", line.number, line.key, line.value.expose()));
        lines.extend(conf.lines.iter().map(text));
        lines.sort_by_key(|(line, _)| *line);
        lines.into_iter().map(|(_, text)| text + "\n").collect()
    }

    #[test]
    fn every_example_of_the_grammar_parses_as_its_file_name_says() {
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
        fn a_written_value_is_parsed_unchanged(value in r"[^\s\\#\r\n]([^\\\r\n]*[^\s\\#\r\n])?") {
            let written = format!("key = {}\n", value.replace('#', r"\#"));
            let conf = Conf::parse(&written);
            prop_assert_eq!(conf.lines[0].value.expose(), &value);
        }
    }
}
