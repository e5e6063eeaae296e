//! The examples of the man pages: by command, what for and the line to type.

type Examples = &'static [(&'static str, &'static str)];

/// The examples of a command, by its full name.
pub(super) fn of(name: &str) -> Examples {
    ALL.iter().find(|(command, _)| *command == name).map_or(&[], |(_, examples)| examples)
}

const ALL: &[(&str, Examples)] = &[
    (
        "keyringd run",
        &[
            ("With the settings of a kong.conf", "keyringd run -c /etc/keyringd/kong.conf"),
            (
                "With settings of the environment",
                "KONG_KEYRING_ENABLED=on KONG_KEYRING_STRATEGY=vault ... keyringd run",
            ),
        ],
    ),
    (
        "keyringd dev",
        &[
            ("Try it", "keyringd dev"),
            ("Keep the key between two runs", "keyringd dev --persist dev-key.json --socket ./keyringd.sock"),
        ],
    ),
    (
        "keyringd check",
        &[
            ("What the file and the environment set", "keyringd check --changed -c kong.conf"),
            ("For scripts", "keyringd check --json"),
        ],
    ),
    ("keyringd doctor", &[("Find out why there are no keys", "keyringd doctor -c /etc/keyringd/kong.conf")]),
    (
        "keyringd status",
        &[
            ("Once", "keyringd status"),
            ("Follow it", "keyringd status --watch"),
            ("The active key", "keyringd status --json | jq -r .keyring.active"),
        ],
    ),
    ("keyringd health", &[("As a probe", "keyringd health --socket /run/keyringd/keyringd.sock")]),
    ("keyringd sync", &[("Load a rotation at once", "keyringd sync")]),
    ("keyringd reload", &[("After a change of kong.conf", "keyringd reload")]),
    (
        "keyringd keygen",
        &[(
            "The first record of a keyring",
            "keyringd keygen --id first | bao kv put -mount=secret keyring -",
        )],
    ),
    (
        "keyringd rotate",
        &[
            ("With the token of `bao login`", "keyringd rotate -c /etc/keyringd/kong.conf"),
            (
                "In a CronJob, with a role of its own",
                "KONG_KEYRING_VAULT_KUBE_ROLE=rotator keyringd rotate --login --no-wait",
            ),
        ],
    ),
    (
        "keyringd policy",
        &[
            ("Write the daemon's policy", "keyringd policy -c kong.conf | bao policy write keyringd -"),
            ("The commands that make an AppRole", "keyringd policy --role approle"),
            ("What an operator needs to rotate", "keyringd policy --rotate"),
        ],
    ),
    (
        "keyringd encrypt",
        &[
            ("A file", "keyringd encrypt -i backup.tar -o backup.tar.kr"),
            ("A value per line", "keyringd encrypt --lines < names > ciphertexts"),
        ],
    ),
    (
        "keyringd decrypt",
        &[
            ("A file", "keyringd decrypt -i backup.tar.kr -o backup.tar"),
            ("With associated data", "keyringd decrypt --aad 'row 7' < field"),
        ],
    ),
    (
        "keyringd rewrap",
        &[
            ("A file, in place", "keyringd rewrap -i secret.kr -o secret.kr --force"),
            (
                "A column: pairs of old and new",
                "psql -Atc 'select name from users' | keyringd rewrap --lines > changes.tsv",
            ),
            (
                "Whether a key may be destroyed",
                "psql -Atc 'select name from users' | keyringd rewrap --lines --census",
            ),
        ],
    ),
    (
        "keyringd vault get",
        &[("A field of a secret", "keyringd vault get '{vault://hcv/customer/acme/name}'")],
    ),
    (
        "keyringd exec",
        &[(
            "A program with secrets in its variables",
            "DB='{vault://hcv/db/password}' keyringd exec -- ./server",
        )],
    ),
    ("keyringd files", &[("As a service", "keyringd files --config /etc/keyringd/files/app.json")]),
    (
        "keyringd completions",
        &[("For bash", "keyringd completions bash > /usr/share/bash-completion/completions/keyringd")],
    ),
    (
        "keyringd man",
        &[("A page", "keyringd man rotate"), ("All pages", "keyringd man --all /usr/local/share/man/man1")],
    ),
    (
        "keyringd help",
        &[("All settings", "keyringd help settings"), ("One setting", "keyringd help keyring_access")],
    ),
];
