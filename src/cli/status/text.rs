//! The status for people: aligned lines `name: value`, in colour on a terminal, each failure once.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use super::{
    super::terminal::{self, Tone, tinted},
    array, field,
};

/// The columns before a value: the longest name with its colon, and a blank.
const LABEL: usize = 14;

/// The lines so far.
struct Lines {
    text: String,
    /// The messages of failures, as they are shown.
    shown: Vec<String>,
    /// That of the terminal, if it is one.
    width: Option<usize>,
}

/// The status as text.
pub(super) fn lines(status: &Value) -> String {
    let mut lines = Lines { text: String::new(), shown: Vec::new(), width: terminal::width() };
    lines.state(status);
    lines.process(status);
    lines.vault(status);
    for key in array(status, "/keyring/keys") {
        lines.key(key);
    }
    lines.keyrings(status);
    let shown = array(status, "/keyring/keys").count();
    let total = status.pointer("/keyring/keys_total").and_then(Value::as_u64);
    let more = total.and_then(|total| total.checked_sub(shown as u64)).filter(|more| *more > 0);
    lines.optional("more keys", more.map(|more| more.to_string()));
    lines.kubernetes(status);
    for (name, pointer) in [
        ("warning", "/warnings"),
        ("warning", "/sync/warnings"),
        ("warning", "/source/keyrings/warnings"),
        ("not reloaded", "/source/reload_mistakes"),
    ] {
        for message in array(status, pointer).filter_map(Value::as_str) {
            lines.failure(name, message, Tone::Warning);
        }
    }
    lines.text
}

/// Where the keys come from, if that is the sealed copy.
fn from_copy(status: &Value) -> String {
    let age = seconds(status, "/sync/seconds_since_success");
    match (field(status, "/keyring/source").as_deref(), age) {
        (Some("copy"), Some(age)) => format!(", from the copy of {} ago", short(age)),
        _ => String::new(),
    }
}

/// The secret that the keys are of, while the settings name another.
fn of_another_secret(status: &Value) -> String {
    let secret = field(status, "/moving_from");
    secret.map_or_else(String::new, |secret| format!(", with the keys of {secret}"))
}

impl Lines {
    fn line(&mut self, name: &str, value: &str) {
        let label = format!("{name}:");
        let lines = terminal::wrapped(value, LABEL, self.width.unwrap_or(usize::MAX));
        let _ = write!(self.text, "{label:<LABEL$}{}", &lines[LABEL..]);
    }

