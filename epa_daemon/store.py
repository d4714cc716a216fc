# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The ledger on disk: SQLite, one transaction per batch of decisions, durable before any reply.

WAL with synchronous=FULL makes a commit durable when COMMIT returns (sqlite.org/wal.html,
sqlite.org/pragma.html#pragma_synchronous). The folder belongs to one process: a lock file
refuses a second one, and SQLite's exclusive locking mode does without shared memory.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import history, ledger
from epa_daemon.errors import CannotStart, StoreFailed
from epa_daemon.history import Event
from epa_daemon.ledger import Claim, Holding, Ledger, Policy, Pool

FILE_NAME = "ledger.db"
_LOCK_NAME = "lock"
_APPLICATION_ID = 0x45504131  # "EPA1"
_SCHEMA_VERSION = 1
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
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
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, action TEXT NOT NULL,
    service TEXT NOT NULL, subject TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
    uid INTEGER, pid INTEGER, snap TEXT NOT NULL
) STRICT;
CREATE TABLE imports (
    sha256 TEXT PRIMARY KEY, updated_at TEXT NOT NULL, imported_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
_KEPT_EVENTS = 10_000


@dataclass(frozen=True)
class Import:
    """An old state file that has been taken over."""

    sha256: str
    updated_at: str


class Store:
    """The open store of one state folder."""

    def __init__(self, connection: sqlite3.Connection, lock: int | None):
        self._connection = connection
        self._lock = lock

    def load(self) -> Ledger:
        """The ledger as it was last made durable.

        Raises:
            CannotStart: it cannot be read, or does not keep the ledger's invariants.
        """
        try:
            loaded = self._read()
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise CannotStart(f"the store cannot be read: {error}") from error
        wrong = ledger.broken_invariants(loaded)
        if wrong:
            raise CannotStart(f"the store is damaged: {wrong[0]}; restore a backup")
        return loaded

    def _read(self) -> Ledger:
        claims: dict[str, dict[int, Claim]] = {}
        for service, cpu, node, explicit in self._connection.execute(
            "SELECT service, cpu, node, explicit FROM claims ORDER BY service, cpu"
        ):
            claims.setdefault(service, {})[cpu] = Claim(node, bool(explicit))
        holdings = {
            name: Holding(Pool(pool), Policy(policy), claims.pop(name, {}))
            for name, pool, policy in self._connection.execute(
                "SELECT name, pool, policy FROM services ORDER BY name"
            )
        }
        if claims:
            raise ValueError(f"claims of unknown services: {', '.join(sorted(claims))}")
        pages = self._connection.execute("SELECT node, size_kb, service, count FROM hugepages")
        return ledger.build(holdings, (((node, size), name, n) for node, size, name, n in pages))

    def commit(
        self,
        before: Ledger,
        after: Ledger,
        events: Sequence[Event],
        imported: Import | None = None,
    ) -> None:
        """Make the difference between two ledgers durable, with its events, or change nothing.

        Raises:
            StoreFailed: nothing of it is in the store.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._write_holdings(before, after)
            self._write_pages(before, after)
            self._write_events(events)
            if imported:
                self._connection.execute(
                    "INSERT INTO imports VALUES (?, ?, ?)",
                    (imported.sha256, imported.updated_at, history.timestamp()),
                )
            self._connection.execute("COMMIT")
        except Exception as error:
            # Whatever it was, nothing may be granted on the strength of it. SQLite rolls back by
            # itself on some errors, and then there is nothing left to roll back.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise StoreFailed(str(error)) from error

    def _write_holdings(self, before: Ledger, after: Ledger) -> None:
        execute = self._connection.execute
        for service in ledger.changed_services(before, after):
            new = after.holdings.get(service)
            old_claims, new_claims = before.claims_of(service), after.claims_of(service)
            if new is not None:
                execute(
                    "INSERT OR REPLACE INTO services VALUES (?, ?, ?)",
                    (service, new.pool.value, new.policy.value),
                )
            self._connection.executemany(
                "DELETE FROM claims WHERE service = ? AND cpu = ?",
                [(service, cpu) for cpu in old_claims if cpu not in new_claims],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                [
                    (service, cpu, claim.node, int(claim.explicit))
                    for cpu, claim in new_claims.items()
                    if old_claims.get(cpu) != claim
                ],
            )
            if new is None:
                execute("DELETE FROM services WHERE name = ?", (service,))

    def _write_pages(self, before: Ledger, after: Ledger) -> None:
        for key, service in ledger.changed_pages(before, after):
            count = after.pages_of(key, service)
            if count:
                self._connection.execute(
                    "INSERT OR REPLACE INTO hugepages VALUES (?, ?, ?, ?)",
                    (*key, service, count),
                )
            else:
                self._connection.execute(
                    "DELETE FROM hugepages WHERE node = ? AND size_kb = ? AND service = ?",
                    (*key, service),
                )

    def _write_events(self, events: Sequence[Event]) -> None:
        cursor = self._connection.executemany(
            "INSERT INTO events (at, action, service, subject, before, after, uid, pid, snap) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [event.row() for event in events],
        )
        cursor.execute(
            "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (_KEPT_EVENTS,)
        )

    def has_imported(self, sha256: str) -> bool:
        """Whether a state file with this hash was taken over before."""
        found = self._connection.execute("SELECT 1 FROM imports WHERE sha256 = ?", (sha256,))
        return found.fetchone() is not None

    def close(self) -> None:
        """Release the folder; what was committed stays."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)


def open_folder(folder: Path) -> Store:
    """Open the store of a state folder, made if it is missing, and lock it for this process.

    Raises:
        CannotStart: another daemon has it, it is of a newer daemon, or it cannot be read.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise CannotStart(f"cannot use the state folder {folder}: {error.strerror}") from error
    try:
        path = folder / FILE_NAME
        if not path.exists():
            _create(path)
        return Store(_connect(path, shown=path), lock)
    except BaseException:
        os.close(lock)
        raise


def open_copy(folder: Path, scratch: Path) -> Store | None:
    """Open a copy of the store in a scratch folder, to look without touching; None for none.

    Raises:
        CannotStart: as in `open_folder`; `DaemonRunning` if a daemon has the folder.
    """
    if not (folder / FILE_NAME).exists():
        _refuse_orphaned_log(folder / FILE_NAME)
        return None
    try:
        lock = _lock(folder)
        try:
            for suffix in ("", "-wal"):
                source = folder / f"{FILE_NAME}{suffix}"
                if source.exists():
                    (scratch / source.name).write_bytes(source.read_bytes())
        finally:
            os.close(lock)
    except OSError as error:
        raise CannotStart(f"cannot read the state folder {folder}: {error.strerror}") from error
    return Store(_connect(scratch / FILE_NAME, shown=folder / FILE_NAME), None)


class DaemonRunning(CannotStart):
    """Another process has this state folder."""


def _lock(folder: Path) -> int:
    lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise DaemonRunning(
            f"another daemon (pid {holder}) runs on the state folder {folder}; "
            "stop it first, or give this one another --state"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _refuse_orphaned_log(path: Path) -> None:
    if path.with_name(f"{path.name}-wal").exists():
        raise CannotStart(f"{path} is missing although its log {path.name}-wal is there")


def _create(path: Path) -> None:
    """Make an empty store under another name first: an empty file is never a valid store."""
    _refuse_orphaned_log(path)
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.close(descriptor)
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.executescript(f"PRAGMA synchronous = FULL; BEGIN; {_SCHEMA} COMMIT;")
        new.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"cannot create the store {path}: {error}") from error


def _connect(path: Path, shown: Path) -> sqlite3.Connection:
    """Open a store; errors speak of it as `shown`, which a copy is a copy of."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, timeout=1, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except (sqlite3.Error, ValueError) as error:
        raise CannotStart(
            f"the store {shown} cannot be used: {error}; it was left as it is: "
            "restore a backup, or move it away to start without its claims"
        ) from error
    return connection


def _check(connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise ValueError("it is not a store of this daemon")
    if version > _SCHEMA_VERSION:
        raise ValueError(
            f"it was written by a newer daemon (schema {version}, this one knows "
            f"{_SCHEMA_VERSION}); install that one again"
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(f"it is damaged: {verdict}")
