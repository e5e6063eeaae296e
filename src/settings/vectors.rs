//! Kong's recorded readings of files and variables, compared with ours: equal, or noted at the line or variable, or in the
//! list of deliberate differences.
//!
//! The recording is `tests/vectors/kong-conf.json`: what Kong's open-source loader held for each input.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::Value as Json;

use super::{
    Note, keys, load,
    merge::Merged,
    source::{File, Found, Origin, Source, Value, environment::Variables},
    value,
};

/// Inputs that Kong reads differently without a note from us, and why.
const DELIBERATE: &[(&str, &str)] = &[
    ("path=_blank_", "Kong holds a Lua table, not the text"),
    ("path=a_blank_b", "Kong holds a Lua table, not the text"),
];

/// Inputs that Kong reads differently, each with an error or a warning of ours.
const NOTED: &[&str] = &[
    "ca-empty",
    "depth-0x2",
    "depth-1e1",
    "depth-2.0",
    "enabled-1",
    "enabled-On",
    "enabled-TRUE",
    "enabled-yes",
    "env {'KONG_LUA_SSL_TRUSTED_CERTIFICATE': ''}",
    "env {'KONG_LUA_SSL_VERIFY_DEPTH': '0x2'}",
    "env {'KONG_LUA_SSL_VERIFY_DEPTH': '2.0'}",
    "hcv-port0",
    "latin1-own",
    "path=+inf",
    "path=+nan",
    "path=0.10",
    "path=00",
    "path=007",
    "path=0x1.8",
    "path=0x1F",
    "path=1.50",
    "path=1e-3",
    "path=1e3",
    "path=1e400",
    "path=5 kB",
    "path=5.",
    "path=5.0",
    "path=99999999999999999999",
    "path={vault://env/foo}",
    "random 186",
    "random 282",
    "random 296",
    "random 310",
    "random 385",
    "random 396",
    "random 501",
    "section-unclosed",
];

#[derive(Deserialize)]
struct Recording {
    base: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// Text, or bytes as `{"base64": …}`.
    lines: Json,
    after_base: bool,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// The values that differ from the base's, or why Kong does not start.
    kong: Json,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Equal,
    Noted,
    Silent(String),
}

struct Conf(Vec<u8>);

impl Source for Conf {
    fn read(&self) -> Found {
        File("kong.conf".into()).content(&self.0)
    }
}

fn bytes(json: &Json) -> Vec<u8> {
    match json {
        Json::String(text) => text.clone().into_bytes(),
        other => BASE64_STANDARD.decode(other["base64"].as_str().unwrap()).unwrap(),
    }
}

/// The values of a file in which every line is `key = value`.
fn plain(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(" = ")).collect()
}

/// A value as Kong holds it: booleans and lists have one form each.
fn as_kong_holds(key: &str, text: &str) -> String {
    match (key, text) {
        ("keyring_enabled", "on") => "true".to_owned(),
        ("keyring_enabled", "off") => "false".to_owned(),
        ("lua_ssl_trusted_certificate", list) => value::list(list).join(","),
        _ => text.to_owned(),
    }
}

fn outcome(recording: &Recording, case: &Case, keys: &[&str]) -> Outcome {
    let base = if case.after_base { recording.base.as_str() } else { "" };
    let text = [base.as_bytes(), &bytes(&case.lines)].concat();
    let variables = case.variables.clone().into_iter().collect();
    let sources: [Box<dyn Source>; 2] = [Box::new(Conf(text)), Box::new(Variables(variables))];
    let loaded = load(&sources);
    let notes = [loaded.warnings, loaded.settings.err().unwrap_or_default()].concat();
    // Nearly every case sets a key of the base again, so that warning explains no difference.
    let is_noted = |key: &str| {
        notes.iter().any(|Note { origin, key: of, message }| match origin {
            Origin::WholeFile(_) => true,
            Origin::Default => false,
            _ => {
                message.contains("[sections]")
                    || of.as_deref() == Some(key) && !message.starts_with("set twice")
            }
        })
    };
    if case.kong.is_string() {
        return if is_noted("") { Outcome::Noted } else { Outcome::Silent("Kong does not start".to_owned()) };
    }
    let merged = Merged::from_sources(&sources);
    let mut result = Outcome::Equal;
    for key in keys {
        let row = keys::find(key).unwrap();
        let ours = match merged.values.get(key).map(|entry| &entry.value) {
            None => None,
            Some(Value::Text(text)) => Some(text.expose().clone()),
            Some(_) => Some("(an error)".to_owned()),
        };
        let ours = ours.filter(|text| !text.is_empty()).or_else(|| row.default.map(str::to_owned));
        let ours = ours.map(|text| as_kong_holds(key, &text));
        let kongs = match case.kong.get(*key) {
            // Unset in Kong: unset here too, or the default.
            Some(Json::Null) => row.default.map(|text| as_kong_holds(key, text)),
            Some(Json::String(text)) => Some(text.clone()),
            Some(bytes) => Some(format!("(bytes) {bytes}")),
            None => plain(base).get(key).copied().or(row.default).map(|text| as_kong_holds(key, text)),
        };
        if ours == kongs {
            continue;
        }
        if !is_noted(key) {
            return Outcome::Silent(format!("{key} is {ours:?}, and {kongs:?} in Kong; notes {notes:?}"));
        }
        result = Outcome::Noted;
    }
    result
}

#[test]
fn no_recorded_reading_of_kong_differs_silently() {
    let recording: Recording =
        serde_json::from_str(include_str!("../../tests/vectors/kong-conf.json")).unwrap();
    assert_eq!(recording.cases.len(), 627);
    let recorded =
        recording.cases.iter().filter_map(|case| case.kong.as_object()).flat_map(|kong| kong.keys());
    let mut keys: Vec<_> = recorded.map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    let (mut noted, mut silent) = (Vec::new(), Vec::new());
    for case in &recording.cases {
        match outcome(&recording, case, &keys) {
            Outcome::Equal => {}
            Outcome::Noted => noted.push(case.name.as_str()),
            Outcome::Silent(how) => silent.push((case.name.as_str(), how)),
        }
    }
    let deliberate: Vec<_> = DELIBERATE.iter().map(|(name, _)| *name).collect();
    let names: Vec<_> = silent.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, deliberate, "{silent:#?}");
    assert_eq!(noted, NOTED);
}
