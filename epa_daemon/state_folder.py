# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The files of the state folder: the lock, and a database that is sound before it is used."""

import contextlib
import fcntl
import os
import sqlite3
import time
from pathlib import Path

from epa_daemon import schema
from epa_daemon.errors import CannotStart

DATABASE = "ledger.db"
_LOCK = "lock"
_ACKNOWLEDGED = "acknowledged"
# --check holds the lock for some milliseconds; a daemon that starts meanwhile waits for it.
_LOCK_SECONDS = 2.0


class DaemonRunning(CannotStart):
    """Another process has this state folder."""


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


class Acknowledged:
    """The last generation of the store that a client was told of, in a file of its own.

    It is written without a sync, so a power cut may leave an older one; never a newer one, as the
    store's own sync comes first. A store that is older than it has lost something.
    """

    def __init__(self, folder: Path):
        self._path = folder / _ACKNOWLEDGED
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def check(self, generation: int) -> None:
        """Refuse a store that is older than what was acknowledged.

        Raises:
            ValueError: it is; or the file is damaged.
        """
        content = os.pread(self._file, 64, 0).strip(b"\0\n ")
        if content and int(content) > generation:
            raise ValueError(
                "it is older than what was acknowledged: its log is missing or damaged (if it is "
                f"an older copy that is to hold from now on, remove {self._path})"
            )

    def write(self, generation: int) -> None:
        """Keep a generation whose commit is durable.

        Raises:
            OSError: an older one may be kept.
        """
        os.pwrite(self._file, b"%020d\n" % generation, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def identities(path: Path) -> dict[str, tuple[int, int]]:
    """Device and inode of the database and its log, as far as they are there."""
    found: dict[str, tuple[int, int]] = {}
    for name in (path.name, f"{path.name}-wal"):
        with contextlib.suppress(OSError):
            status = path.with_name(name).stat()
            found[name] = status.st_dev, status.st_ino
    return found


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
                "stop it first, or give this one another --state"
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
                return _copy_files(folder, scratch)
            finally:
                os.close(held)
        return _copy_files(folder, scratch)
    except OSError as error:
        raise CannotStart(f"cannot read the state folder {folder}: {error.strerror}") from error


def _copy_files(folder: Path, scratch: Path) -> Path | None:
    if not os.path.lexists(folder / DATABASE):
        _refuse_orphaned_log(folder / DATABASE)
        return None
    for suffix in ("", "-wal"):
        source = folder / f"{DATABASE}{suffix}"
        if source.exists():
            (scratch / source.name).write_bytes(source.read_bytes())
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


def _refuse_orphaned_log(path: Path) -> None:
    if path.with_name(f"{path.name}-wal").exists():
        raise CannotStart(f"{path} is missing although its log {path.name}-wal is there")


def create(path: Path) -> None:
    """Make an empty database under another name first: an empty file is never a valid one.

    Raises:
        CannotStart: it cannot be made.
    """
    _refuse_orphaned_log(path)
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.executescript(f"PRAGMA synchronous = FULL; {schema.script(0)}")
        new.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, sqlite3.Error) as error:
        raise CannotStart(f"cannot create the store {path}: {error}") from error


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
            "restore a backup, or move it away to start without its claims"
        ) from error
    return connection
