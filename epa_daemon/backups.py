# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A backup of the store, written to a file of the operator's and read from one."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from epa_daemon import acknowledged, chores, lost_folder, opening, state_folder
from epa_daemon.errors import CannotStart, NotDone, StoreFailed
from epa_daemon.holder import HolderClient
from epa_daemon.store import Store

STANDARD = "-"


def write(state: Path, socket: Path, file: str) -> int:
    """Write a backup to a file that must not exist yet; returns its size in bytes.

    A daemon that runs on the state, and listens on the socket, makes the copy; else it is taken
    from the files.

    Raises:
        NotDone: there is no such backup.
        CannotStart: the store cannot be read.
        epa_client.EpaError: the daemon does not give one.
    """
    with tempfile.TemporaryDirectory(prefix="epa-backup-") as scratch:
        copy = Path(scratch, state_folder.BACKUP)
        try:
            _take(state, socket, Path(scratch), copy)
            _check(copy, state)
            if file == STANDARD:
                _pour(copy)
            else:
                _put(copy, Path(file))
        except (OSError, StoreFailed) as error:
            raise NotDone(f"no backup was written to {file}: {error}") from error
        return copy.stat().st_size


def _take(state: Path, socket: Path, scratch: Path, copy: Path) -> None:
    try:
        lost_folder.refuse(state, socket)
        opened = opening.open_copy(state, scratch)
    except state_folder.DaemonRunning as running:
        # What the copy must have at least; later it may not, as the daemon goes on.
        acknowledged.copy(state, scratch)
        # Its name is ours and not the reply's.
        HolderClient(socket, running.holder).request("backup")
        shutil.copyfile(state / state_folder.BACKUP, copy)
        return
    if opened is None:
        raise NotDone(f"there is no store in {state}")
    try:
        opened.back_up(copy)
    finally:
        opened.close()


def _check(copy: Path, state: Path) -> None:
    """A backup of a damaged store, or an old one, would be found out when it is needed."""
    opened = opening.open_file(copy, state / state_folder.DATABASE)
    try:
        _refuse_older(copy, opened)
        opened.load()
        damage = _damage(opened)
        opened.settle()
    finally:
        opened.close()
    if damage:
        raise NotDone(f"no backup was written: {damage}")


def _refuse_older(copy: Path, opened: Store) -> None:
    try:
        acknowledged.check(acknowledged.read(copy.parent, copy.parent), opened.word, copy.parent)
    except CannotStart as error:
        raise NotDone(
            "no backup was written: the copy is older than what was acknowledged"
        ) from error


def _pour(copy: Path) -> None:
    if sys.stdout.isatty():
        raise NotDone("a backup is not text; send it to a file")
    with copy.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _put(copy: Path, target: Path) -> None:
    """Under its name only when it is whole; never over a file, nor through a link."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(copy.read_bytes())
            file.flush()
            os.fsync(descriptor)
        _name(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    state_folder.sync_folder(target.parent)


def _name(made: str, target: Path) -> None:
    try:
        os.link(made, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: a name that is taken first is not somebody else's.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        os.replace(made, target)


def receive(file: str, new: Path) -> Store:
    """Copy a backup to a new file, and open that.

    Raises:
        NotDone: it is no sound backup of this daemon, or of an older one.
    """
    try:
        state_folder.make_private(new)
        with new.open("wb") as target:
            if file == STANDARD:
                shutil.copyfileobj(sys.stdin.buffer, target)
            else:
                with Path(file).open("rb") as source:
                    shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        opened = opening.open_file(new, Path(file))
    except (OSError, CannotStart) as error:
        reason = error.__cause__ if isinstance(error, CannotStart) else error
        raise NotDone(f"cannot restore {file}: {reason}") from error
    try:
        opened.load()
        damage = _damage(opened)
    except CannotStart as error:
        damage = str(error.__cause__ or error)
    if damage:
        opened.close()
        raise NotDone(f"cannot restore {file}: {damage}")
    return opened


def _damage(opened: Store) -> str:
    found = (p.text for p in chores.verify(opened).problems if p.code == "store-damaged")
    return next(found, "")
