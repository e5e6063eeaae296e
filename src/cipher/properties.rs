//! What holds for every message, of all formats together: it opens as it was and only so, no changed bit passes, and no format
//! takes another's ciphertext. `PROPTEST_CASES` makes the runs longer.

use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use proptest::{prelude::*, test_runner::Config};

use super::{testing::*, *};

/// How a message can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text(Format),
    Binary,
    Kms,
}

const FORMS: [Form; 4] = [Form::Text(Format::Native), Form::Text(Format::Transit), Form::Binary, Form::Kms];

/// What a message holds and is bound to.
#[derive(Clone, Debug)]
struct Message {
    plaintext: Vec<u8>,
    associated_data: Vec<u8>,
    context: Vec<u8>,
}

/// Three keys in versions of their own; `b` is active.
fn three_keys() -> Keyring {
    let held = |(version, id): (u64, &str)| {
        HeldKey::new(key(id, id.as_bytes()[0]).into(), version, SystemTime::UNIX_EPOCH)
    };
    Keyring::new((1..).zip(["a", "b", "c"]).map(held), key("b", 0).id()).unwrap()
}

fn seal(keyring: &Keyring, form: Form, message: &Message, batch: &mut Batch) -> Vec<u8> {
    let Message { plaintext, associated_data, context } = message;
    let derived = |format| in_context(keyring.active(), format, context).unwrap();
    let room = || [&[0; ROOM], &plaintext[..]].concat();
    match form {
        Form::Text(format) => {
            let held = if context.is_empty() { keyring.active() } else { &derived(format) };
            let (mut plaintext, mut out) = (plaintext.clone(), Vec::new());
            seal_text(held, format, &mut plaintext, batch, associated_data, &mut out).unwrap();
            out
        }
        Form::Binary => seal_binary(keyring.active(), room(), batch, associated_data).as_bytes().to_vec(),
        Form::Kms => seal_kms(keyring.active(), room(), batch, associated_data).as_bytes().to_vec(),
    }
}

fn open(keyring: &Keyring, form: Form, sealed: &[u8], message: &Message) -> Option<Vec<u8>> {
    let Message { associated_data, context, .. } = message;
    let mut sealed = sealed.to_vec();
    let opened = match form {
        Form::Text(_) => {
            let binding = Binding { associated_data, context };
            let opened =
                open_bound(keyring, &mut sealed, binding, KongFields::Refuse, &mut Batch::to_open()).ok()?;
            return Some(sealed[opened.plaintext].to_vec());
        }
        Form::Binary => open_bytes(keyring, &mut sealed, 0, associated_data, KongFields::Refuse),
        Form::Kms => open_kms(keyring.active(), sealed, associated_data),
    };
    Some(opened.ok()?.plaintext.as_bytes().to_vec())
}

/// The two forms of the native format are one message in two encodings.
fn is_same_message(form: Form, other: Form) -> bool {
    let is_native = |form| matches!(form, Form::Text(Format::Native) | Form::Binary);
    form == other || (is_native(form) && is_native(other))
}

/// Where the nonce begins, or its base64.
fn head_len(form: Form, sealed: &[u8], message: &Message) -> usize {
    match form {
        Form::Text(_) => sealed.iter().rposition(|byte| *byte == b':').unwrap() + 1,
        Form::Binary | Form::Kms => sealed.len() - native::NONCE_LEN - message.plaintext.len() - TAG_LEN,
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=most)
}

fn message(form: Form, most: usize) -> impl Strategy<Value = Message> {
    let longest = if matches!(form, Form::Text(_)) { 40 } else { 0 };
    (bytes(most), bytes(40), bytes(longest)).prop_map(|(plaintext, associated_data, context)| Message {
        plaintext,
        associated_data,
        context,
    })
}

fn form_and_message(most: usize) -> impl Strategy<Value = (Form, Message)> {
    prop::sample::select(FORMS.to_vec()).prop_flat_map(move |form| (Just(form), message(form, most)))
}

