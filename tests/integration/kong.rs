//! Settings as Kong's own loader reads them: variables, files, references, PEM, and names that are nearly right.
//!
//! The grammar itself is compared with Kong's recorded readings in the unit tests. Here: what a user of Kong sees of it
//! at the command line and at a real server.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    Daemon, OpenBao,
    certificates::{Authority, self_signed},
    daemon::{PROGRAM, run},
    success, tool,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

const ENOUGH: &str = "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = http://127.0.0.1:8200\n\
    keyring_vault_mount = secret\nkeyring_vault_path = keyring\nkeyring_vault_token = s.token\n";

/// The report of `check --json` on a kong.conf and variables.
struct Report {
    json: Value,
    code: Option<i32>,
}

fn check(conf: impl AsRef<[u8]>, variables: &[(&str, &str)]) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, conf).unwrap();
    let output = run(&["check", "-c", path.to_str().unwrap(), "--json"], variables, b"");
    let text = String::from_utf8(output.stdout).unwrap().replace(path.to_str().unwrap(), "kong.conf");
    Report { json: serde_json::from_str(&text).unwrap(), code: output.status.code() }
}

/// [`check`] on [`ENOUGH`] and more lines, which begin at line 7.
fn check_more(lines: &str, variables: &[(&str, &str)]) -> Report {
    check(format!("{ENOUGH}{lines}"), variables)
}

impl Report {
    fn value(&self, key: &str) -> (Option<&str>, &str) {
        let all = self.json["settings"].as_array().unwrap();
        let one = all.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        (one["value"].as_str(), one["origin"].as_str().unwrap())
    }

    /// Errors or warnings as `origin: key: message`, without the key where there is none.
    fn notes(&self, kind: &str) -> Vec<String> {
        let text = |note: &Value, field: &str| {
            note[field].as_str().map(|text| format!("{text}: ")).unwrap_or_default()
        };
        let note = |note: &Value| {
            let message = note["message"].as_str().unwrap();
            format!("{}{}{message}", text(note, "origin"), text(note, "key"))
        };
        self.json[kind].as_array().unwrap().iter().map(note).collect()
    }

    /// Asserts that there is one error, and that it holds all these texts.
    #[track_caller]
    fn fails_with(&self, texts: &[&str]) {
        let errors = self.notes("errors");
        assert_eq!((errors.len(), self.code), (1, Some(78)), "{errors:#?}");
        for text in texts {
            assert!(errors[0].contains(text), "{text} in {errors:?}");
        }
    }

    /// Asserts that there is no error, and one warning that holds all these texts.
    #[track_caller]
    fn warns_of(&self, texts: &[&str]) {
        let warnings = self.notes("warnings");
        assert_eq!(self.notes("errors"), [] as [&str; 0]);
        assert_eq!((warnings.len(), self.code), (1, Some(0)), "{warnings:#?}");
        for text in texts {
            assert!(warnings[0].contains(text), "{text} in {warnings:?}");
        }
    }

    #[track_caller]
    fn is_fine(&self) {
        let notes = [self.notes("errors"), self.notes("warnings")].concat();
        assert_eq!((notes.as_slice(), self.code), ([].as_slice(), Some(0)));
    }
}

