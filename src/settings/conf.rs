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

    fn entries(text: &str) -> Vec<(String, String, usize)> {
        let conf = Conf::parse(text);
        assert_eq!((conf.mistakes, conf.warnings), (vec![], vec![]), "{text:?}");
        conf.entries.into_iter().map(|entry| (entry.key, entry.value.expose().clone(), entry.line)).collect()
    }

    fn value(text: &str) -> String {
        let entries = entries(text);
        assert_eq!(entries.len(), 1, "{text:?}");
        entries[0].1.clone()
    }

    #[test]
    fn blanks_and_comments_are_not_part_of_a_value() {
        for text in [
            "keyring_enabled=on",
            "  keyring_enabled   =   on   ",
            "\tkeyring_enabled\t=\ton\t",
            "keyring_enabled = on # enable it",
            "keyring_enabled = on#enable",
            "keyring_enabled = on\r\n",
            "\n\n# a comment\nkeyring_enabled = on\n; another\n",
        ] {
            assert_eq!(value(text), "on", "{text:?}");
        }
        for text in ["", "\n", "   # keyring_enabled = on", "; keyring_enabled = on", "#", "  \t "] {
            assert_eq!(entries(text), [], "{text:?}");
        }
    }

    #[test]
    fn a_hash_is_literal_only_behind_a_backslash() {
        for (text, expected) in [
            ("t = s.ab#cd", "s.ab"),
            (r"t = a\#b\#c", "a#b#c"),
            (r"t = a\\#b", r"a\#b"),
            ("t = #leading", ""),
            (r"t = \#leading", "#leading"),
            (r"t = a \ b", r"a \ b"),
            (r#"t = "hvs.abc""#, r#""hvs.abc""#),
            ("t = a=b=c==", "a=b=c=="),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_final_backslash_continues_on_the_next_line_that_says_something() {
        assert_eq!(value("path = a\\\n  b \\\n c"), "a  b  c");
        assert_eq!(value("list = a,\\\n# a comment\n\n  b"), "a,  b");
        let conf = Conf::parse("one = 1\npath = a\\\n# nothing more\n");
        assert_eq!(conf.mistakes, [(2, "the line ends in \\ and the file ends before it continues")]);
        assert_eq!(conf.entries.len(), 1);
    }

    #[test]
    fn every_other_character_of_a_key_counts_as_an_underscore() {
        for key in ["keyring-vault-host", "keyring.vault.host", "keyring_vault_host"] {
            assert_eq!(entries(&format!("{key} = x"))[0].0, "keyring_vault_host");
        }
    }

    #[test]
    fn entries_keep_their_order_and_lines() {
        let expected = [("a".to_owned(), "1".to_owned(), 1), ("a".to_owned(), "2".to_owned(), 3)];
        assert_eq!(entries("a = 1\n\na = 2\n"), expected);
    }

    #[test]
    fn what_kong_would_lose_without_a_word_is_a_mistake() {
        let conf = Conf::parse("[keyring]\nkeyring_enabled\n  = on\n");
        assert_eq!(
            conf.mistakes,
            [
                (1, "kong.conf has no [sections]: Kong would lose every key below this line"),
                (2, "expected key = value, and there is no ="),
            ]
        );
        let conf = Conf::parse("\u{feff}keyring_enabled = on");
        assert_eq!((conf.entries[0].key.as_str(), conf.warnings.len()), ("keyring_enabled", 1));
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
