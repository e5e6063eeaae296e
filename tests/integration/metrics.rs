//! The metrics: the series that occurred or that alerts need, on the socket and on the loopback listener.

use std::{collections::BTreeSet, fs, net::TcpStream, process::Output};

use serde_json::json;

use crate::support::{
    Daemon, OpenBao, certificates::Authority, daemon::run_for, free_port, http, success, tool, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";

fn started(more: &[(&str, &str)]) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, more);
    (server, daemon)
}

/// The names of all series with their labels.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn a_request_adds_series_of_its_operation_only() {
    let (server, daemon) = started(&[]);
    let send = || {
        daemon.post(DECRYPT, &json!({ "ciphertext": "kr1:first:AAAA" }));
        daemon.encrypt("hello");
        daemon.request("POST", "/v1/transit/encrypt/keyring", b"{");
        daemon.get("/other");
        daemon.sync();
    };
    send();
    daemon.get("/metrics");
    let before = series(&daemon.get("/metrics").text());
    assert!(before.len() < 170, "{} series: {before:?}", before.len());
    // A hundred thousand different errors, in batches.
    let item = |round: usize, at: usize| json!({ "ciphertext": format!("kr1:key-{round}-{at}:AAAA"), "reference": "x" });
    for round in 0..10 {
        let items: Vec<_> = (0..10_000).map(|at| item(round, at)).collect();
        assert_eq!(daemon.post(DECRYPT, &json!({ "batch_input": items })).status, 400);
    }
    for at in 0..100 {
        daemon.get(&format!("/path-{at}"));
        daemon.request("POST", &format!("/v1/transit/encrypt/name-{at}"), b"{");
    }
    server.put(&json!({ "nothing": "of ours" }));
    daemon.sync();
    let after = daemon.get("/metrics").text();
    assert_eq!(series(&after), before);
    for text in ["key-", "path-", "name-", "\"first\""] {
        assert!(!after.contains(text), "{text} is in a label");
    }
}

#[test]
fn every_request_is_counted_by_operation_and_outcome() {
    let (_server, daemon) = started(&[]);
    let count = |operation: &str, outcome: &str| {
        let labels = format!("{{operation=\"{operation}\",outcome=\"{outcome}\"}}");
        daemon.metric(&format!("keyringd_requests_total{labels}"))
    };
    let sealed = daemon.encrypt("hello");
    daemon.encrypt("again");
    daemon.decrypt(&sealed);
    daemon.decrypt("kr1:first:AAAA");
    daemon.post(DECRYPT, &json!({ "batch_input": [{ "ciphertext": sealed }, {}] }));
    daemon.post("/v1/transit/rewrap/keyring", &json!({ "ciphertext": sealed }));
    daemon.post("/v1/transit/datakey/plaintext/keyring", &json!({}));
    daemon.sync();
    assert_eq!((count("encrypt", "success"), count("decrypt", "success")), (2, 1));
    assert_eq!((count("decrypt", "invalid"), count("decrypt", "partial")), (1, 1));
    assert_eq!(
        (count("rewrap", "success"), count("datakey", "success"), count("sync", "success")),
        (1, 1, 1)
    );
    assert!(daemon.metric("keyringd_received_bytes_total{operation=\"encrypt\"}") > 20);
    assert!(daemon.metric("keyringd_sent_bytes_total{operation=\"encrypt\"}") > 100);
    assert_eq!(daemon.metric("keyringd_requests_in_flight"), 1, "the scrape itself");
    assert_eq!(daemon.metric("keyringd_inflight_bytes"), 0);
    assert!(daemon.metric("keyringd_connections") >= 1);
}

#[test]
fn gauges_describe_the_keyring_and_the_session() {
    let (server, daemon) = started(&[]);
    server.put_record("second", "another key of thirty-two characters");
    server.put(&json!({ "id": "bad id", "key": KEY }));
    daemon.sync();
    let keys = |state: &str| daemon.metric(&format!("keyringd_keys{{state=\"{state}\"}}"));
    assert_eq!((keys("active"), keys("live"), keys("retired"), keys("rejected")), (1, 1, 0, 1));
    let text = daemon.get("/metrics").text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    };
    assert!((0.0..60.0).contains(&value("keyringd_since_last_sync_seconds")));
    assert!((0.0..60.0).contains(&value("keyringd_active_key_age_seconds")));
    assert!(value("keyringd_token_remaining_seconds").is_infinite(), "a root token never expires");
    assert!((value("keyringd_versions_headroom") - 7.0).abs() < f64::EPSILON);
}

