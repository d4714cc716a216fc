# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Whose the files of the state folder are: root's commands must not take them from the daemon."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def handed_over(folder: Path) -> Generator[None]:
    """Give what root makes within to the folder's owner, also where that fails half-way.

    Raises:
        OSError: the command did its work, but the daemon may not be able to open what is there.
    """
    before = _roots(folder)
    try:
        yield
    except BaseException:
        # Its own failure is the one to tell of.
        with contextlib.suppress(OSError):
            _hand_over(folder, before)
        raise
    _hand_over(folder, before)


def _roots(folder: Path) -> frozenset[tuple[Path, int]]:
    """What of a folder's content is root's, with its inode."""
    try:
        found = [(path, path.lstat()) for path in folder.iterdir()]
    except OSError:
        return frozenset()
    return frozenset((path, there.st_ino) for path, there in found if there.st_uid == 0)


def _hand_over(folder: Path, before: frozenset[tuple[Path, int]]) -> None:
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path, _ in _roots(folder) - before:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
