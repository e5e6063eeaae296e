//! Clients of Vault that nobody here wrote, unchanged, over the socket: what each does with Transit, and what it asks first.
//!
//! Scripts are in `tests/clients`; packages are pinned by hash and fetched once. hvac runs its own test suite.

use std::{
    fs, io,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use vaultrs::{
    api::transit::{
        HashAlgorithm, OutputFormat,
        requests::{
            DataKeyType, EncryptDataRequest, GenerateDataKeyRequest, GenerateHmacRequest, RandomBytesSource,
            VerifySignedDataRequest,
        },
        responses::ReadKeyData,
    },
    client::{Client as _, VaultClient, VaultClientSettingsBuilder},
    transit,
};

use crate::{
    keyrings::put,
    support::{Daemon, OpenBao, node, openbao, passed_as_root, python, success, tool, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn started(more: &[(&str, &str)]) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, more);
    (server, daemon)
}

/// Runs a Python script of `tests/clients`.
fn python(script: &str, packages: &str, arguments: &[&Path]) -> Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = tool("python3");
    command.arg(path).args(arguments).env("PYTHONPATH", python::packages(packages));
    command.output().unwrap()
}

/// A TCP port whose connections go to the socket, for clients that know no Unix sockets.
fn bridge(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(daemon) = UnixStream::connect(&socket) else { return };
            pass_on(client, daemon);
        }
    });
    port
}

fn pass_on(mut client: TcpStream, mut daemon: UnixStream) {
    let (mut from_client, mut to_daemon) = (client.try_clone().unwrap(), daemon.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_daemon);
        let _ = to_daemon.shutdown(Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut daemon, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
}

#[test]
fn vaultrs_does_all_of_transit() {
    let (_server, daemon) = started(&[]);
    // Another test of this program may have done so.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = VaultClientSettingsBuilder::default()
        .address(format!("http://127.0.0.1:{}", bridge(daemon.socket())))
        .token("ignored")
        .build()
        .unwrap();
    let vault = VaultClient::new(settings).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mount, name, text) = ("transit", "keyring", BASE64_STANDARD.encode("hello"));
        let mut with_version = EncryptDataRequest::builder();
        with_version.key_version(0_u64).convergent_encryption("false");
        for options in [None, Some(&mut with_version)] {
            let sealed = transit::data::encrypt(&vault, mount, name, &text, options).await.unwrap();
            let opened = transit::data::decrypt(&vault, mount, name, &sealed.ciphertext, None).await.unwrap();
            assert_eq!(opened.plaintext, text);
            let again = transit::data::rewrap(&vault, mount, name, &sealed.ciphertext, None).await.unwrap();
            assert!(again.ciphertext.starts_with("kr1:first:"));
        }

        let key = transit::key::read(&vault, mount, name).await.unwrap();
        let ReadKeyData::Symmetric(versions) = key.keys else { panic!("asymmetric: {key:?}") };
        assert!(versions["1"] > 1_700_000_000, "{versions:?}");
        assert_eq!(transit::key::list(&vault, mount).await.unwrap().keys, [name]);

        let mut bits = GenerateDataKeyRequest::builder();
        bits.bits(128_u16);
        let kind = DataKeyType::Plaintext;
        let made = transit::generate::data_key(&vault, mount, name, kind, Some(&mut bits)).await.unwrap();
        assert_eq!(BASE64_STANDARD.decode(made.plaintext.unwrap()).unwrap().len(), 16);
        let drawn = transit::generate::random_bytes(
            &vault,
            mount,
            OutputFormat::Hex,
            RandomBytesSource::Platform,
            None,
        );
        assert_eq!(drawn.await.unwrap().random_bytes.len(), 64);
        let sum = transit::generate::hash(&vault, mount, &text, None).await.unwrap().sum;
        assert!(
            sum.starts_with("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=") || sum.starts_with("2cf24dba")
        );

        vaultrs_hmacs(&vault, &text).await;
        assert!(vaultrs::sys::health(&vault).await.unwrap().initialized);
        assert!(matches!(vault.status().await.unwrap(), vaultrs::sys::ServerStatus::OK));
        let token = vault.lookup().await.unwrap();
        assert!(token.policies.iter().any(|policy| policy == "encrypt"), "{token:?}");
    });
}

