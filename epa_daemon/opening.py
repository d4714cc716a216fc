# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Opening a store: that of a state folder, to use it or only to look, or a file of its own."""

import contextlib
import os
from pathlib import Path

from epa_daemon import acknowledged, state_folder, write_log
from epa_daemon.acknowledged import Acknowledged
from epa_daemon.errors import CannotStart
from epa_daemon.store import Store


def open_folder(folder: Path) -> Store:
    """Open the store of a state folder, made if it is missing, and lock it for this process.

    Raises:
        CannotStart: another daemon has it, it is of a newer daemon, or it cannot be read or made
            durable.
    """
    with contextlib.ExitStack() as undo:
        lock = state_folder.lock(folder)
        undo.callback(os.close, lock)
        state_folder.refuse_unfinished(folder)
        path = folder / state_folder.DATABASE
        kept = acknowledged.read(folder, folder)
        if not os.path.lexists(path):
            state_folder.refuse_orphaned_log(path)
            acknowledged.refuse_missing(kept, path)
            state_folder.create(path)
        state_folder.discard_links(path)
        connection = state_folder.connect(path, shown=path)
        undo.callback(connection.close)
        write_log.make_durable(connection, path)
        told = undo.enter_context(contextlib.closing(Acknowledged(folder)))
        opened = Store(connection, path, lock, told)
        acknowledged.check(kept, opened.word, folder)
        undo.pop_all()
        return opened


def open_file(path: Path, shown: Path) -> Store:
    """Open a store that is not in its folder: a backup, or a copy of one; nothing is locked.

    Args:
        path: the file, which may be migrated.
        shown: what errors call it.

    Raises:
        CannotStart: as in `open_folder`.
    """
    return Store(state_folder.connect(path, shown), path)


def open_copy(folder: Path, scratch: Path) -> Store | None:
    """Open a copy of the store in a scratch folder, to look without touching; None for none.

    Raises:
        CannotStart: as in `open_folder`; `DaemonRunning` if a daemon has the folder.
    """
    copy = state_folder.copy(folder, scratch)
    original = folder / state_folder.DATABASE
    kept = acknowledged.read(scratch, folder)
    if copy is None:
        acknowledged.refuse_missing(kept, original)
        return None
    opened = Store(state_folder.connect(copy, original), original)
    try:
        acknowledged.check(kept, opened.word, folder)
    except CannotStart:
        opened.close()
        raise
    return opened