#[test]
fn the_env_backend_honours_prefix_version_and_base64_in_settings() {
    let token = "keyring_vault_token = {vault://env/token}\n";
    let variables = [
        ("TOKEN", "wrong"),
        ("SECRETS_TOKEN", "right"),
        ("OTHER_TOKEN", "other"),
        ("SECRETS_TOKEN_PREVIOUS", "previous"),
    ];
    let prefix = "vault_env_prefix = secrets-\n";
    for (lines, more, origin) in [
        (format!("{prefix}{token}"), None, "kong.conf:8 via variable SECRETS_TOKEN"),
        (
            token.to_owned(),
            Some(("KONG_VAULT_ENV_PREFIX", "SECRETS_")),
            "kong.conf:7 via variable SECRETS_TOKEN",
        ),
        (
            format!("{prefix}keyring_vault_token = {{vault://env/token?prefix=OTHER_}}\n"),
            None,
            "kong.conf:8 via variable OTHER_TOKEN",
        ),
        (
            format!("{prefix}keyring_vault_token = {{vault://env/token\\#1}}\n"),
            None,
            "kong.conf:8 via variable SECRETS_TOKEN",
        ),
        (
            format!("{prefix}keyring_vault_token = {{vault://env/token\\#2}}\n"),
            None,
            "kong.conf:8 via variable SECRETS_TOKEN_PREVIOUS",
        ),
    ] {
        let conf = ENOUGH.replace("s.token", "");
        let variables: Vec<_> = variables.into_iter().chain(more).collect();
        let report = check(format!("{conf}{lines}"), &variables);
        assert_eq!(report.notes("errors"), [] as [&str; 0], "{lines}");
        assert_eq!(report.value("keyring_vault_token"), (None, origin), "{lines}");
    }
    check_more("keyring_name = {vault://env/token\\#3}\n", &variables)
        .fails_with(&["kong.conf:7: keyring_name: ", "#1"]);
    let decode = [("KONG_VAULT_ENV_DECODE_BASE64", "on"), ("KONG_KEYRING_NAME", "{vault://env/name}")];
    let named = |name| check_more("", &[decode[0], decode[1], ("NAME", name)]);
    named("YXBwcw==").is_fine();
    named("not base64").fails_with(&["KONG_KEYRING_NAME: keyring_name: ", "variable NAME", "base64"]);
    let undecoded = check_more("", &[decode[1], ("NAME", "YXBwcw==")]);
    undecoded.fails_with(&["expected 1 to 128 letters"]);
    check_more("", &[("KONG_VAULT_ENV_DECODE_BASE64", "yes")])
        .fails_with(&["KONG_VAULT_ENV_DECODE_BASE64: vault_env_decode_base64: ", "expected on, off"]);
    check_more("vault_env_prefix = a b\n", &[])
        .fails_with(&["kong.conf:7: vault_env_prefix: ", "letters, digits"]);
}

#[test]
fn the_env_backend_honours_its_settings_in_vault_get_exec_and_a_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("kong.conf");
    fs::write(&conf, "vault_env_prefix = SECRETS_\nvault_env_decode_base64 = on\n").unwrap();
    let conf = conf.to_str().unwrap();
    let prefix = ("KONG_VAULT_ENV_PREFIX", "SECRETS_");
    let held = [("TOKEN", "wrong"), ("SECRETS_TOKEN", "cmlnaHQ="), ("SECRETS_TOKEN_PREVIOUS", "b2xk")];
    let get = |arguments: &[&str], more: &[(&str, &str)]| {
        let arguments = [&["vault", "get"], arguments].concat();
        success(&run(&arguments, &[held.as_slice(), more].concat(), b""))
    };
    assert_eq!(get(&["env/token"], &[]), "wrong\n");
    assert_eq!(get(&["env/token"], &[prefix]), "cmlnaHQ=\n");
    assert_eq!(get(&["{vault://env/token?prefix=SECRETS_}"], &[]), "cmlnaHQ=\n");
    assert_eq!(get(&["{vault://env/token#2}"], &[prefix]), "b2xk\n");
    assert_eq!(get(&["-c", conf, "env/token"], &[]), "right\n");
    assert_eq!(get(&["$ENV://TOKEN"], &[prefix]), "wrong\n", "APISIX names the variable itself");
    let refer = ("GOT", "{vault://env/token}");
    let exec = |arguments: &[&str], more: &[(&str, &str)]| {
        let script = ["--", "/bin/sh", "-c", "printf %s \"$GOT\""];
        let arguments = [&["exec"], arguments, &script].concat();
        success(&run(&arguments, &[held.as_slice(), &[refer], more].concat(), b""))
    };
    assert_eq!(exec(&[], &[prefix]), "cmlnaHQ=");
    assert_eq!(exec(&["-c", conf], &[]), "right");

    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let more = [
        ("KONG_KEYRING_VAULT_TOKEN", "{vault://env/token}"),
        prefix,
        ("TOKEN", "wrong"),
        ("SECRETS_TOKEN", server.token()),
    ];
    assert_eq!(Daemon::start(&server, &more).active(), "first");
}

