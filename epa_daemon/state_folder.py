# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The files of the state folder: the lock, and a database that is sound before it is used."""

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path

from epa_daemon import acknowledged, schema
from epa_daemon.errors import CannotStart

DATABASE = "ledger.db"
BACKUP = "backup.db"
# There while a restore is under way: it names the file that keeps the store from before.
RESTORING = "restoring"
_LOCK = "lock"
# --check holds the lock for some milliseconds; a daemon that starts meanwhile waits for it.
_LOCK_SECONDS = 2.0


class DaemonRunning(CannotStart):
    """Another process has this state folder.

    Attributes:
        holder: its number; None for unknown.
    """

    def __init__(self, text: str, holder: int | None):
        super().__init__(text)
        self.holder = holder


def lock(folder: Path) -> int:
    """Take a folder, made if it is missing, for this process; returns what holds the lock.

    Raises:
        CannotStart: the folder cannot be used; `DaemonRunning` if somebody else has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"cannot use the state folder {folder}: {error.strerror}") from error
    _take(held, fcntl.LOCK_EX, folder, patience=_LOCK_SECONDS)
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held


def identities(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of a database and of its log; None for what is not there."""
    return tuple(_identity(f"{path}{suffix}") for suffix in ("", "-wal"))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def in_use(folder: Path) -> bool:
    """Whether a daemon has a folder, perhaps one that is starting and does not listen yet."""
    try:
        held = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        _take(held, fcntl.LOCK_SH, folder, patience=0)
    except DaemonRunning:
        return True
    os.close(held)
    return False


def _take(held: int, kind: int, folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(held, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.pread(held, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(held)
            raise DaemonRunning(
                f"another daemon (pid {holder}) runs on the state folder {folder}; "
                "stop it first, or give this one another --state",
                int(holder) if holder.isdecimal() else None,
            ) from error
        return


def copy(folder: Path, scratch: Path) -> Path | None:
    """Copy a folder's database, to look at without touching; None where there is none.

    Raises:
        CannotStart: it cannot be read; `DaemonRunning` if a daemon has the folder.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            held = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
            _take(held, fcntl.LOCK_SH, folder, patience=0)
            try:
                return copy_files(folder, scratch)
            finally:
                os.close(held)
        return copy_files(folder, scratch)
    except OSError as error:
        raise CannotStart(f"cannot read the state folder {folder}: {error.strerror}") from error


def copy_files(folder: Path, scratch: Path, name: str = DATABASE) -> Path | None:
    """Copy a database, its log and what was acknowledged of it; None where there is none.

    Raises:
        CannotStart: a restore did not finish, or only the log is there.
        OSError: it cannot be read.
    """
    if name == DATABASE:
        refuse_unfinished(folder)
    acknowledged.copy(folder, scratch)
    if not os.path.lexists(folder / name):
        refuse_orphaned_log(folder / name)
        return None
    for suffix in ("", "-wal"):
        source = folder / f"{name}{suffix}"
        if source.exists():
            (scratch / f"{DATABASE}{suffix}").write_bytes(source.read_bytes())
    return scratch / DATABASE


def check_writable(folder: Path) -> None:
    """Check that a daemon of this user could keep its state here, without making anything.

    Raises:
        CannotStart: it could not.
    """
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        raise CannotStart(f"cannot use the state folder {folder}: {there} is not writable")


def refuse_unfinished(folder: Path) -> None:
    """Check that no restore has been interrupted: what there is then may be of two stores.

    Raises:
        CannotStart: one has.
    """
    if os.path.lexists(folder / RESTORING):
        raise CannotStart(
            f"a restore into {folder} did not finish; run it again: epa-orchestrator restore FILE"
        )


def discard_links(path: Path) -> None:
    """Remove second names of a database, which a restore made that was killed soon after.

    Raises:
        CannotStart: they cannot be removed.
    """
    try:
        for other in path.parent.glob(f"{path.name}.replaced-*"):
            if not other.name.endswith("-wal") and _identity(str(other)) == _identity(str(path)):
                other.with_name(f"{other.name}-wal").unlink(missing_ok=True)
                other.unlink()
    except OSError as error:
        raise CannotStart(f"cannot use the state folder {path.parent}: {error}") from error


def refuse_orphaned_log(path: Path) -> None:
    """Check that a database that is missing has left no log: it would be that of another one.

    Raises:
        CannotStart: it has.
    """
    if path.with_name(f"{path.name}-wal").exists():
        raise CannotStart(f"{path} is missing although its log {path.name}-wal is there")


def create(path: Path) -> None:
    """Make an empty database under another name first: an empty file is never a valid one.

    Raises:
        CannotStart: it cannot be made.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        make_private(new)
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.executescript(f"PRAGMA synchronous = FULL; {schema.script(0)}")
        new.rename(path)
        sync_folder(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"cannot create the store {path}: {error}") from error


def make_private(path: Path) -> None:
    """Make an empty file, for this user alone, in the place of whatever is there.

    Raises:
        OSError: it cannot be made.
    """
    # A log that is left of an earlier attempt would be taken for this file's.
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: they may not be.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def connect(path: Path, shown: Path) -> sqlite3.Connection:
    """Open a database for this process alone, once it is known to be sound.

    Args:
        path: the file.
        shown: what errors call it: the original, where the file is a copy.

    Raises:
        CannotStart: it is damaged, of another program, or of a newer daemon.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, timeout=1, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        version = schema.check(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        schema.migrate(connection, version)
    except (sqlite3.Error, ValueError) as error:
        raise CannotStart(
            f"the store {shown} cannot be used: {error}; it was left as it is: "
            f"restore a backup, or move the whole state folder {shown.parent} away to start "
            "without its claims"
        ) from error
    return connection
