//! Every fault of the way to Vault in every phase of the daemon, against a raft cluster of three, over TLS: nothing that the
//! daemon holds stops being served, and it recovers by itself.
//!
//! `KEYRINGD_FAULTS=all cargo test --test integration -- faults --nocapture` runs the whole matrix and prints the table of
//! `docs/testing.md`; `cargo test` takes each fault in one phase, and each phase at a change of leader. The file is longer than
//! most: the faults, the phases and the table are read together.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rcgen::date_time_ymd;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Door, Fault, OpenBao, Proxy,
    certificates::{Authority, Issued},
    wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
/// `keyring_sync_interval`
const INTERVAL: u32 = 5;
/// How long a fault lasts, at least.
const LASTS: Duration = Duration::from_secs(3);
/// How many daemons run at once.
const AT_ONCE: usize = 14;
/// The end of a daemon: two seconds for the token, and what a loaded machine adds.
const LONGEST_END: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Login,
    Renewal,
    Metadata,
    Version,
    Reload,
    Shutdown,
}

const PHASES: [Phase; 7] = {
    use Phase::{Login, Metadata, Reload, Renewal, Shutdown, Start, Version};
    [Start, Login, Renewal, Metadata, Version, Reload, Shutdown]
};

impl Phase {
    /// The requests of this phase in Vault.
    fn path(self, secret: &str) -> String {
        match self {
            Self::Start | Self::Reload => "/".to_owned(),
            Self::Login => "/v1/auth/approle/login".to_owned(),
            Self::Renewal => "/v1/auth/token/renew-self".to_owned(),
            Self::Metadata => format!("/v1/secret/metadata/{secret}"),
            Self::Version => format!("/v1/secret/data/{secret}"),
            Self::Shutdown => "/v1/auth/token/revoke-self".to_owned(),
        }
    }

