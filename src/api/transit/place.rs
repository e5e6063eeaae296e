//! Where the texts of a request are, so that they are decoded, encrypted and decrypted there: a body is never copied.

use std::{borrow::Cow, ops::Range};

use super::values::Text;

/// Where a text is: in the body, or in a copy of its own if it has escapes.
pub(super) enum Place {
    Body(Range<usize>),
    Copy(Vec<u8>),
}

impl Place {
    /// Finds a text that was parsed from this body.
    pub(super) fn find(text: Text<'_>, body: &[u8]) -> Self {
        match text.0 {
            Cow::Owned(copy) => Self::Copy(copy.into_bytes()),
            Cow::Borrowed("") => Self::Body(0..0),
            Cow::Borrowed(text) => {
                let start = text.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
                let range = start..start.wrapping_add(text.len());
                let is_there = body.get(range.clone()).is_some_and(|there| there.as_ptr() == text.as_ptr());
                if is_there { Self::Body(range) } else { Self::Copy(text.as_bytes().to_vec()) }
            }
        }
    }

    pub(super) fn bytes<'t>(&'t self, body: &'t [u8]) -> &'t [u8] {
        match self {
            Self::Body(range) => &body[range.clone()],
            Self::Copy(copy) => copy,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Body(range) => range.len(),
            Self::Copy(copy) => copy.len(),
        }
    }
}

/// The bytes of two texts, to be changed. An absent one has none.
pub(super) fn bytes_of_both<'t>(
    body: &'t mut [u8],
    one: &'t mut Place,
    other: &'t mut Option<Place>,
) -> (&'t mut [u8], &'t mut [u8]) {
    let range = |place: Option<&Place>| match place {
        Some(Place::Body(range)) => range.clone(),
        Some(Place::Copy(_)) | None => 0..0,
    };
    let [in_body, other_in_body] = body
        .get_disjoint_mut([range(Some(one)), range(other.as_ref())])
        .unwrap_or_else(|_| unreachable!("texts of one body do not overlap"));
    let bytes = match one {
        Place::Body(_) => in_body,
        Place::Copy(copy) => copy,
    };
    let other = match other {
        Some(Place::Copy(copy)) => copy,
        Some(Place::Body(_)) | None => other_in_body,
    };
    (bytes, other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_in_the_body_or_copied() {
        let mut body = *b"some text and other";
        let borrowed = |text: &'static str| Text(Cow::Borrowed(text));
        let some = str::from_utf8(&body[..4]).unwrap();
        let mut one = Place::find(Text(Cow::Borrowed(some)), &body);
        let mut two = Some(Place::find(Text(Cow::Borrowed(str::from_utf8(&body[14..]).unwrap())), &body));
        let mut copy = Place::find(Text(Cow::Owned("copy".to_owned())), &body);
        assert!(matches!(&one, Place::Body(range) if *range == (0..4)));
        assert!(matches!(Place::find(borrowed("elsewhere"), &body), Place::Copy(_)));
        assert!(matches!(Place::find(borrowed(""), &body), Place::Body(range) if range.is_empty()));
        assert_eq!((one.bytes(&body), two.as_ref().map(Place::len), copy.len()), (&b"some"[..], Some(5), 4));
        let (first, second) = bytes_of_both(&mut body, &mut one, &mut two);
        first.copy_from_slice(b"SOME");
        second.copy_from_slice(b"OTHER");
        let mut absent = None;
        let (first, second) = bytes_of_both(&mut body, &mut copy, &mut absent);
        assert_eq!((&*first, &*second), (&b"copy"[..], &b""[..]));
        assert_eq!(&body, b"SOME text and OTHER");
    }
}
