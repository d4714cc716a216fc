# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The ledger on disk: SQLite, one transaction per batch of decisions, durable before any reply.

WAL with synchronous=FULL makes a commit durable when COMMIT returns (sqlite.org/wal.html,
sqlite.org/pragma.html#pragma_synchronous). The folder belongs to one process: a lock file
refuses a second one, and SQLite's exclusive locking mode does without shared memory.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import history, ledger, seal, state_folder, write_log
from epa_daemon.errors import CannotStart, StoreFailed, StoreInDoubt
from epa_daemon.history import Event
from epa_daemon.ledger import Claim, Holding, Ledger, Policy, Pool
from epa_daemon.mask_store import MaskStore
from epa_daemon.state_folder import Acknowledged

logger = logging.getLogger(__name__)

_KEPT_EVENTS = 10_000
# Events go at once by so many; every commit would touch more pages for it.
_TRIM_EVERY = 256
# What the schema puts there: a store that is new, or was one of an older version.
_NOT_SEALED = "not sealed yet"


@dataclass(frozen=True)
class Import:
    """An old state file that has been taken over."""

    sha256: str
    updated_at: str


class Store:
    """The open store of one state folder.

    Attributes:
        masks: what Open vSwitch's threads had before they were moved.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        lock: int | None = None,
        acknowledged: Acknowledged | None = None,
    ):
        self._connection = connection
        self._path = path
        self._lock = lock
        self._acknowledged = acknowledged
        self._files = state_folder.identities(path) if acknowledged else {}
        self._generation, self._sum = _seal(connection, path)
        self.masks = MaskStore(connection)
        # Unknown how many an earlier process left: trim with the first events.
        self._untrimmed = _TRIM_EVERY

    def load(self) -> Ledger:
        """The ledger as it was last made durable.

        Raises:
            CannotStart: it cannot be read, does not keep the ledger's invariants, or is not what
                was committed.
        """
        try:
            loaded = self._read()
            self._check_seal(loaded)
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise CannotStart(f"the store {self._path} cannot be read: {error}") from error
        wrong = ledger.broken_invariants(loaded)
        if wrong:
            raise CannotStart(f"the store {self._path} is damaged: {wrong[0]}; restore a backup")
        return loaded

    def check_acknowledged(self) -> None:
        """Check that nothing is missing that a client was told of.

        Raises:
            CannotStart: something is.
        """
        try:
            if self._acknowledged:
                self._acknowledged.check(self._generation)
        except ValueError as error:
            raise CannotStart(f"the store {self._path} cannot be used: {error}") from error

    def _check_seal(self, loaded: Ledger) -> None:
        expected = seal.text(seal.of(loaded))
        if self._sum == _NOT_SEALED:
            self._connection.execute("UPDATE seal SET sum = ?", (expected,))
            self._sum = expected
        if self._sum != expected:
            raise ValueError("it does not hold what was committed; restore a backup")

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
            StoreFailed: nothing of it is in the store, nor will it be after another start.
            StoreInDoubt: it may be; whoever says anything about it may be wrong.
        """
        self._check_files(StoreFailed)
        generation, total = self._generation + 1, self._sum_after(before, after)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._write_holdings(before, after)
            self._write_pages(before, after)
            self._write_events(events)
            self._connection.execute(
                "UPDATE seal SET generation = ?, sum = ?", (generation, total)
            )
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
            if write_log.may_hold(error):
                self._take_back(error)
            raise StoreFailed(str(error)) from error
        self._check_files(StoreInDoubt)
        self._generation, self._sum = generation, total
        self._acknowledge()

    def _sum_after(self, before: Ledger, after: Ledger) -> str:
        if self._sum == _NOT_SEALED:
            return seal.text(seal.of(after))
        return seal.text(seal.moved(int(self._sum, 16), before, after))

    def _check_files(self, trouble: type[StoreFailed] | type[StoreInDoubt]) -> None:
        """SQLite goes on writing to files that nobody can find again."""
        if self._files and state_folder.identities(self._path) != self._files:
            raise trouble(f"{self._path} or its log was removed or replaced; restart the daemon")

    def _acknowledge(self) -> None:
        if self._acknowledged:
            try:
                self._acknowledged.write(self._generation)
            except OSError as error:
                # Only the notice of a store that loses something later depends on it.
                logger.warning("cannot note the last commit beside %s: %s", self._path, error)

    def _take_back(self, failure: Exception) -> None:
        try:
            write_log.empty(self._connection, self._path)
        except (sqlite3.Error, OSError) as error:
            raise StoreInDoubt(
                f"a commit failed ({failure}) and cannot be taken back ({error})"
            ) from error

    def _write_holdings(self, before: Ledger, after: Ledger) -> None:
        execute = self._connection.execute
        for service in ledger.changed_services(before, after):
            new = after.holdings.get(service)
            old_claims, new_claims = before.claims_of(service), after.claims_of(service)
            old = before.holdings.get(service)
            if new and (old is None or (old.pool, old.policy) != (new.pool, new.policy)):
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
        self._connection.executemany(
            "INSERT INTO events (at, action, service, subject, before, after, uid, pid, snap) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [event.row() for event in events],
        )
        self._untrimmed += len(events)
        if self._untrimmed >= _TRIM_EVERY:
            self._untrimmed = 0
            self._connection.execute(
                "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (_KEPT_EVENTS,)
            )

    def has_imported(self, sha256: str) -> bool:
        """Whether a state file with this hash was taken over before."""
        found = self._connection.execute("SELECT 1 FROM imports WHERE sha256 = ?", (sha256,))
        return found.fetchone() is not None

    def close(self) -> None:
        """Release the folder; what was committed stays."""
        self._connection.close()
        if self._acknowledged:
            self._acknowledged.close()
        if self._lock is not None:
            os.close(self._lock)


def open_folder(folder: Path) -> Store:
    """Open the store of a state folder, made if it is missing, and lock it for this process.

    Raises:
        CannotStart: another daemon has it, it is of a newer daemon, or it cannot be read or made
            durable.
    """
    lock = state_folder.lock(folder)
    try:
        path = folder / state_folder.DATABASE
        if not os.path.lexists(path):
            state_folder.create(path)
        connection = state_folder.connect(path, shown=path)
        write_log.make_durable(connection, path)
        opened = Store(connection, path, lock, _acknowledged(folder))
        opened.check_acknowledged()
        return opened
    except BaseException:
        os.close(lock)
        raise


def _seal(connection: sqlite3.Connection, path: Path) -> tuple[int, str]:
    try:
        row = connection.execute("SELECT generation, sum FROM seal").fetchone()
    except sqlite3.Error as error:
        raise CannotStart(f"the store {path} is damaged: {error}; restore a backup") from error
    if row is None:
        raise CannotStart(f"the store {path} is damaged: it has no seal; restore a backup")
    return row[0], row[1]


def _acknowledged(folder: Path) -> Acknowledged:
    try:
        return Acknowledged(folder)
    except OSError as error:
        raise CannotStart(f"cannot use the state folder {folder}: {error.strerror}") from error


def open_copy(folder: Path, scratch: Path) -> Store | None:
    """Open a copy of the store in a scratch folder, to look without touching; None for none.

    Raises:
        CannotStart: as in `open_folder`; `DaemonRunning` if a daemon has the folder.
    """
    copy = state_folder.copy(folder, scratch)
    original = folder / state_folder.DATABASE
    return Store(state_folder.connect(copy, original), original) if copy else None