async fn vaultrs_hmacs(vault: &VaultClient, text: &str) {
    let mut algorithm = GenerateHmacRequest::builder();
    algorithm.algorithm(HashAlgorithm::Sha2_512);
    let mac = transit::generate::hmac(vault, "transit", "keyring", text, Some(&mut algorithm)).await.unwrap();
    for (input, valid) in [(text, true), (&BASE64_STANDARD.encode("other"), false)] {
        let mut given = VerifySignedDataRequest::builder();
        given.hmac(mac.hmac.as_str()).hash_algorithm(HashAlgorithm::Sha2_512);
        let verified =
            transit::data::verify(vault, "transit", "keyring", input, Some(&mut given)).await.unwrap();
        assert_eq!(verified.valid, valid);
    }
}

#[test]
fn node_vault_does_all_of_transit() {
    let (_server, daemon) = started(&[]);
    assert_eq!(success(&node::run("node_vault.mjs", &[&daemon.socket()])), "all of it\n");
}

#[test]
fn litehex_node_vault_does_all_of_transit() {
    let (_server, daemon) = started(&[]);
    assert_eq!(success(&node::run("litehex.mjs", &[&daemon.socket()])), "all of it\n");
}

#[test]
fn async_hvac_does_all_of_transit() {
    let (_server, daemon) = started(&[]);
    let output = python("async_hvac_client.py", "python-clients-requirements.txt", &[&daemon.socket()]);
    assert_eq!(success(&output), "all of it\n");
}

#[test]
fn tinks_envelopes_are_sealed_by_the_socket() {
    let (_server, daemon) = started(&[]);
    let output = python("tink_client.py", "python-clients-requirements.txt", &[&daemon.socket()]);
    assert_eq!(success(&output), "all of it\n");
}

/// A daemon with the keyrings orders, cards and users, each for a user of its own. This process may use orders.
fn with_three_names(folder: &Path) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    for (name, id) in [("orders", "o1"), ("cards", "c1"), ("users", "u1")] {
        put(&server, name, id);
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let access = "uid:0=encrypt+decrypt@orders, uid:0=status, uid:40001=encrypt+decrypt@orders, \
                  uid:40002=encrypt+decrypt@cards, uid:40003=encrypt+decrypt@users";
    let settings = [
        ("KONG_KEYRING_VAULT_PATHS", "orders, cards, users"),
        ("KONG_KEYRING_ACCESS", access),
        ("KONG_KEYRING_SOCKET_MODE", "0666"),
    ];
    let daemon = Daemon::start_at(Some(&folder.join("keyringd.sock")), &server, &settings);
    for name in ["orders", "cards", "users"] {
        wait_for(name, || (daemon.get(&format!("/readyz?name={name}")).status == 200).then_some(()));
    }
    (server, daemon)
}