#[test]
fn blanks_around_variables_files_and_referred_values_are_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let variables = [
        ("KONG_KEYRING_VAULT_MOUNT", "secret "),
        ("KONG_KEYRING_VAULT_PATH", "\n\tteam/apps\r\n"),
        ("KONG_KEYRING_SYNC_INTERVAL", " \x0b\x0c "),
        ("KONG_KEYRING_NAME_FILE", &file("name", " apps \n\n")),
        ("KONG_LOG_LEVEL", "{vault://env/level}\n"),
        ("LEVEL", " warn\n"),
    ];
    let report = check_more("", &variables);
    assert_eq!(report.notes("errors"), [] as [&str; 0]);
    assert_eq!(report.value("keyring_vault_mount"), (Some("secret"), "KONG_KEYRING_VAULT_MOUNT"));
    assert_eq!(report.value("keyring_vault_path").0, Some("team/apps"));
    assert_eq!(report.value("keyring_sync_interval"), (Some("60"), "default"));
    assert_eq!(report.value("keyring_name").0, Some("apps"));
    assert_eq!(report.value("log_level"), (None, "KONG_LOG_LEVEL via variable LEVEL"));
    check(ENOUGH.replace("secret", ""), &[("KONG_KEYRING_VAULT_MOUNT", " \n")])
        .fails_with(&["keyring_vault_mount: is required"]);

    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let token = format!("{}\n", server.token());
    assert_eq!(Daemon::start(&server, &[("KONG_KEYRING_VAULT_TOKEN", &token)]).active(), "first");
    let token = file("token", &format!("  {}\t\r\n", server.token()));
    let more = [("KONG_KEYRING_VAULT_TOKEN", ""), ("KONG_KEYRING_VAULT_TOKEN_FILE", &token)];
    assert_eq!(Daemon::start(&server, &more).active(), "first");
}

#[test]
fn a_backslash_with_blanks_after_it_continues_the_line() {
    check_more("proxy_listen = 0.0.0.0:8000, \\ \n    0.0.0.0:8443 ssl\nkeyring_name = n\n", &[]).is_fine();
    let report = check_more("keyring_vault_path = team/\\ \t\napps\n", &[]);
    assert_eq!(report.value("keyring_vault_path"), (Some("team/apps"), "kong.conf:7"));
    check_more("keyring_name = a\\ ", &[]).fails_with(&["kong.conf:7: ", "ends with \\"]);
}

#[test]
fn two_variables_for_one_setting_are_an_error_that_names_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    fs::write(&path, "one").unwrap();
    let path = path.to_str().unwrap();
    for (variables, key) in [
        ([("KONG_KEYRING_NAME", "two"), ("KONG_KEYRING_NAME_FILE", path)], "keyring_name"),
        (
            [("KONG_KEYRING_VAULT_TOKEN", "two"), ("KONG_KEYRING_VAULT_TOKEN_FILE", path)],
            "keyring_vault_token",
        ),
        (
            [("KONG_KEYRING_VAULT_JWT_ROLE", "two"), ("KONG_KEYRING_VAULT_OAUTH2_ROLE_NAME", "two")],
            "keyring_vault_jwt_role",
        ),
    ] {
        for variables in [variables, [variables[1], variables[0]]] {
            check_more("", &variables).fails_with(&[variables[0].0, variables[1].0, key]);
        }
    }
    let empty = check_more("", &[("KONG_KEYRING_NAME", " "), ("KONG_KEYRING_NAME_FILE", path)]);
    assert_eq!(empty.value("keyring_name").0, Some("one"));
}

