//! A value that is no secret, as people are shown it: short, and without what somebody put into the wrong place.
//!
//! Which values are for nobody's eyes, the `reader` knows.

use super::pem;

/// What people read is shorter, unless it is a path or a URL; what is longer may be a key in base64.
const LONGEST_SHOWN: usize = 64;

/// A value as it is quoted in a message: on one line, and not longer than people read.
pub fn shortened(text: &str) -> String {
    let text = &presentable(text);
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{text:?}") }
}

/// A value as it may be shown: without a password that somebody put into a URL, and without PEM, which may hold a key
/// that somebody put into the wrong place.
pub fn presentable(text: &str) -> String {
    let shown = |item: &str| item.len() <= LONGEST_SHOWN || item.contains("://") || pem::is_path(item);
    if text.contains("-----BEGIN") || !text.split(',').all(|item| shown(item.trim())) {
        return "[text, not shown]".to_owned();
    }
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}[redacted]{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}