    /// The tokens: short ones that are renewed or replaced, and long ones.
    fn role(self) -> Value {
        match self {
            Self::Login => json!({ "token_ttl": 4, "token_max_ttl": 4, "token_policies": "cells" }),
            Self::Renewal => json!({ "token_ttl": 4, "token_policies": "cells" }),
            _ => json!({ "token_ttl": 3600, "token_policies": "cells" }),
        }
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Connection(Door),
    Certificate(&'static str),
    Answer(Fault),
    /// Another node becomes the leader, once for the daemons in all phases.
    Leader(Arc<StepDown>),
}

#[derive(Debug, Default)]
struct StepDown {
    arrived: AtomicUsize,
    is_done: AtomicBool,
}

impl StepDown {
    /// Returns after the leader has stepped down, which it does when the last phase has arrived.
    fn meet(&self, cluster: &Cluster) {
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == PHASES.len() {
            cluster.api("PUT", "sys/step-down", &Value::Null);
            self.is_done.store(true, Ordering::SeqCst);
        }
        wait_for("the leader to step down", || self.is_done.load(Ordering::SeqCst).then_some(()));
    }
}

fn kinds() -> Vec<(&'static str, Kind)> {
    let answer = |status, headers: &str, body: &str| {
        Kind::Answer(Fault::Answer(status, headers.to_owned(), format!("{{\"errors\":[{body}]}}")))
    };
    vec![
        ("connection refused", Kind::Connection(Door::Closed)),
        ("connection without an answer", Kind::Connection(Door::Silent)),
        ("certificate expired", Kind::Certificate("expired")),
        ("certificate of another authority", Kind::Certificate("unknown")),
        ("no response", Kind::Answer(Fault::Silence)),
        ("response cut", Kind::Answer(Fault::Truncated)),
        ("response after 3 s", Kind::Answer(Fault::Latency(Duration::from_secs(3)))),
        ("429, `Retry-After: 2`", answer(429, "retry-after: 2\r\n", "")),
        ("500", answer(500, "", "\"internal error\"")),
        ("503, sealed", answer(503, "", "\"Vault is sealed\"")),
        ("403", answer(403, "", "\"permission denied\"")),
    ]
}

/// Three nodes, and the certificates of the proxies before one of them that does not lead.
struct Cluster {
    leader: OpenBao,
    standby: OpenBao,
    third: OpenBao,
    authority: Authority,
}

impl Cluster {
    fn new() -> Self {
        let leader = OpenBao::durable();
        let (standby, third) = (OpenBao::joining(&leader), OpenBao::joining(&leader));
        let policy = "path \"secret/*\" { capabilities = [\"read\"] }";
        leader.api("PUT", "sys/policies/acl/cells", &json!({ "policy": policy }));
        leader.api("POST", "sys/auth/approle", &json!({ "type": "approle" }));
        Self { leader, standby, third, authority: Authority::new("The Authority") }
    }

    /// A request to whichever node leads, repeated until one accepts it.
    fn api(&self, method: &str, path: &str, body: &Value) {
        wait_for("a leader", || {
            let nodes = [&self.leader, &self.standby, &self.third];
            let accepted =
                |node: &&OpenBao| node.try_api(method, path, body).is_some_and(|answer| answer.status < 300);
            nodes.iter().any(accepted).then_some(())
        });
    }

    fn put(&self, secret: &str, id: &str) {
        let data = json!({ "data": { "id": id, "key": format!("{id}-{KEY}") } });
        self.api("POST", &format!("secret/data/{secret}"), &data);
    }

    fn certificate(&self, kind: &str) -> Issued {
        match kind {
            "expired" => self.authority.issue(&["127.0.0.1"], |certificate| {
                certificate.not_after = date_time_ymd(2020, 1, 1);
            }),
            "unknown" => Authority::new("Another").issue(&["127.0.0.1"], |_| ()),
            _ => self.authority.issue(&["127.0.0.1"], |_| ()),
        }
    }
}

/// One daemon that meets one fault in one phase.
struct Cell<'c> {
    cluster: &'c Cluster,
    kind: Kind,
    phase: Phase,
    secret: String,
    proxy: Proxy,
    lines: String,
    /// The files that the settings name.
    _folder: tempfile::TempDir,
}

impl<'c> Cell<'c> {
    fn new(cluster: &'c Cluster, number: usize, kind: Kind, phase: Phase) -> Self {
        let secret = format!("cell-{number}");
        cluster.put(&secret, "first");
        cluster.api("POST", &format!("auth/approle/role/{secret}"), &phase.role());
        let (role_id, secret_id) = (cluster.leader.role_id(&secret), cluster.leader.secret_id(&secret));
        let folder = tempfile::tempdir().unwrap();
        let [authority, file] = ["authority", "secret-id"].map(|name| folder.path().join(name));
        fs::write(&authority, cluster.authority.pem()).unwrap();
        fs::write(&file, secret_id).unwrap();
        let lines = format!(
            "keyring_vault_path = {secret}\nkeyring_name = keyring\nkeyring_sync_interval = {INTERVAL}\n\
             keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\n\
             keyring_vault_approle_secret_id_file = {}\nlua_ssl_trusted_certificate = {}\n",
            file.display(),
            authority.display()
        );
        let proxy = Proxy::with_tls(&cluster.standby.address(), &cluster.certificate("good"));
        proxy.set("/", Fault::None);
        Self { cluster, kind, phase, secret, proxy, lines, _folder: folder }
    }

    /// How long the daemon takes to have a new key after the fault, or to end during it. Without a leader there is no new key, so
    /// that time begins when another node has accepted the key.
    fn run(&self) -> Duration {
        if self.phase == Phase::Start {
            self.begin();
        }
        let mut daemon = Daemon::from_conf(&self.proxy.https(), &self.lines);
        if self.phase == Phase::Start {
            return self.recovery(&daemon);
        }
        daemon.wait_until_ready();
        self.begin();
        match self.phase {
            Phase::Shutdown => return self.end(&mut daemon),
            Phase::Version => self.cluster.put(&self.secret, "meanwhile"),
            // Another session, which must log in.
            Phase::Reload => {
                let lines = format!("{}lua_ssl_verify_depth = 2\n", self.lines);
                daemon.write_conf(&self.proxy.https(), &lines);
                daemon.signal(Signal::SIGHUP);
            }
            _ => {}
        }
        self.recovery(&daemon)
    }

    fn begin(&self) {
        match &self.kind {
            Kind::Connection(door) => self.proxy.set_door(*door),
            Kind::Certificate(kind) => self.proxy.set_certificate(&self.cluster.certificate(kind)),
            Kind::Answer(fault) => self.proxy.set(&self.phase.path(&self.secret), fault.clone()),
            Kind::Leader(step_down) => step_down.meet(self.cluster),
        }
    }

    fn clear(&self) {
        match &self.kind {
            Kind::Connection(_) => self.proxy.set_door(Door::Open),
            Kind::Certificate(_) => self.proxy.set_certificate(&self.cluster.certificate("good")),
            Kind::Answer(_) => self.proxy.reset(),
            Kind::Leader(_) => {}
        }
    }

