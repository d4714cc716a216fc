# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Whose the files of the state folder are: root's commands must not take them from the daemon."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def handed_over(folder: Path) -> Generator[None]:
    """Hand over what is made within, also by a command that fails then.

    Raises:
        OSError: the command did its work, but the daemon may not be able to open what is there.
    """
    try:
        yield
    except BaseException:
        # Its own failure is the one to tell of.
        with contextlib.suppress(OSError):
            _hand_over(folder)
        raise
    _hand_over(folder)


def _hand_over(folder: Path) -> None:
    """Give what root made in a state folder to the folder's owner."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in folder.iterdir():
        if path.lstat().st_uid == 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
