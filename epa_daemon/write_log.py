# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""SQLite's write-ahead log where the disk fails: what is in it comes back at the next start.

A commit is written to the log and then synced. If that sync fails, SQLite gives the commit up and
writes the next one over it; but a start before that would find it whole, and take it up
(sqlite.org/walformat.html). It would be there although its client was told that it is not.
"""

import os
import sqlite3
from pathlib import Path

from epa_daemon.errors import CannotStart

# The commit's last frame is not whole then, so that no start takes it up. (SQLite writes nothing
# after it: disks are taken to keep what is beside a torn write, sqlite.org/psow.html.)
_TORN = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
# What refuses a statement before anything of the commit is written.
_BEFORE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
}


def may_hold(failure: Exception) -> bool:
    """Whether a commit that failed so may be in the log as a whole."""
    if isinstance(failure, MemoryError):
        # SQLite may run out of memory after it has written and synced; Python then tells no code.
        return True
    if not isinstance(failure, sqlite3.Error):
        return False  # It never came to SQLite.
    code = getattr(failure, "sqlite_errorcode", None)
    return code is None or (code & 0xFF not in _BEFORE and code not in _TORN)


def empty(connection: sqlite3.Connection, path: Path) -> None:
    """Move what is committed into the database, and leave an empty log, both durable.

    Raises:
        sqlite3.Error, OSError: the log may still hold anything that was written to it.
    """
    (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the log is in use")
    # SQLite leaves it to the next commit to make the end of the old log durable.
    _sync_log(path)


def make_durable(connection: sqlite3.Connection, path: Path) -> None:
    """Make durable what a start has found.

    A process that was killed between a write and its sync leaves in the host's memory what the
    disk may not have; a client that repeats its request would be told that it holds it.

    Raises:
        CannotStart: the disk does not keep it.
    """
    try:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if may_hold(error):
                raise
            # No room to move it; it can stay in the log.
            _sync_log(path)
    except (sqlite3.Error, OSError) as error:
        raise CannotStart(
            f"what the store {path} holds cannot be made durable: {error}; check its disk"
        ) from error


def _sync_log(path: Path) -> None:
    log = os.open(path.with_name(f"{path.name}-wal"), os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(log)
    finally:
        os.close(log)