#[test]
fn a_variable_in_another_case_is_not_read_and_warned_about() {
    for name in ["kong_keyring_vault_path", "KONG_keyring_vault_path", "Kong_Keyring_Vault_Path"] {
        let report = check_more("", &[(name, "planted")]);
        report.warns_of(&[name, "KONG_KEYRING_VAULT_PATH"]);
        assert_eq!(report.value("keyring_vault_path"), (Some("keyring"), "kong.conf:5"));
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_an_error_in_our_settings_alone() {
    let latin1 = |line: &[u8]| [ENOUGH.as_bytes(), line, b"\n"].concat();
    check(latin1(b"# cl\xe9 du coffre"), &[]).is_fine();
    check(latin1(b"pg_password = p\xe9s"), &[]).is_fine();
    check(latin1(b"keyring_vault_path = p\xe9"), &[])
        .fails_with(&["kong.conf:7: keyring_vault_path: ", "UTF-8"]);
    let utf16: Vec<u8> = format!("\u{feff}{ENOUGH}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(utf16, &[]).fails_with(&["kong.conf: is UTF-16"]);

    let served = self_signed(&["127.0.0.1"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authority.pem");
    fs::write(&path, [b"Autorit\xe9\n", served.authority.as_bytes()].concat()).unwrap();
    check_more(&format!("lua_ssl_trusted_certificate = {}\n", path.display()), &[]).is_fine();
}

#[test]
fn blanks_and_letters_that_are_not_ascii_are_not_read_as_a_setting_of_ours() {
    for (line, name) in [
        ("\u{a0}keyring_name = n", "U+00A0"),
        ("\u{2003}keyring_name = n", "U+2003"),
        ("keyring_name\u{85} = n", "U+0085"),
    ] {
        let report = check_more(&format!("{line}\n"), &[]);
        report.warns_of(&["kong.conf:7: ", "keyring_name", name]);
        assert_eq!(report.value("keyring_name"), (None, "default"));
    }
    check_more("keyring\u{e9}vault_path = x\n", &[]).warns_of(&[
        "kong.conf:7: ",
        "U+00E9",
        "keyring_vault_path",
    ]);
    let hidden = check_more("keyring_vault_token:\u{a0}hvs.planted==\n", &[]);
    assert!(!hidden.json.to_string().contains("planted"));
    let report = check_more("keyring_vault_kube_role =\u{a0}a\n", &[]);
    report.warns_of(&["kong.conf:7: keyring_vault_kube_role: ", "U+00A0"]);
    assert_eq!(report.value("keyring_vault_kube_role").0, Some("\u{a0}a"));
}

#[test]
fn the_trusted_certificates_may_be_references_relative_paths_or_nothing() {
    let served = self_signed(&["127.0.0.1"]);
    let escaped = served.authority.replace('\n', "\\n");
    let trusted = "lua_ssl_trusted_certificate = system, {vault://env/authority}\n";
    for authority in [&served.authority, &escaped] {
        let report = check_more(trusted, &[("AUTHORITY", authority)]);
        report.is_fine();
        assert_eq!(report.value("lua_ssl_trusted_certificate"), (None, "kong.conf:7 via variable AUTHORITY"));
    }
    check_more(trusted, &[])
        .fails_with(&["kong.conf:7: lua_ssl_trusted_certificate: ", "AUTHORITY, which is not set"]);

    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("kong.conf"),
        format!("{ENOUGH}lua_ssl_trusted_certificate = authority.pem\n"),
    )
    .unwrap();
    let check_there = || {
        let mut command = Command::new(PROGRAM);
        command.args(["check", "-c", "kong.conf", "--json"]).current_dir(folder.path()).env_clear();
        Report { json: serde_json::from_slice(&command.output().unwrap().stdout).unwrap(), code: None }
    };
    let place = folder.path().canonicalize().unwrap();
    let errors = check_there().notes("errors");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("authority.pem") && errors[0].contains(place.to_str().unwrap()), "{errors:?}");
    fs::write(folder.path().join("authority.pem"), &served.authority).unwrap();
    let report = check_there();
    assert_eq!(report.notes("errors"), [] as [&str; 0]);
    assert!(report.notes("warnings")[0].contains(place.to_str().unwrap()), "{:?}", report.notes("warnings"));

    for (lines, variables) in [
        ("lua_ssl_trusted_certificate =\n", [].as_slice()),
        ("lua_ssl_trusted_certificate = ,,\n", &[]),
        ("", &[("KONG_LUA_SSL_TRUSTED_CERTIFICATE", " ")]),
    ] {
        check_more(lines, variables).warns_of(&["lua_ssl_trusted_certificate: ", "Kong would trust none"]);
    }
}

/// The text of a file, as Kong's how-to makes it with `awk '{printf "%s\\n", $0}'`.
fn with_literal_breaks(path: &Path) -> String {
    fs::read_to_string(path).unwrap().replace('\n', "\\n")
}

#[test]
fn pem_with_literal_line_breaks_a_chain_in_reverse_and_text_before_it_log_in() {
    let served = self_signed(&["127.0.0.1"]);
    let root = Authority::new("The clients' authority");
    let middle = root.below("The clients' intermediate");
    let client = middle.issue(&["a.client"], |_| ());
    let (server, port) = OpenBao::dev_with_tls(&served.certificate, &served.key);
    server.put_record("first", KEY);
    server.enable("cert");
    let role = serde_json::json!({ "certificate": root.pem(), "token_policies": ["keyring"] });
    server.api("POST", "auth/cert/certs/app", &role);
    let leaf = fs::read_to_string(&client.certificate).unwrap();
    let reversed = format!("\u{feff}subject=CN = a.client\n{}{leaf}", middle.pem());
    let host = format!("https://127.0.0.1:{port}");
    let escaped = reversed.replace('\n', "\\n");
    let (plain, key) = (fs::read_to_string(&client.key).unwrap(), with_literal_breaks(&client.key));
    let trusted = with_literal_breaks(&served.certificate);
    for (chain, key) in [(reversed.as_str(), key.as_str()), (&escaped, &plain)] {
        let more = [
            ("KONG_KEYRING_VAULT_HOST", host.as_str()),
            ("KONG_KEYRING_VAULT_TOKEN", ""),
            ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &trusted),
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", chain),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", key),
        ];
        assert_eq!(Daemon::start(&server, &more).active(), "first");
    }
    let lines = format!(
        "keyring_vault_auth_method = cert\nlua_ssl_trusted_certificate = {trusted}\n\
         keyring_vault_cert_auth_cert = {}{leaf}\nkeyring_vault_cert_auth_cert_key = {key}",
        middle.pem(),
        leaf = with_literal_breaks(&client.certificate),
    )
    .replace(middle.pem(), &middle.pem().replace('\n', "\\n"));
    let daemon = Daemon::from_conf(&host, &lines);
    daemon.wait_until_ready();
    assert_eq!(daemon.active(), "first");
}

#[test]
fn pem_of_the_wrong_kind_is_an_error_that_says_what_was_found() {
    let issued = self_signed(&["127.0.0.1"]);
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let output = tool("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let key = issued.key.to_str().unwrap();
    let certificate = issued.certificate.to_str().unwrap();
    let encrypted = openssl(&["pkey", "-in", key, "-aes256", "-passout", "pass:x"]);
    let traditional = openssl(&["ec", "-in", key, "-aes256", "-passout", "pass:x"]);
    let trusted = openssl(&["x509", "-in", certificate, "-trustout", "-addtrust", "serverAuth"]);
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (plain, certificate) = (text(&issued.key), text(&issued.certificate));
    let check_pair = |certificate: &str, key: &str| {
        let variables = [
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
            ("KONG_KEYRING_VAULT_HOST", "https://127.0.0.1:8200"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", certificate),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", key),
        ];
        check_more("", &variables)
    };
    check_pair(&certificate, &plain).is_fine();
    check_pair(&trusted, &plain).is_fine();
    let in_file = folder.path().join("key.pem");
    fs::write(&in_file, &encrypted).unwrap();
    for key in [encrypted.as_str(), &traditional, &encrypted.replace('\n', "\\n"), in_file.to_str().unwrap()]
    {
        let said = ["cert_auth_cert_key: ", "the key is encrypted; decrypt it with openssl pkey"];
        check_pair(&certificate, key).fails_with(&said);
    }
    check_pair(&plain, &plain).fails_with(&["cert_auth_cert: ", "found a private key"]);
    check_pair(&certificate, &certificate).fails_with(&["cert_auth_cert_key: ", "found a certificate"]);
    check_pair("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &plain)
        .fails_with(&["cert_auth_cert: ", "not valid base64"]);
    check_more("", &[("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &plain)])
        .fails_with(&["lua_ssl_trusted_certificate: ", "found a private key"]);
    check_more(&format!("lua_ssl_trusted_certificate = {key}\n"), &[])
        .fails_with(&["lua_ssl_trusted_certificate: ", "found a private key"]);
    let authority = folder.path().join("authority.pem");
    fs::write(&authority, &trusted).unwrap();
    check_more(&format!("lua_ssl_trusted_certificate = {}\n", authority.display()), &[]).is_fine();
}

#[test]
fn a_file_variable_overrides_the_kong_conf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    fs::write(&path, "from-a-file\n").unwrap();
    let path = path.to_str().unwrap();
    let variables = [("KONG_KEYRING_NAME_FILE", path), ("KONG_KEYRING_VAULT_TOKEN_FILE", path)];
    let report = check_more("keyring_name = n\n", &variables);
    assert_eq!(report.notes("errors"), [] as [&str; 0]);
    assert_eq!(report.value("keyring_name"), (Some("from-a-file"), "KONG_KEYRING_NAME_FILE"));
    assert_eq!(report.value("keyring_vault_token"), (None, "KONG_KEYRING_VAULT_TOKEN_FILE"));
}

#[test]
fn an_indented_bracket_is_a_foreign_key() {
    check_more(" [note] = x\n", &[]).is_fine();
    check_more("[note]\n", &[]).fails_with(&["kong.conf:7: ", "[sections]"]);
}

#[test]
fn numbers_are_warned_about_where_kong_reads_them_differently() {
    for same in ["12345678901234", "-5", "0.001", "007 # with a comment", "1_000", "s.7"] {
        check_more(&format!("keyring_vault_kube_role = {same}\n"), &[]).is_fine();
    }
    for (different, reading) in
        [("007", "7"), ("1e3", "1000"), ("0x1F", "31"), ("123456789012345", "1.2345678901234e+14")]
    {
        let report = check_more(&format!("keyring_vault_kube_role = {different}\n"), &[]);
        report.warns_of(&["kong.conf:7: keyring_vault_kube_role: ", &format!("Kong reads {reading}")]);
        assert_eq!(report.value("keyring_vault_kube_role").0, Some(different));
    }
    let report = check_more("keyring_vault_token = 007\n", &[]);
    assert!(
        report.notes("warnings").iter().all(|warning| !warning.contains("reads 7")),
        "a secret is not quoted"
    );
}

#[test]
fn names_that_are_nearly_ours_are_warned_about_with_the_nearest() {
    for (name, nearest) in [
        ("kering_vault_path", "keyring_vault_path"),
        ("vault_hcv_tokn", "vault_hcv_token"),
        ("log_levle", "log_level"),
        ("lua_ssl_trusted_certificates", "lua_ssl_trusted_certificate"),
        ("KEYRING_VAULT_KV", "keyring_vault_kv"),
        ("KONG_KEYRING_VAULT_KV", "keyring_vault_kv"),
        ("KONG_VAULT_HCV_TOKEN", "vault_hcv_token"),
        ("export keyring_vault_kv", "keyring_vault_kv"),
        ("\"keyring_vault_kv\"", "keyring_vault_kv"),
    ] {
        let report = check_more(&format!("{name} = planted\n"), &[]);
        report.warns_of(&["kong.conf:7: ", &format!("did you mean {nearest}?")]);
    }
    check_more("", &[("KONG_VAULT_HCV_TOKN", "planted")])
        .warns_of(&["KONG_VAULT_HCV_TOKN: ", "KONG_VAULT_HCV_TOKEN"]);
    check_more("vault_other_ttl = 5\nproxy_error_log = x\npg_password = x\n", &[("KONG_DATABASE", "off")])
        .is_fine();
    // A line of YAML: the key may hold the secret.
    let report = check_more("vault_hcv_token: hvs.planted==\n", &[]);
    report.warns_of(&["kong.conf:7: ", "did you mean vault_hcv_token?"]);
    assert!(!report.json.to_string().contains("planted"));
    let report = check_more("keyring_vault_token: hvs.planted==\n", &[]);
    report.fails_with(&["kong.conf:7: ", "a blank or a colon in the key"]);
    assert!(!report.json.to_string().contains("planted"));
}

#[test]
fn a_file_that_cannot_be_read_is_the_only_error() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["/no/such/kong.conf", folder.path().to_str().unwrap()] {
        for command in [["check", "-c", path].as_slice(), &["check", path], &["run", "-c", path]] {
            let output = run(command, &[], b"");
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), said.matches(": error: ").count()), (Some(78), 1), "{said}");
            assert!(
                said.contains(&format!("{path}: cannot be read")) && !said.contains("is required"),
                "{said}"
            );
        }
    }
}

#[test]
fn check_takes_the_file_as_kong_check_does_and_kongs_commands_lead_to_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, format!("{ENOUGH}keyring_name = n\n")).unwrap();
    let output = run(&["check", path.to_str().unwrap()], &[], b"");
    assert!(success(&output).contains(&format!("keyring_name\tn\t{}:7\n", path.display())));
    let both = run(&["check", "-c", path.to_str().unwrap(), path.to_str().unwrap()], &[], b"");
    assert_eq!(both.status.code(), Some(2));
    for word in ["start", "serve", "server", "daemon"] {
        let refused = run(&[word], &[], b"");
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("`keyringd run`"), "{word}");
    }
    let reload = run(&["reload"], &[], b"");
    assert_ne!(reload.status.code(), Some(0));
    assert!(String::from_utf8(reload.stderr).unwrap().contains("there is no socket"));
}