#[test]
fn the_loopback_listener_serves_metrics_and_health_only() {
    let port = free_port();
    let (_server, daemon) = started(&[
        ("KONG_KEYRING_METRICS_LISTEN", &format!("127.0.0.1:{port}")),
        ("KONG_KEYRING_ACCESS", &format!("uid:{}=encrypt", nix::unistd::geteuid().as_raw())),
    ]);
    let get = |method: &str, path: &str| {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        http::exchange(stream, method, path, &[], b"").unwrap()
    };
    let metrics = get("GET", "/metrics");
    assert_eq!(
        metrics.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(metrics.text().ends_with("# EOF\n"));
    assert_eq!((get("GET", "/livez").status, get("GET", "/readyz").status), (200, 200));
    for (method, path) in [
        ("GET", "/status"),
        ("GET", "/keyring"),
        ("POST", "/v1/transit/encrypt/keyring"),
        ("POST", "/keyring/vault/sync"),
        ("GET", "/v1/transit/keys/keyring"),
    ] {
        let refused = get(method, path);
        assert_eq!(refused.status, 404, "{path}");
        assert!(refused.text().contains("everything else is on the Unix socket"), "{refused:?}");
    }
    // On the socket they need a permission, unless the peer is the daemon's own user.
    assert_eq!(daemon.post("/v1/transit/decrypt/keyring", &json!({ "ciphertext": "x" })).status, 403);
    assert_eq!(daemon.get("/metrics").status, 200);
}

#[test]
fn an_address_in_use_or_not_loopback_is_refused_by_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = OpenBao::shared();
    let run = |address: &str| {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s").display().to_string();
        let mut settings = crate::support::daemon::kongs_settings(&server);
        settings.push(("KONG_KEYRING_METRICS_LISTEN".to_owned(), address.to_owned()));
        settings.push(("KONG_KEYRING_SOCKET_PATH".to_owned(), socket));
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let output = crate::support::daemon::run(&["run"], &settings, b"");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&taken.local_addr().unwrap().to_string());
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("keyring_metrics_listen: cannot listen on 127.0.0.1:"), "{message}");
    let (code, message) = run("0.0.0.0:9187");
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("keyring_metrics_listen") && message.contains("127.0.0.1:9187"), "{message}");
}

#[test]
fn beyond_loopback_the_listener_has_tls_and_can_require_a_client_certificate() {
    let port = free_port();
    let authority = Authority::new("one");
    let (server_pair, client_pair) =
        (authority.issue(&["localhost"], |_| ()), authority.issue(&["prometheus"], |_| ()));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::copy(&server_pair.certificate, file("cert")).unwrap();
    fs::copy(&server_pair.key, file("key")).unwrap();
    fs::write(file("ca"), authority.pem()).unwrap();
    let (_server, daemon) = started(&[
        ("KONG_KEYRING_METRICS_LISTEN", &format!("0.0.0.0:{port}")),
        ("KONG_KEYRING_METRICS_TLS_CERT", &file("cert")),
        ("KONG_KEYRING_METRICS_TLS_KEY", &file("key")),
        ("KONG_KEYRING_METRICS_TLS_CLIENT_CA", &file("ca")),
    ]);
    let curl = |path: &str, ca: &str, more: &[&str]| -> Output {
        let mut command = tool("curl");
        command.args(["-sS", "--cacert", ca]).args(more).arg(format!("https://localhost:{port}{path}"));
        command.output().unwrap()
    };
    let (cert, key) = (client_pair.certificate.display().to_string(), client_pair.key.display().to_string());
    let identity = ["--cert", &cert, "--key", &key];
    assert!(success(&curl("/metrics", &file("ca"), &identity)).ends_with("# EOF\n"));
    assert!(
        success(&curl("/status", &file("ca"), &identity)).contains("everything else is on the Unix socket")
    );
    assert!(!curl("/metrics", &file("ca"), &[]).status.success(), "without a client certificate");
    wait_for("the refusal in the log", || {
        daemon
            .log()
            .contains("a client of keyring_metrics_listen was refused for its certificate")
            .then_some(())
    });

    let renewed = Authority::new("two");
    let pair = renewed.issue(&["localhost"], |_| ());
    fs::copy(&pair.key, file("key")).unwrap();
    fs::copy(&pair.certificate, file("cert")).unwrap();
    fs::write(file("ca-of-two"), renewed.pem()).unwrap();
    wait_for("the renewed certificate", || {
        curl("/metrics", &file("ca-of-two"), &identity).status.success().then_some(())
    });
}

#[test]
fn a_public_listener_without_tls_has_to_be_wanted() {
    let port = free_port();
    let (_server, _daemon) = started(&[
        ("KONG_KEYRING_METRICS_LISTEN", &format!("0.0.0.0:{port}")),
        ("KONG_KEYRING_METRICS_PUBLIC", "on"),
    ]);
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(http::exchange(stream, "GET", "/metrics", &[], b"").unwrap().status, 200);
}

#[test]
fn check_refuses_a_certificate_with_the_key_of_another() {
    let server = OpenBao::shared();
    let authority = Authority::new("one");
    let [one, other] = [(); 2].map(|()| authority.issue(&["localhost"], |_| ()));
    let check = |certificate: &std::path::Path, key: &std::path::Path| {
        let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
        let tls = [
            ("KONG_KEYRING_METRICS_LISTEN", "127.0.0.1:1"),
            ("KONG_KEYRING_METRICS_TLS_CERT", certificate.as_str()),
            ("KONG_KEYRING_METRICS_TLS_KEY", key.as_str()),
        ];
        run_for(&server, "check", &tls)
    };
    success(&check(&one.certificate, &one.key));
    let refused = check(&one.certificate, &other.key);
    assert_eq!(refused.status.code(), Some(78));
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert!(
        errors.contains("keyring_metrics_tls_key: does not belong to keyring_metrics_tls_cert"),
        "{errors}"
    );
}
