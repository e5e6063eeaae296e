"""Fills a table of 10,000 rows, then rotates, indexes again and rewraps while writers go on. Arguments: socket, folder.

It prints `rotate` when a new key version is needed, and reads a line with its number.
"""

import pathlib
import random
import sys
import threading

from columns import EmailColumn, Keyring, SCHEMA, connect

ROWS = 10_000
WRITERS = 2


class Writer(threading.Thread):
    """Changes and adds rows of its own until it is stopped."""

    def __init__(self, number, column, path, gate):
        super().__init__()
        self.number, self.column, self.path, self.gate = number, column, path, gate
        self.stopped, self.expected, self.error = threading.Event(), {}, None

    def run(self):
        try:
            db, chosen = connect(self.path), random.Random(self.number)
            while not self.stopped.is_set():
                # Rows of the table that only this writer changes, and new ones.
                row = chosen.randrange(0, 2 * ROWS // WRITERS) * WRITERS + self.number
                email = f"writer{self.number}-{len(self.expected)}@example.org"
                with self.gate:  # the version to write changes between two writes
                    self.column.write(db, [(row, email)])
                self.expected[row] = email
        except Exception as error:
            self.error = error


def check(column, db, expected):
    rows = db.execute("SELECT id, email FROM users WHERE email IS NOT NULL").fetchall()
    opened = dict(zip((row for row, _ in rows), column.open(rows)))
    nulls = {row: None for row, in db.execute("SELECT id FROM users WHERE email IS NULL")}
    assert opened | nulls == expected, "a row was lost or changed"
    for row in random.Random(1).sample(sorted(opened), 50):
        assert row in column.find(db, opened[row].upper() + " "), opened[row]
    assert column.find(db, "nobody@example.org") == []


def main(socket, folder):
    path = pathlib.Path(folder) / "users.db"
    db = connect(path)
    db.executescript(SCHEMA)
    column = EmailColumn(Keyring(socket, "users"), [1])
    expected = {row: f"User{row}@Example.org" if row % 100 else None for row in range(ROWS)}
    column.write(db, expected.items())
    check(column, db, expected)

    gate = threading.Lock()
    writers = [Writer(number, column, path, gate) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    print("rotate", flush=True)
    version = int(sys.stdin.readline())
    # First all readers search both versions and all writers write the new one, then the rest follows.
    with gate:
        column.index_versions = [version, 1]
    before = [len(writer.expected) for writer in writers]
    column.reindex(db)
    column.rewrap(db, version)
    column.index_versions = [version]
    for writer in writers:
        writer.stopped.set()
        writer.join()
        if writer.error:
            raise writer.error
        expected |= writer.expected
    assert all(len(writer.expected) > some for writer, some in zip(writers, before)), "writers went on"
    old = db.execute("SELECT count(*) FROM users WHERE email_key <> ? OR email_index_key <> ?", (version,) * 2)
    assert old.fetchone() == (0,)
    check(column, db, expected)
    print("done", len(expected), flush=True)


main(*sys.argv[1:])
