# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The tables of the store, as a series of steps: a new store takes all, an older one the rest."""

import sqlite3

APPLICATION_ID = 0x45504131  # "EPA1"
STEPS = (
    """
    CREATE TABLE services (
        name TEXT PRIMARY KEY, pool TEXT NOT NULL, policy TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE claims (
        service TEXT NOT NULL REFERENCES services (name), cpu INTEGER NOT NULL,
        node INTEGER, explicit INTEGER NOT NULL CHECK (explicit IN (0, 1)),
        PRIMARY KEY (service, cpu)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE hugepages (
        node INTEGER NOT NULL, size_kb INTEGER NOT NULL, service TEXT NOT NULL,
        count INTEGER NOT NULL CHECK (count > 0), PRIMARY KEY (node, size_kb, service)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, action TEXT NOT NULL,
        service TEXT NOT NULL, subject TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
        uid INTEGER, pid INTEGER, snap TEXT NOT NULL
    ) STRICT;
    CREATE TABLE imports (
        sha256 TEXT PRIMARY KEY, updated_at TEXT NOT NULL, imported_at TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE found_masks (
        pid INTEGER NOT NULL, tid INTEGER NOT NULL, start INTEGER NOT NULL, mask TEXT NOT NULL,
        PRIMARY KEY (tid, start)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE changed_masks_since (boot TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE makers (service TEXT PRIMARY KEY, snap TEXT NOT NULL) STRICT, WITHOUT ROWID;
    ALTER TABLE events ADD COLUMN requested_for TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE seal (
        id INTEGER PRIMARY KEY CHECK (id = 1), store TEXT NOT NULL, generation INTEGER NOT NULL,
        sum TEXT NOT NULL
    ) STRICT;
    INSERT INTO seal VALUES (1, lower(hex(randomblob(16))), 0, 'not sealed yet');
    CREATE INDEX events_of_service ON events (service, id);
    """,
)
VERSION = len(STEPS)


def script(version: int) -> str:
    """What makes a store of this version one of the current version, in one transaction."""
    return (
        f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {VERSION}; {''.join(STEPS[version:])} COMMIT;"
    )


def check(connection: sqlite3.Connection) -> int:
    """The version of a sound store of this daemon, or of an older one.

    Raises:
        ValueError: it is damaged, of another program, or of a newer daemon.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ValueError("it is not a store of this daemon")
    if version > VERSION:
        raise ValueError(
            f"it was written by a newer daemon (schema {version}, this one knows {VERSION}); "
            "install that one again"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(f"it is damaged: {' '.join(verdict.split())}")
    return version


def damage(connection: sqlite3.Connection) -> list[str]:
    """Everything that SQLite finds wrong, indexes included; [] for a sound store.

    Raises:
        sqlite3.Error: it is too damaged to be looked through.
    """
    found = [text for (text,) in connection.execute("PRAGMA integrity_check(20)")]
    return [] if found == ["ok"] else found


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a store that `check` has found to be of this version to the current one.

    Raises:
        sqlite3.Error: it stays as it was.
    """
    if version < VERSION:
        connection.executescript(script(version))
