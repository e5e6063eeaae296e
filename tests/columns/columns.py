"""An encrypted column of SQLite that is searched by a blind index. It needs keyringd and the standard library only."""

import base64
import http.client
import json
import socket
import sqlite3
import unicodedata

LABEL = "users.email"
BITS = 10  # 10,000 rows: 10,000 / 2^10 is about 10 rows per value
BATCH = 1000

SCHEMA = """
CREATE TABLE users (
    id              INTEGER PRIMARY KEY,
    email           TEXT,     -- ciphertext
    email_key       INTEGER,  -- the key version that sealed it
    email_index     TEXT,     -- blind index
    email_index_key INTEGER   -- the key version that made it
);
CREATE INDEX users_by_email ON users (email_index);
"""


def base64_of(text):
    return base64.b64encode(text.encode()).decode()


def normalised(email):
    """What counts as equal must be equal before it is indexed."""
    return unicodedata.normalize("NFC", email.strip()).casefold()


class Keyring:
    """One keyring on keyringd's socket."""

    def __init__(self, path, name):
        self.path, self.name = path, name

    def post(self, operation, items):
        """The results of a batch, in order."""
        results = []
        for at in range(0, len(items), BATCH):
            body = json.dumps({"batch_input": items[at : at + BATCH]})
            connection = http.client.HTTPConnection("localhost")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.path)
            connection.request("POST", f"/v1/transit/{operation}/{self.name}", body)
            answer = json.load(connection.getresponse())
            connection.close()
            if "data" not in answer:
                raise RuntimeError(answer["errors"])
            results += answer["data"]["batch_results"]
        for result in results:
            if "error" in result:
                raise RuntimeError(result["error"])
        return results


class EmailColumn:
    """The column `email` of `users`."""

    def __init__(self, keyring, index_versions):
        self.keyring = keyring
        # The first is written, all are searched.
        self.index_versions = index_versions

    def seal(self, rows):
        """`(id, email)` to `(id, ciphertext, key, index, index key)`. NULL stays NULL."""
        rows = list(rows)
        some = [(row, email) for row, email in rows if email is not None]
        sealed = self.keyring.post("encrypt", [
            # Bound to its row: a ciphertext that is copied to another row does not open.
            {"plaintext": base64_of(email), "associated_data": base64_of(f"{LABEL}.{row}")}
            for row, email in some
        ])
        indexes = self.indexes([email for _, email in some], self.index_versions[0])
        made = {
            row: (row, one["ciphertext"], one["key_version"], index, self.index_versions[0])
            for (row, _), one, index in zip(some, sealed, indexes)
        }
        return [made.get(row, (row, None, None, None, None)) for row, _ in rows]

    def open(self, rows):
        """`(id, ciphertext)` to emails."""
        opened = self.keyring.post("decrypt", [
            {"ciphertext": sealed, "associated_data": base64_of(f"{LABEL}.{row}")} for row, sealed in rows
        ])
        return [base64.b64decode(one["plaintext"]).decode() for one in opened]

    def indexes(self, emails, version):
        return [one["index"] for one in self.keyring.post("hmac", [
            {
                "input": base64_of(normalised(email)),
                "associated_data": base64_of(LABEL),
                "bits": BITS,
                "key_version": version,
            }
            for email in emails
        ])]

    def write(self, db, rows):
        with db:
            db.executemany("INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?, ?)", self.seal(rows))

    def find(self, db, email):
        """The ids of the rows with this email. The index gives candidates; only the plaintexts tell."""
        values = [self.indexes([email], version)[0] for version in self.index_versions]
        marks = ", ".join("?" * len(values))
        rows = db.execute(f"SELECT id, email FROM users WHERE email_index IN ({marks})", values).fetchall()
        found = zip(rows, self.open(rows))
        return sorted(row for (row, _), one in found if normalised(one) == normalised(email))

    def reindex(self, db):
        """Brings every row to the index version that is written. Writers go on meanwhile."""
        version = self.index_versions[0]
        while rows := db.execute(
            "SELECT id, email FROM users WHERE email_index_key <> ? LIMIT ?", (version, BATCH)
        ).fetchall():
            indexes = self.indexes(self.open(rows), version)
            with db:  # a row that was written meanwhile has another ciphertext, and stays as it is
                db.executemany(
                    "UPDATE users SET email_index = ?, email_index_key = ? WHERE id = ? AND email = ?",
                    [(index, version, row, sealed) for index, (row, sealed) in zip(indexes, rows)],
                )

    def rewrap(self, db, version):
        """Brings every row to the active key, of this version. No plaintext leaves keyringd."""
        while rows := db.execute(
            "SELECT id, email FROM users WHERE email_key <> ? LIMIT ?", (version, BATCH)
        ).fetchall():
            sealed = self.keyring.post("rewrap", [
                {"ciphertext": sealed, "associated_data": base64_of(f"{LABEL}.{row}")} for row, sealed in rows
            ])
            with db:
                db.executemany(
                    "UPDATE users SET email = ?, email_key = ? WHERE id = ? AND email = ?",
                    [
                        (new["ciphertext"], new["key_version"], row, old)
                        for new, (row, old) in zip(sealed, rows)
                    ],
                )


def connect(path):
    db = sqlite3.connect(path, timeout=60)
    db.execute("PRAGMA journal_mode = WAL")
    return db