#[test]
fn hvac_tink_bao_and_vaultrs_use_keyrings_of_their_own_under_users_of_their_own() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_server, daemon) = with_three_names(folder.path());
    let socket = daemon.socket();
    for (client, uid, own, other) in
        [("hvac", "40001", "orders", "cards"), ("tink", "40003", "users", "orders")]
    {
        let arguments = [client.as_ref(), socket.as_path(), uid.as_ref(), own.as_ref(), other.as_ref()];
        let output = python("keyrings.py", "python-clients-requirements.txt", &arguments);
        assert_eq!(success(&output), "all of it\n", "{client}");
    }

    // The user may have no access to the folder of the program. By another process, which leaves no descriptor open here.
    let program = folder.path().join("bao");
    success(&Command::new("cp").arg(openbao::program()).arg(&program).output().unwrap());
    let bao = |name: &str, field: &str| {
        let address = format!("unix://{}", socket.display());
        let mut command = tool("setpriv");
        command.args(["--reuid=40002", "--regid=40002", "--clear-groups", "--"]).arg(&program);
        command.args(["write", "-field=ciphertext", &format!("transit/encrypt/{name}"), field]);
        command.env("HOME", "/nonexistent").env("BAO_ADDR", &address).env("VAULT_ADDR", &address);
        command.current_dir("/").output().unwrap()
    };
    assert!(success(&bao("cards", "plaintext=YQ==")).starts_with("kr1:c1:"));
    for name in ["users", "no-such-keyring"] {
        let refused = String::from_utf8_lossy(&bao(name, "plaintext=YQ==").stderr).into_owned();
        assert!(refused.contains("Code: 403") && refused.contains(&format!("@{name}")), "{refused}");
    }

    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let address = format!("http://127.0.0.1:{}", bridge(socket));
    let settings = VaultClientSettingsBuilder::default().address(address).token("ignored").build().unwrap();
    let vault = VaultClient::new(settings).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let sealed = transit::data::encrypt(&vault, "transit", "orders", "YQ==", None).await.unwrap();
        let opened =
            transit::data::decrypt(&vault, "transit", "orders", &sealed.ciphertext, None).await.unwrap();
        assert_eq!(opened.plaintext, "YQ==");
        let refused = transit::data::encrypt(&vault, "transit", "users", "YQ==", None).await.unwrap_err();
        assert!(matches!(refused, vaultrs::error::ClientError::APIError { code: 403, .. }), "{refused:?}");
    });
}

#[test]
fn hvacs_own_test_suite_passes() {
    let settings = [
        ("KONG_KEYRING_NAME", "testkey"),
        ("KONG_KEYRING_TRANSIT_MOUNTS", "transit, transit-integration-test"),
    ];
    let (server, daemon) = started(&settings);
    let source =
        python::source("hvac-source-requirements.txt", &python::packages("hvac-suite-requirements.txt"));
    let (address, token) = (server.address(), server.token());
    let arguments = [&daemon.socket(), Path::new(&address), Path::new(token), &source];
    let output = python("hvac_suite.py", "hvac-suite-requirements.txt", &arguments);
    assert_eq!(success(&output), "15 of 47 tests passed, 32 left out\n");
}

#[test]
fn bao_logs_in_asks_for_the_status_and_names_a_missing_field() {
    let (_server, daemon) = started(&[]);
    let bao = |arguments: &[&str]| {
        let address = format!("unix://{}", daemon.socket().display());
        let mut command = Command::new(openbao::program());
        command.args(arguments).env("HOME", daemon.folder()).env("BAO_FORMAT", "json");
        command.env("VAULT_FORMAT", "json").env("BAO_ADDR", &address).env("VAULT_ADDR", &address);
        command.output().unwrap()
    };
    let status: Value = serde_json::from_str(&success(&bao(&["status"]))).unwrap();
    assert_eq!((&status["initialized"], &status["sealed"]), (&json!(true), &json!(false)));
    let login: Value =
        serde_json::from_str(&success(&bao(&["login", "-method=token", "any-token"]))).unwrap();
    assert!(login["auth"]["policies"].as_array().unwrap().contains(&json!("encrypt")), "{login}");
    let token: Value = serde_json::from_str(&success(&bao(&["token", "lookup"]))).unwrap();
    let uid = nix::unistd::getuid().to_string();
    assert_eq!(token["data"]["meta"]["uid"], uid, "{token}");
    let refused = bao(&["write", "-f", "transit/encrypt/keyring"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("plaintext"), "{message}");
    let mount = success(&bao(&["read", "sys/internal/ui/mounts/transit"]));
    assert!(mount.contains("\"transit/\""), "{mount}");
}

#[test]
fn openbaos_core_is_unsealed_by_the_socket_and_again_after_a_restart() {
    let (_server, daemon) = started(&[]);
    let mut sealed = OpenBao::sealed_by(&daemon.socket());
    sealed.api("POST", "sys/mounts/secret", &json!({ "type": "kv" }));
    sealed.api("POST", "secret/kept", &json!({ "a": "b" }));
    sealed.stop();
    sealed.start();
    sealed.wait_until_leading();
    let kept = wait_for("the secret", || {
        sealed.try_api("GET", "secret/kept", &Value::Null).filter(|answer| answer.status == 200)
    });
    assert_eq!(kept.at("/data/a"), "b");
}