#[test]
fn check_changed_prints_only_what_is_not_a_default() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, format!("{ENOUGH}keyring_vault_kv = v2\n")).unwrap();
    let path = path.to_str().unwrap();
    let text = success(&run(&["check", "-c", path, "--changed"], &[("KONG_KEYRING_AUDIT", "all")], b""));
    let keys: Vec<_> = text.lines().map(|line| line.split('\t').next().unwrap()).collect();
    let expected = [
        "keyring_enabled",
        "keyring_strategy",
        "keyring_vault_host",
        "keyring_vault_mount",
        "keyring_vault_path",
        "keyring_vault_token",
        "keyring_audit",
    ];
    assert_eq!(keys, expected);
    let json = success(&run(&["check", "-c", path, "--changed", "--json"], &[], b""));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["settings"].as_array().unwrap().len(), 6);
}

#[test]
fn checks_closing_advice_is_not_check_and_a_long_socket_path_is_an_error() {
    let path = format!("/{}", "s".repeat(107));
    let too_long = [("KONG_KEYRING_SOCKET_PATH", path.as_str())];
    check_more("", &too_long).fails_with(&["KONG_KEYRING_SOCKET_PATH: keyring_socket_path: ", "107 bytes"]);
    check_more("", &[("KONG_KEYRING_SOCKET_PATH", &path[..107])]).is_fine();
    let check = String::from_utf8(run(&["check"], &[], b"").stderr).unwrap();
    assert!(!check.contains("`keyringd check`"), "{check}");
    let run = String::from_utf8(run(&["run"], &[], b"").stderr).unwrap();
    assert!(run.contains("`keyringd check`"), "{run}");
}