    fn optional(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.line(name, &value);
        }
    }

    /// A message that is not shown above.
    fn failure(&mut self, name: &str, message: &str, tone: Tone) {
        if !self.shows(message) {
            let tinted = self.tinted(message, tone);
            self.line(name, &tinted);
        }
    }

    /// Whether a message above has this one in it. The text above has it in lines.
    fn shows(&self, message: &str) -> bool {
        self.shown.iter().any(|shown| shown.contains(message))
    }

    fn tinted(&mut self, message: &str, tone: Tone) -> String {
        self.shown.push(message.to_owned());
        tinted(message, tone)
    }

    fn state(&mut self, status: &Value) {
        let reason = field(status, "/reason");
        let tone = if reason.is_some() { Tone::Failed } else { Tone::Good };
        let state = reason.unwrap_or_else(|| match field(status, "/keyring/active") {
            Some(id) => format!("ready{}{}, active key {id}", from_copy(status), of_another_secret(status)),
            None => "ready, serving references only".to_owned(),
        });
        let state = self.tinted(&state, tone);
        self.line("state", &state);
    }

    fn process(&mut self, status: &Value) {
        let parts = [
            field(status, "/version"),
            field(status, "/pid").map(|pid| format!("pid {pid}")),
            seconds(status, "/uptime_seconds").map(|up| format!("up {}", short(up))),
        ];
        self.line("version", &parts.into_iter().flatten().collect::<Vec<_>>().join(", "));
        self.optional("name", field(status, "/name"));
        self.optional("settings", field(status, "/source/configuration"));
        let access = match status.pointer("/access_list").and_then(Value::as_bool) {
            Some(true) => ", for the users of keyring_access",
            Some(false) if field(status, "/name").is_none() => ", for nobody: references need keyring_access",
            Some(false) => ", for every user who may connect",
            None => "",
        };
        self.optional("socket", field(status, "/source/socket").map(|socket| socket + access));
        self.optional("connections", field(status, "/connections"));
    }

    fn vault(&mut self, status: &Value) {
        self.optional("vault", field(status, "/source/vault"));
        let secret = field(status, "/secret/mount").zip(field(status, "/secret/path"));
        let kv = field(status, "/secret/kv").unwrap_or_default();
        self.optional("secret", secret.map(|(mount, path)| format!("{mount}/{path}, KV {kv}")));
        let last = field(status, "/sync/last_success").zip(seconds(status, "/sync/seconds_since_success"));
        let last = last.map_or_else(String::new, |(time, ago)| format!("{time} ({} ago)", short(ago)));
        let next = seconds(status, "/sync/seconds_to_next").map(|next| format!("next in {}", short(next)));
        let sync: Vec<_> = [Some(last).filter(|last| !last.is_empty()), next].into_iter().flatten().collect();
        self.optional("last sync", Some(sync.join(", ")).filter(|sync| !sync.is_empty()));
        if let Some(error) = field(status, "/sync/last_error") {
            self.failure("last error", &error, Tone::Failed);
        }
        let headroom = field(status, "/sync/headroom");
        self.optional(
            "headroom",
            headroom.map(|left| format!("{left} more versions before Vault destroys the oldest")),
        );
        self.copy(status);
        for folder in array(status, "/source/keyrings/folders") {
            self.folder(folder);
        }
        for session in array(status, "/source/sessions") {
            self.session(session);
        }
    }

    /// The sealed copy, and why it is not usable or not written.
    fn copy(&mut self, status: &Value) {
        let Some(path) = field(status, "/source/copy/path") else { return };
        let written = seconds(status, "/source/copy/seconds_since_written");
        let written =
            written.map_or_else(|| "not written yet".to_owned(), |ago| format!("written {} ago", short(ago)));
        self.line("sealed copy", &format!("{path}, {written}"));
        for (name, pointer) in
            [("copy unused", "/source/copy/unusable"), ("not written", "/source/copy/write_failure")]
        {
            if let Some(reason) = field(status, pointer) {
                self.failure(name, &reason, Tone::Warning);
            }
        }
    }

    /// A folder of keyrings.
    fn folder(&mut self, folder: &Value) {
        let path = field(folder, "/path").unwrap_or_default();
        match (field(folder, "/secrets"), field(folder, "/last_error")) {
            (_, Some(error)) => self.failure("folder", &format!("{path}  {error}"), Tone::Failed),
            (Some(secrets), None) => self.line("folder", &format!("{path}  {secrets} secrets")),
            (None, None) => self.line("folder", &format!("{path}  not listed yet")),
        }
    }

    fn session(&mut self, session: &Value) {
        let (name, method) =
            (field(session, "/name").unwrap_or_default(), field(session, "/auth_method").unwrap_or_default());
        let error = field(session, "/login_error");
        let state = if session.pointer("/logged_in") == Some(&Value::Bool(true)) {
            let expiry = seconds(session, "/seconds_to_expiry")
                .map_or_else(|| "never expires".to_owned(), |left| format!("expires in {}", short(left)));
            let next = seconds(session, "/seconds_to_next_step");
            let next = next.map_or_else(String::new, |next| format!(", renewal in {}", short(next)));
            format!("logged in by {method}; the token {expiry}{next}")
        } else {
            match error {
                Some(error) if !self.shows(&error) => {
                    format!("not logged in: {}", self.tinted(&error, Tone::Failed))
                }
                Some(_) => "not logged in, for the reason above".to_owned(),
                None => "not logged in yet".to_owned(),
            }
        };
        self.line("session", &format!("{name}  {state}"));
    }

    fn key(&mut self, key: &Value) {
        let fields = ["/id", "/state", "/version", "/creation_time"].map(|pointer| field(key, pointer));
        if let [Some(id), Some(state), Some(version), Some(created)] = fields {
            let state = tinted(&state, if state == "active" { Tone::Good } else { Tone::Minor });
            let print =
                field(key, "/fingerprint").map_or_else(String::new, |print| format!("  fingerprint {print}"));
            self.line("key", &format!("{id}  {state}  version {version} of {created}{print}"));
        }
    }

    /// A line for each keyring, if there are several.
    fn keyrings(&mut self, status: &Value) {
        if array(status, "/keyrings").count() < 2 {
            return;
        }
        let own = field(status, "/name").unwrap_or_default();
        for keyring in array(status, "/keyrings") {
            let name = field(keyring, "/name").unwrap_or_default();
            let active = field(keyring, "/active").unwrap_or_default();
            let keys = field(keyring, "/keys").unwrap_or_default();
            let state = match field(keyring, "/reason") {
                Some(reason) => self.tinted(&reason, Tone::Failed),
                None => format!("ready, active key {active}, {keys} in all"),
            };
            let notes = if name == own { String::new() } else { notes(keyring, &name) };
            let notes = if notes.is_empty() { notes } else { tinted(&notes, Tone::Warning) };
            self.line("keyring", &format!("{name}  {state}{notes}"));
        }
    }

    fn kubernetes(&mut self, status: &Value) {
        for key in array(status, "/kms/keys") {
            let fields = ["/key_id_hash", "/id", "/version"].map(|pointer| field(key, pointer));
            if let [Some(hash), Some(id), Some(version)] = fields {
                self.line("kms key_id", &format!("{hash}  {id}  version {version}"));
            }
        }
        let moved = field(status, "/kms/moved_key_decrypts").filter(|count| count != "0");
        self.optional("kms moved", moved.map(|count| format!("{count} decrypts")));
    }
}

