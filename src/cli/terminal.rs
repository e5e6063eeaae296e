//! Text for a terminal: colours where the terminal and the user want them (`NO_COLOR`), and lines that fit.

use std::fmt::Write as _;

use console::{Term, measure_text_width, style};

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Failed,
    Minor,
}

/// The text in the colour of its tone, if standard output shows colours.
pub(super) fn tinted(text: &str, tone: Tone) -> String {
    let text = style(text);
    match tone {
        Tone::Good => text.green(),
        Tone::Warning => text.yellow(),
        Tone::Failed => text.red(),
        Tone::Minor => text.dim(),
    }
    .to_string()
}

/// The width of the terminal at standard output.
pub(super) fn width() -> Option<usize> {
    Term::stdout().size_checked().map(|(_, columns)| columns.into())
}

/// Switches all colours off (ECMA-48).
const RESET: &str = "\x1b[0m";

/// The lines of a text that fit on the terminal at standard output, above the cursor.
pub(super) fn top(text: &str) -> String {
    let rows = Term::stdout().size_checked().map_or(usize::MAX, |(rows, _)| rows.into());
    first_lines(text, rows.saturating_sub(1).max(2))
}

/// The whole text, or its first lines and how many more there are.
fn first_lines(text: &str, count: usize) -> String {
    let all = text.lines().count();
    if all <= count {
        return text.to_owned();
    }
    let shown: String = text.split_inclusive('\n').take(count - 1).collect();
    let reset = if shown.contains('\x1b') { RESET } else { "" };
    format!("{shown}{reset}… {} more lines\n", all + 1 - count)
}

/// Wraps a text between its words to lines with this indent.
pub(super) fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let (mut lines, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        let len = measure_text_width(word);
        if used > 0 && used + 1 + len <= width {
            lines.push(' ');
            used += 1;
        } else if used > 0 && word.is_empty() {
            continue; // of a gap of several blanks, at the end of a line
        } else {
            let end = if used > 0 { "\n" } else { "" };
            let _ = write!(lines, "{end}{:indent$}", "");
            used = indent;
        }
        lines += word;
        used += len;
    }
    lines + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_more_lines_than_rows_is_cut() {
        assert_eq!(first_lines("a\nb\nc\n", 3), "a\nb\nc\n");
        assert_eq!(first_lines("a\nb\nc\nd\n", 3), "a\nb\n… 2 more lines\n");
        assert_eq!(first_lines("\x1b[31ma\nb\x1b[0m\nc\n", 2), "\x1b[31ma\n\x1b[0m… 2 more lines\n");
    }

    #[test]
    fn lines_are_wrapped_between_words() {
        let text = format!("one {} two {} three", "x".repeat(93), "y".repeat(120));
        let lines = format!("  one {}\n  two\n  {}\n  three\n", "x".repeat(93), "y".repeat(120));
        assert_eq!(wrapped(&text, 2, 100), lines);
        assert_eq!(wrapped("a  b  c", 2, 6), "  a  b\n  c\n");
        assert_eq!(wrapped("", 2, 6), "  \n");
        // A colour has no width.
        assert_eq!(wrapped("\x1b[31ma b\x1b[0m c", 1, 4), " \x1b[31ma b\x1b[0m\n c\n");
    }
}
