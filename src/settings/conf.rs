//! The kong.conf grammar: bytes in, keys with their values and line numbers out.
//!
//! It reads what Kong's loader reads (Penlight's `config.read`, which works on bytes and knows only ASCII). Where Kong
//! drops text silently, it reports a mistake. The meaning of the keys is in `keys`.

mod number;

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
    /// Every byte except ASCII letters and digits is replaced by `_`, as in Kong.
    pub key: String,
    /// `None` if it is not UTF-8.
    pub value: Option<Secret<String>>,
    pub number: usize,
    pub spelling: Spelling,
}

/// What is unusual about the way a line is written.
#[derive(Debug, Default)]
pub struct Spelling {
    pub key: KeyForm,
    /// What Kong reads instead of a value that looks like a number.
    pub number_in_kong: Option<Secret<String>>,
    /// A blank at an end of the value that is not ASCII, so it is part of the value.
    pub outer_blank: Option<char>,
}

/// How a key is written in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyForm {
    /// Letters, digits and `_ - .`.
    #[default]
    Plain,
    /// With this character, or with bytes that are not UTF-8.
    NotAscii(Option<char>),
    /// With other characters. If the `=` is in the wrong place, it may hold a secret.
    Other,
}

/// What C's `isspace` accepts. Kong trims no other blanks.
pub(super) const BLANKS: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(BLANKS)
}

impl Conf {
    /// # Errors
    /// Why the bytes are no kong.conf.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return Err("is UTF-16 text: save it as UTF-8");
        }
        let mut conf = Self::default();
        let bare = bytes.strip_prefix(BYTE_ORDER_MARK);
        if bare.is_some() {
            let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if first.contains(&b'=') {
                let message = "the file begins with a byte-order mark: Kong ignores the first key";
                conf.warnings.push((1, message));
            }
        }
        let text = bare.unwrap_or(bytes);
        if !text.contains(&b'\n') && trim_bytes(text).contains(&b'\r') {
            return Err("has carriage returns as line breaks, so Kong reads one line: use line feeds");
        }
        let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
        let mut lines = lines.filter(|(_, line)| !is_blank_or_comment(line));
        while let Some((number, first)) = lines.next() {
            let Some(line) = join_continuations(first, &mut lines) else {
                conf.mistakes.push((number, "the line ends with \\ but the file has no further line"));
                break;
            };
            conf.read_line(number, &line);
        }
        Ok(conf)
    }

    fn read_line(&mut self, number: usize, line: &[u8]) {
        if line.starts_with(b"[") {
            let message = "a kong.conf has no [sections]: Kong ignores every key below this line";
            self.mistakes.push((number, message));
            return;
        }
        let Some(at) = line.iter().position(|byte| *byte == b'=') else {
            let is_blank = str::from_utf8(line).is_ok_and(|line| line.trim().is_empty());
            if !is_blank {
                self.mistakes.push((number, "expected key = value, found no ="));
            }
            return;
        };
        let (key, raw) = (trim_bytes(&line[..at]), &line[at.saturating_add(1)..]);
        let text = str::from_utf8(raw).ok();
        let value = text.map(|raw| Secret::new(trim(&without_comment(raw)).to_owned()));
        let spelling = Spelling {
            key: KeyForm::from_key(key),
            number_in_kong: text.and_then(number::kong_reading).map(Secret::new),
            outer_blank: value.as_ref().and_then(|value| outer_blank(value.expose())),
        };
        let key = key.iter().map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte) } else { '_' });
        self.lines.push(Line { key: key.collect(), value, number, spelling });
    }
}

impl KeyForm {
    fn from_key(key: &[u8]) -> Self {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        match key {
            _ if key.iter().all(is_plain) => Self::Plain,
            _ if key.is_ascii() => Self::Other,
            _ => Self::NotAscii(str::from_utf8(key).ok().and_then(|key| key.chars().find(|c| !c.is_ascii()))),
        }
    }
}

fn outer_blank(value: &str) -> Option<char> {
    let is_blank = |c: &char| c.is_whitespace() || *c == '\u{feff}';
    value.chars().next().filter(is_blank).or_else(|| value.chars().next_back().filter(is_blank))
}

fn is_blank(byte: u8) -> bool {
    BLANKS.contains(&char::from(byte))
}

fn trim_bytes(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    trim_end(bytes)
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., last] = bytes
        && is_blank(*last)
    {
        bytes = rest;
    }
    bytes
}

fn is_blank_or_comment(line: &[u8]) -> bool {
    matches!(trim_bytes(line), [] | [b'#' | b';', ..])
}

/// The line with its continuation lines. Each final `\` is removed, with the blanks after it. `None` if the file ends
/// first.
fn join_continuations<'a>(
    first: &[u8],
    rest: &mut impl Iterator<Item = (usize, &'a [u8])>,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut joined = Zeroizing::new(first.to_owned());
    while let [before @ .., b'\\'] = trim_end(&joined) {
        let len = before.len();
        joined.truncate(len);
        joined.extend_from_slice(rest.next()?.1);
    }
    Some(joined)
}