proptest! {
    #[test]
    fn each_message_of_a_batch_opens_as_it_was_and_bound_to_nothing_else(
        (form, messages) in prop::sample::select(FORMS.to_vec())
            .prop_flat_map(|form| (Just(form), proptest::collection::vec(message(form, 300), 1..8))),
    ) {
        let keyring = three_keys();
        let mut batch = Batch::to_seal(messages.len()).unwrap();
        for message in &messages {
            let sealed = seal(&keyring, form, message, &mut batch);
            let opened = open(&keyring, form, &sealed, message);
            prop_assert_eq!(opened.as_ref(), Some(&message.plaintext));
            let mut other = message.clone();
            other.associated_data.push(0);
            prop_assert_eq!(open(&keyring, form, &sealed, &other), None);
            if matches!(form, Form::Text(_)) {
                let mut other = message.clone();
                other.context.push(0);
                prop_assert_eq!(open(&keyring, form, &sealed, &other), None);
            }
        }
    }

    #[test]
    fn no_form_opens_what_another_sealed((form, message) in form_and_message(60)) {
        let keyring = three_keys();
        let mut batch = Batch::to_seal(1).unwrap();
        let sealed = seal(&keyring, form, &message, &mut batch);
        for other in FORMS.into_iter().filter(|other| !is_same_message(form, *other)) {
            let mut batch = Batch::to_seal(1).unwrap();
            let empty = Message { context: Vec::new(), ..message.clone() };
            let like = seal(&keyring, other, &empty, &mut batch);
            // The body of one form behind the head of the other, as bytes or as base64.
            let head = &like[..head_len(other, &like, &empty)];
            let body = &sealed[head_len(form, &sealed, &message)..];
            let body = match (form, other) {
                (Form::Text(_), Form::Binary | Form::Kms) => BASE64_STANDARD.decode(body).unwrap(),
                (Form::Binary | Form::Kms, Form::Text(_)) => BASE64_STANDARD.encode(body).into_bytes(),
                _ => body.to_vec(),
            };
            prop_assert_eq!(open(&keyring, other, &[head, &body].concat(), &message), None, "as {:?}", other);
        }
        let mut text = sealed;
        let kong = open_bytes(&keyring, &mut text, 0, &message.associated_data, KongFields::Accept);
        let is_native = !matches!(form, Form::Kms | Form::Text(Format::Transit)) && message.context.is_empty();
        prop_assert_eq!(kong.is_ok(), is_native, "where Kong's fields are read");
    }
}

proptest! {
    #![proptest_config(Config::with_cases(Config::default().cases / 8))]

    #[test]
    fn no_message_with_a_changed_bit_opens((form, message) in form_and_message(20)) {
        let keyring = three_keys();
        let mut batch = Batch::to_seal(1).unwrap();
        let sealed = seal(&keyring, form, &message, &mut batch);
        let is_text = matches!(form, Form::Text(_));
        let at = if is_text { head_len(form, &sealed, &message) } else { 0 };
        // Of a text: the bits that the base64 stands for. Its head is tried below.
        let body = if is_text { BASE64_STANDARD.decode(&sealed[at..]).unwrap() } else { sealed.clone() };
        for bit in 0..body.len() * 8 {
            let mut changed = body.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let text = BASE64_STANDARD.encode(&changed).into_bytes();
            let changed = if is_text { [&sealed[..at], &text].concat() } else { changed };
            prop_assert_eq!(open(&keyring, form, &changed, &message), None, "bit {}", bit);
        }
        for bit in 0..at * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&keyring, form, &changed, &message), None, "bit {} of the head", bit);
        }
        for len in 0..sealed.len() {
            prop_assert_eq!(open(&keyring, form, &sealed[..len], &message), None, "{} bytes", len);
        }
    }
}

/// A quarter of a million by default; `PROPTEST_CASES=10000` tries 10 million.
#[test]
fn no_nonce_is_drawn_twice() {
    const PER_DRAW: usize = 1000;
    let (mut halves, mut short) = (Vec::new(), Vec::new());
    for _ in 0..Config::default().cases {
        let mut batch = Batch::to_seal(2 * PER_DRAW).unwrap();
        let shared: [u8; 12] = batch.nonce()[..12].try_into().unwrap();
        halves.push(shared);
        for _ in 1..PER_DRAW {
            let nonce = batch.nonce();
            assert_eq!(nonce[..12], shared);
            halves.push(nonce[12..].try_into().unwrap());
        }
        short.extend((0..PER_DRAW).map(|_| batch.short_nonce()));
    }
    for mut seen in [halves, short] {
        let drawn = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), drawn);
    }
}