/// What is wrong with another keyring, and the command that shows more.
fn notes(keyring: &Value, name: &str) -> String {
    let count = |pointer: &str| keyring.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let counted = |number: u64, one: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {one}s")),
    };
    let rejected = count("/rejected");
    let ready = field(keyring, "/reason").is_none();
    let all = [
        field(keyring, "/moving_from").map(|secret| format!("with the keys of {secret}")),
        field(keyring, "/last_error").filter(|_| ready).map(|error| format!("syncs fail: {error}")),
        counted(rejected, "rejected record"),
        counted(count("/warnings").saturating_sub(rejected), "further warning"),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    if all.is_empty() {
        return String::new();
    }
    format!("; {} (keyringd status --name {name})", all.join(", "))
}

fn seconds(value: &Value, pointer: &str) -> Option<Duration> {
    value.pointer(pointer)?.as_u64().map(Duration::from_secs)
}

/// The two largest units of a duration: `1m40s`.
fn short(duration: Duration) -> String {
    let text = humantime::format_duration(duration).to_string();
    text.split(' ').take(2).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failure_is_shown_once() {
        let error = "cannot reach http://127.0.0.1:1: connection refused";
        let status = json!({
            "reason": format!("no keys yet: {error}"), "version": "0.1.0", "pid": 7, "uptime_seconds": 100,
            "sync": { "last_error": error, "warnings": [error] },
            "source": { "sessions": [{ "name": "keyring", "auth_method": "token", "logged_in": false, "login_error": error }] },
        });
        let text = lines(&status);
        assert_eq!(text.matches(error).count(), 1, "{text}");
        assert!(
            text.contains("not logged in, for the reason above") && text.contains("pid 7, up 1m40s"),
            "{text}"
        );
    }

    #[test]
    fn times_are_short() {
        for (seconds, shown) in [(0, "0s"), (100, "1m40s"), (3600, "1h"), (90_061, "1day1h")] {
            assert_eq!(short(Duration::from_secs(seconds)), shown);
        }
    }
}