/// The text up to the first `#` without a `\` before it. Each `\#` becomes `#`.
fn without_comment(text: &str) -> Zeroizing<String> {
    let mut kept = Zeroizing::new(String::with_capacity(text.len()));
    let mut escaped = false;
    for c in text.chars() {
        if c == '#' && !escaped {
            break;
        }
        if c == '#' {
            kept.pop();
        }
        kept.push(c);
        escaped = c == '\\';
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The content of a conf, one line each, in order of the line numbers.
    fn listed(conf: &Conf) -> String {
        let note = |kind, notes: &[(usize, &str)]| {
            notes.iter().map(|(line, text)| (*line, format!("{line} {kind}: {text}"))).collect::<Vec<_>>()
        };
        let mut lines = note("mistake", &conf.mistakes);
        lines.extend(note("warning", &conf.warnings));
        let line = |line: &Line| {
            let value = line.value.as_ref().map_or("(not UTF-8)", |value| value.expose());
            (line.number, format!("{} {} = {value}", line.number, line.key))
        };
        lines.extend(conf.lines.iter().map(line));
        lines.sort_by_key(|(line, _)| *line);
        lines.into_iter().map(|(_, text)| text + "\n").collect()
    }

    /// The table of Kong's grammar: each file's name describes what is expected of it.
    #[test]
    fn every_file_of_the_table_is_parsed_as_its_name_says() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kong-conf");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let confs: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
        assert!(confs.len() >= 23, "{}", confs.len());
        for path in confs {
            let text = std::fs::read(&path).unwrap();
            let expected = std::fs::read_to_string(path.with_extension("expected")).unwrap();
            assert_eq!(listed(&Conf::parse(&text).unwrap()), expected, "{}", path.display());
        }
    }

    /// Kong's grammar a second time, from its documented facts, so that the parser is not compared with itself. Each
    /// byte is a char here, which is how Lua sees a text. `None` where a line or the end of the file is lost in Kong.
    fn documented_reading(bytes: &[u8]) -> Option<Vec<(String, String)>> {
        let blank = |c: char| " \t\n\u{b}\u{c}\r".contains(c);
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        // Fact 1: blank lines and comments are skipped, also inside a continuation.
        let skipped = |line: &str| {
            let start = line.trim_start_matches(blank);
            start.is_empty() || start.starts_with('#') || start.starts_with(';')
        };
        // Fact 2: a \ and optional blanks at the end continue the line; the next line's leading blanks stay.
        let (mut lines, mut open) = (Vec::new(), String::new());
        let mut continues = false;
        for line in text.split('\n').filter(|line| !skipped(line)) {
            let end = line.trim_end_matches(blank);
            continues = end.ends_with('\\');
            open.push_str(if continues { &end[..end.len() - 1] } else { line });
            if !continues {
                lines.push(std::mem::take(&mut open));
            }
        }
        if continues {
            return None;
        }
        let mut values = Vec::new();
        for line in lines {
            // No key: we pass over blanks that are not ASCII, as Kong does.
            if line.chars().all(|c| blank(c) || matches!(c, '\u{c2}' | '\u{a0}')) {
                continue;
            }
            // Facts 3 and 4: a [ in column 0 is a section; the first = splits.
            if line.starts_with('[') {
                return None;
            }
            let at = line.find('=')?;
            let (key, value) = (line[..at].trim_matches(blank), &line[at + 1..]);
            // Fact 5: every other character of a key counts as _.
            let key = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            // Fact 6: a # starts a comment unless it is escaped; \# is a #; the value is trimmed.
            let is_comment = |at: &usize| !value[..*at].ends_with('\\');
            let comment = value.match_indices('#').map(|(at, _)| at).find(is_comment);
            let value = value[..comment.unwrap_or(value.len())].replace("\\#", "#");
            values.push((key, value.trim_matches(blank).to_owned()));
        }
        Some(values)
    }

    /// Lines of everything that has a meaning in the grammar.
    fn confs() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            "=",
            " = ",
            "#",
            "\\#",
            "\\",
            "\\\n",
            "\\ \t\n",
            "\n",
            "\r\n",
            " ",
            "\t",
            "\u{b}",
            "[",
            "]",
            ";",
            "a",
            "keyring_name",
            "vault-path",
            "0",
            "\u{e9}",
            "\u{a0}",
            "\"",
            "\n[",
            "\n #",
            "x = ",
            "\0",
        ]);
        let tokens = prop::collection::vec(token, 0..24);
        tokens.prop_map(|tokens| tokens.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn the_parser_agrees_with_the_documented_grammar(bytes in confs()) {
            let conf = Conf::parse(&bytes).unwrap();
            let read = conf.lines.iter().map(|line| {
                let value = line.value.as_ref().unwrap().expose();
                (line.key.clone(), value.bytes().map(char::from).collect::<String>())
            });
            match documented_reading(&bytes) {
                Some(expected) => {
                    prop_assert_eq!(read.collect::<Vec<_>>(), expected);
                    prop_assert_eq!(&conf.mistakes, &[]);
                }
                None => prop_assert!(!conf.mistakes.is_empty()),
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Conf::parse(&bytes);
        }

        #[test]
        fn a_value_that_was_written_reads_back(value in r"[^\s\\#\r\n]([^\\\r\n]*[^\s\\#\r\n])?") {
            let written = format!("key = {}\n", value.replace('#', r"\#"));
            let conf = Conf::parse(written.as_bytes()).unwrap();
            prop_assert_eq!(conf.lines[0].value.as_ref().unwrap().expose(), &value);
        }
    }
}
