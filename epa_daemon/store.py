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
import secrets
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import (
    acknowledged,
    history,
    ledger,
    ledger_rows,
    schema,
    seal,
    state_folder,
    write_log,
)
from epa_daemon.acknowledged import Acknowledged, Word
from epa_daemon.errors import CannotStart, StoreFailed, StoreInDoubt, StoreRemoved
from epa_daemon.event_log import EventLog
from epa_daemon.history import Event
from epa_daemon.ledger import Ledger
from epa_daemon.mask_store import MaskStore

logger = logging.getLogger(__name__)

# What the schema puts there: a store that is new, or was one of an older version.
_NOT_SEALED = "not sealed yet"
_REMOVED = (
    "was removed or replaced under the daemon, which has no place to keep what it grants; save "
    "what it knows now: epa-orchestrator backup FILE"
)


@dataclass(frozen=True)
class Import:
    """An old state file that has been taken over."""

    sha256: str
    updated_at: str


class Store:
    """The open store of one state folder.

    Attributes:
        id: what tells it from any other.
        generation: how many commits it has seen.
        masks: what Open vSwitch's threads had before they were moved.
        log: what happened.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        lock: int | None = None,
        told: Acknowledged | None = None,
    ):
        self._connection = connection
        self._path = path
        self._lock = lock
        self._told = told
        self._files = state_folder.identities(path) if told else None
        self.id, self.generation, self._sum = _seal(connection, path)
        self.masks = MaskStore(connection, self._transaction)
        self.log = EventLog(connection)
        self._committed: Ledger | None = None
        self._gone = False

    def load(self) -> Ledger:
        """The ledger as it was last made durable.

        Raises:
            CannotStart: it cannot be read, does not keep the ledger's invariants, or is not what
                was committed.
        """
        try:
            loaded = ledger_rows.read(self._connection)
            self._check_seal(loaded)
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise CannotStart(f"the store {self._path} cannot be read: {error}") from error
        wrong = ledger.broken_invariants(loaded)
        if wrong:
            raise CannotStart(f"the store {self._path} is damaged: {wrong[0]}; restore a backup")
        self._committed = loaded
        return loaded

    def _check_seal(self, loaded: Ledger) -> None:
        expected = seal.text(seal.of(self.id, loaded))
        if self._sum == _NOT_SEALED:
            self._connection.execute("UPDATE seal SET sum = ?", (expected,))
            self._sum = expected
        if self._sum != expected:
            raise ValueError("it does not hold what was committed; restore a backup")

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
            StoreRemoved: so it is, as the files went meanwhile; the store is still read as it was
                before, and nothing is committed any more.
        """
        generation, total = self.generation + 1, self._sum_after(before, after)
        with self._transaction(lambda: self._leave_out(before, after, len(events))):
            ledger_rows.write(self._connection, before, after)
            self.log.write(events)
            self._connection.execute(
                "UPDATE seal SET generation = ?, sum = ?", (generation, total)
            )
            if imported:
                self._connection.execute(
                    "INSERT INTO imports VALUES (?, ?, ?)",
                    (imported.sha256, imported.updated_at, history.timestamp()),
                )
        self.generation, self._sum, self._committed = generation, total, after
        self._acknowledge()

    @contextlib.contextmanager
    def _transaction(self, leave_out: Callable[[], None] = lambda: None) -> Generator[None]:
        """Make all that is written within durable at the end, or nothing of it.

        Args:
            leave_out: takes back what was committed to files that went meanwhile.

        Raises:
            StoreFailed, StoreInDoubt, StoreRemoved: as `commit`.
        """
        if self._removed():
            raise StoreFailed(f"{self._path} or its log {_REMOVED}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back(error)
            raise StoreFailed(str(error)) from error
        if self._removed():
            leave_out()
            raise self._lost()

    def _roll_back(self, failure: Exception) -> None:
        """Whatever it was, nothing may be granted on the strength of it."""
        # SQLite rolls back by itself on some errors; then there is nothing left to roll back.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        if write_log.may_hold(failure):
            self._take_back(failure)

    def _sum_after(self, before: Ledger, after: Ledger) -> str:
        if self._sum == _NOT_SEALED:
            return seal.text(seal.of(self.id, after))
        return seal.text(seal.moved(int(self._sum, 16), before, after))

    def _removed(self) -> bool:
        """SQLite goes on writing to files that nobody can find again."""
        moved = self._files is not None and state_folder.identities(self._path) != self._files
        return self._gone or moved

    def _lost(self) -> StoreRemoved:
        """From now on nothing is committed, even where the files come back: as what?"""
        self._gone = True
        return StoreRemoved(f"{self._path} or its log {_REMOVED}")

    def _leave_out(self, before: Ledger, after: Ledger, events: int) -> None:
        """Take back what nobody is told of, so that a backup holds what everybody was."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            ledger_rows.write(self._connection, after, before)
            self.log.remove_last(events)
            execute("UPDATE seal SET generation = ?, sum = ?", (self.generation, self._sum))
            execute("COMMIT")
        except sqlite3.Error as error:
            # Nobody can tell it from a change that was done and not answered.
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            logger.error("a backup will hold changes that were not answered: %s", error)

    def _acknowledge(self) -> None:
        if self._told:
            try:
                self._told.write(self.word)
            except OSError as error:
                # Only the notice of a store that loses something later depends on it.
                logger.warning("cannot note the last commit beside %s: %s", self._path, error)

    def _take_back(self, failure: Exception) -> None:
        try:
            write_log.empty(self._connection, self._path)
        except (sqlite3.Error, OSError) as error:
            if self._removed():
                raise self._lost() from error
            raise StoreInDoubt(
                f"a commit failed ({failure}) and cannot be taken back ({error})"
            ) from error

    @property
    def word(self) -> Word:
        """What it is, and how far it has come."""
        return Word(self.id, self.generation)

    @property
    def committed(self) -> Ledger:
        """The ledger as it was last loaded or committed."""
        return self._committed or Ledger()

    def has_imported(self, sha256: str) -> bool:
        """Whether a state file with this hash was taken over before."""
        found = self._connection.execute("SELECT 1 FROM imports WHERE sha256 = ?", (sha256,))
        return found.fetchone() is not None

    def problems(self) -> list[str]:
        """What is wrong with the store while it is in use, a sentence each."""
        if self._removed():
            return [f"the file {self._path} or its log {_REMOVED}"]
        try:
            found = schema.damage(self._connection)
            if not found and self._committed not in (None, ledger_rows.read(self._connection)):
                found = ["it does not say what the daemon goes by; restart the daemon"]
        except (sqlite3.Error, ValueError, KeyError) as error:
            found = [str(error)]
        return [f"the store {self._path} is damaged: {text}" for text in found]

    def back_up(self, target: Path) -> None:
        """Write a copy of the store to a file that is made by this, and make it durable.

        Where Open vSwitch's threads were is left out: it is of this boot alone.

        Raises:
            StoreFailed: there is no such copy.
        """
        try:
            state_folder.make_private(target)
            with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
                self._connection.backup(copy)
                copy.execute("PRAGMA synchronous = FULL")
                # One file, without a log beside it.
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("DELETE FROM found_masks")
                copy.execute("DELETE FROM changed_masks_since")
        except (OSError, sqlite3.Error) as error:
            target.unlink(missing_ok=True)
            raise StoreFailed(str(error)) from error

    def return_to(self, folder: Path) -> None:
        """Make a state folder that is gone again, so that no start takes it for a new one.

        Nor one that is empty, or that an earlier call could only half make.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = (state_folder.DATABASE, acknowledged.NAME)
        if not any(os.path.lexists(folder / name) for name in names):
            acknowledged.leave(folder, self.word)

    def become_another(self) -> None:
        """Take a new id: what was acknowledged of the store so far is not said of this one.

        Raises:
            StoreFailed: it has not.
        """
        new = secrets.token_hex(16)
        total = seal.text(seal.of(new, self.committed))
        try:
            self._connection.execute("UPDATE seal SET store = ?, sum = ?", (new, total))
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error
        self.id, self._sum = new, total

    def settle(self) -> None:
        """Fold the log into the file, for one that is moved or copied after `close`.

        Raises:
            StoreFailed: it still has a log.
        """
        try:
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error

    def close(self) -> None:
        """Release the folder; what was committed stays."""
        self._connection.close()
        if self._told:
            self._told.close()
        if self._lock is not None:
            os.close(self._lock)


def _seal(connection: sqlite3.Connection, path: Path) -> tuple[str, int, str]:
    try:
        row = connection.execute("SELECT store, generation, sum FROM seal").fetchone()
    except sqlite3.Error as error:
        raise CannotStart(f"the store {path} is damaged: {error}; restore a backup") from error
    if row is None:
        raise CannotStart(f"the store {path} is damaged: it has no seal; restore a backup")
    return row[0], row[1], row[2]
