# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The last generation of the store that a client was told of, in a file of its own.

It is written without a sync, so a power cut may leave an older one; never a newer one, as the
store's own sync comes first. A store that is older than it has lost something.
"""

import os
from pathlib import Path

from epa_daemon.errors import CannotStart

NAME = "acknowledged"


class Acknowledged:
    """The open file of one state folder."""

    def __init__(self, folder: Path):
        """Open it, made if it is missing.

        Raises:
            CannotStart: it cannot be opened.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(folder / NAME, flags, 0o600)
        except OSError as error:
            raise CannotStart(f"cannot use the state folder {folder}: {error.strerror}") from error

    def write(self, generation: int) -> None:
        """Keep a generation whose commit is durable.

        Raises:
            OSError: an older one may be kept.
        """
        os.pwrite(self._file, b"%020d\n" % generation, 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def check(folder: Path, generation: int) -> None:
    """Refuse a store that is older than what was acknowledged.

    Raises:
        CannotStart: it is; or what is kept here cannot be read.
    """
    path = folder / NAME
    try:
        kept = int(path.read_bytes().strip(b"\0\n ") or b"0")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path} cannot be read: {error}") from error
    if kept > generation:
        raise CannotStart(
            f"the store in {folder} cannot be used: it is older than what was acknowledged, so "
            "its log is missing or damaged; restore a backup (if it is an older copy that is to "
            f"hold from now on, remove {path})"
        )