    fn recovery(&self, daemon: &Daemon) -> Duration {
        self.wait_for_the_fault(daemon);
        self.cluster.put(&self.secret, "after");
        self.clear();
        let cleared = Instant::now();
        let what = format!("recovery from {:?} in {:?}", self.kind, self.phase);
        wait_for(&what, || {
            let active = daemon.get("/keyring/active");
            (active.status == 200 && active.at("/id") == "after").then_some(())
        });
        assert_eq!(daemon.get("/readyz").status, 200, "{what}");
        cleared.elapsed()
    }

    /// Until the fault was met and lasted. Meanwhile the keys that are held are served.
    fn wait_for_the_fault(&self, daemon: &Daemon) {
        let (began, before) = (Instant::now(), self.proxy.met());
        // A credential that is refused twice is not sent for 15 minutes.
        let is_refused = matches!(self.kind, Kind::Answer(Fault::Answer(403, ..)));
        let lasts = if is_refused || matches!(self.kind, Kind::Leader(_)) { Duration::ZERO } else { LASTS };
        wait_for("the fault", || {
            if self.phase == Phase::Start {
                assert_eq!(daemon.get("/livez").status, 200);
            } else {
                assert_eq!(daemon.opened(&daemon.encrypt("meanwhile")), "meanwhile");
            }
            let failed = || daemon.get("/status").at("/sync/last_error") != "null";
            let met = matches!(self.kind, Kind::Leader(_))
                || self.proxy.met() > before
                || self.kind_is_unseen() && failed();
            (met && began.elapsed() >= lasts).then_some(())
        });
    }

    /// The kernel refuses, and the proxy does not know of it.
    const fn kind_is_unseen(&self) -> bool {
        matches!(self.kind, Kind::Connection(Door::Closed))
    }

    fn end(&self, daemon: &mut Daemon) -> Duration {
        let asked = Instant::now();
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.ended().code(), Some(0), "{:?}", self.kind);
        let took = asked.elapsed();
        assert!(took < LONGEST_END, "{:?}: {took:?}", self.kind);
        took
    }
}

/// The recovery times of these cells, of which some run at once.
fn measured(cells: &[Cell<'_>]) -> Vec<Duration> {
    let mut times = Vec::new();
    for group in cells.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            running.extend(group.iter().map(|cell| scope.spawn(|| cell.run())));
            times.extend(running.into_iter().map(|cell| cell.join().unwrap()));
        });
    }
    times
}

#[expect(clippy::disallowed_methods, reason = "the length of a test's run is no setting")]
fn all_are_wanted() -> bool {
    std::env::var("KEYRINGD_FAULTS").is_ok_and(|text| text == "all")
}

#[test]
fn every_fault_in_every_phase_is_survived_and_recovered_from() {
    let cluster = Cluster::new();
    let kinds = kinds();
    let mut wanted = Vec::new();
    for (row, (_, kind)) in kinds.iter().enumerate() {
        let in_row = PHASES.iter().enumerate().filter(|(column, _)| all_are_wanted() || *column == row % 7);
        wanted.extend(in_row.map(|(_, phase)| (row, kind.clone(), *phase)));
    }
    let step_down = Kind::Leader(Arc::default());
    wanted.extend(PHASES.map(|phase| (kinds.len(), step_down.clone(), phase)));
    let cells = wanted.iter().enumerate();
    let cells: Vec<_> =
        cells.map(|(number, (_, kind, phase))| Cell::new(&cluster, number, kind.clone(), *phase)).collect();
    let (others, of_leader) = cells.split_at(cells.len() - PHASES.len());
    let mut times = measured(others);
    times.extend(measured(of_leader));

    let mut table =
        format!("| fault | {} |\n", PHASES.map(|phase| format!("{phase:?}").to_lowercase()).join(" | "));
    table.extend(["|---", &"|---".repeat(PHASES.len()), "|\n"]);
    for (row, name) in kinds.iter().map(|(name, _)| *name).chain(["another node leads"]).enumerate() {
        let cell = |phase: &Phase| {
            let found = wanted.iter().zip(&times).find(|((of, _, at), _)| *of == row && at == phase);
            found.map_or_else(String::new, |(_, time)| format!("{:.1}", time.as_secs_f64()))
        };
        table.extend(["| ", name, " | ", &PHASES.each_ref().map(cell).join(" | "), " |\n"]);
    }
    eprintln!("{table}");
}
