# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Whose the files of the state folder are: root's commands must not take them from the daemon."""

import os
from pathlib import Path


def hand_over(folder: Path) -> None:
    """Give what root made in a state folder to the folder's owner.

    Raises:
        OSError: the daemon may not be able to open what is there.
    """
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in folder.iterdir():
        if path.lstat().st_uid == 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