#[test]
fn access_lists_that_leave_someone_out_are_warned_about() {
    let access = |list: &str| check_more(&format!("keyring_access = {list}\n"), &[]);
    access("uid:0=all").is_fine();
    access("user:root=status, gid:5=encrypt+decrypt").is_fine();
    access("uid:0=status+encrypt").warns_of(&["kong.conf:7: keyring_access: ", "no entry grants decrypt"]);
    access("uid:0=status+decrypt").warns_of(&["no entry grants encrypt"]);
    access("uid:0=status").warns_of(&["no entry grants encrypt or decrypt"]);
    // Root may always ask for the status.
    access("uid:5=encrypt+decrypt").is_fine();
    access("uid:5=kms, uid:0=status").is_fine();
    for (list, cure) in
        [("group:0=all", "gid:"), ("user:0=all", "uid:"), ("user:+0=all", "uid:"), ("group:+0=all", "gid:")]
    {
        access(list).fails_with(&["kong.conf:7: keyring_access: ", "entry 1", cure]);
    }
    for list in ["uid:+0=all", "gid:root=all", "uid: =all"] {
        access(list).fails_with(&["kong.conf:7: keyring_access: ", "entry 1"]);
    }
}

#[test]
fn a_refused_peer_learns_that_the_list_replaces_open_access() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_ACCESS", "uid:4000001=all")]);
    let answer = daemon.post("/v1/transit/encrypt/keyring", &serde_json::json!({ "plaintext": "YQ==" }));
    assert_eq!(answer.status, 403);
    let said = answer.text();
    assert!(said.contains("keyring_access") && said.contains("list every client"), "{said}");
}
