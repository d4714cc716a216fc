# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The last generation of the store that a client was told of, in a file of its own.

It names the store too: what another one has told says nothing about this one. A sum keeps a
flipped bit from making it the word of another. It is written without a sync, so a power cut may
leave an older generation; never a newer one, as the store's own sync comes first. A store that is
older than it has lost something.
"""

import contextlib
import errno
import logging
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from epa_daemon.errors import CannotStart

logger = logging.getLogger(__name__)

NAME = "acknowledged"
_LINE = re.compile("(([0-9a-f]{32}) ([0-9]{20})) ([0-9a-f]{8})")
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Word:
    """What was acknowledged: so many commits of a store."""

    store: str
    generation: int


class Acknowledged:
    """The open file of one state folder."""

    def __init__(self, folder: Path):
        """Open it, made if it is missing and there is room.

        Raises:
            CannotStart: it cannot be opened.
        """
        self._path = folder / NAME
        self._file: int | None = None
        try:
            self._file = self._opened()
        except OSError as error:
            if error.errno not in _FULL:
                text = f"cannot use the state folder {folder}: {error.strerror}"
                raise CannotStart(text) from error
            logger.warning("no room for %s; the first commit tries again", self._path)

    def _opened(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, word: Word) -> None:
        """Keep a generation whose commit is durable.

        Raises:
            OSError: an older one may be kept.
        """
        if self._file is None:
            self._file = self._opened()
        os.pwrite(self._file, _line(word), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


def _line(word: Word) -> bytes:
    # Always as long: a shorter one would leave the end of a longer one.
    said = f"{word.store} {word.generation:020}"
    return f"{said} {_sum(said)}\n".encode()


def _sum(said: str) -> str:
    return f"{zlib.crc32(said.encode()):08x}"


def _word(line: str) -> Word:
    found = _LINE.fullmatch(line)
    if not found or found[4] != _sum(found[1]):
        raise ValueError("it is not what the daemon wrote")
    return Word(found[2], int(found[3]))


def leave(folder: Path, word: Word) -> None:
    """Keep a word in a folder whose own is gone, whole or not at all.

    Raises:
        OSError: it is not kept.
    """
    new = folder / f"{NAME}.new"
    with new.open("wb") as file:
        file.write(_line(word))
        file.flush()
        # The name is made durable soon, and must not be so before what it stands for.
        os.fsync(file.fileno())
    os.replace(new, folder / NAME)


def read(folder: Path, shown: Path) -> Word | None:
    """What is kept in a folder; None for nothing.

    Args:
        folder: where the file is.
        shown: the state folder, where that is only a copy.

    Raises:
        CannotStart: it cannot be read.
    """
    try:
        text = (folder / NAME).read_bytes().strip(b"\0\n ").decode("ascii")
        return _word(text) if text else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CannotStart(
            f"{shown / NAME}, which says up to where changes were acknowledged, cannot be read: "
            f"{error}; restore a backup (or, if no later change than the store's was, remove it)"
        ) from error


def copy(folder: Path, scratch: Path) -> None:
    """Copy what is kept; to be done before the store is copied, which may only be newer.

    Raises:
        OSError: it cannot be read.
    """
    (scratch / NAME).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (scratch / NAME).write_bytes((folder / NAME).read_bytes())


def check(kept: Word | None, found: Word, folder: Path) -> None:
    """Refuse a store that is older than what was acknowledged of it.

    Raises:
        CannotStart: it is.
    """
    if kept and kept.store == found.store and kept.generation > found.generation:
        raise CannotStart(
            f"the store in {folder} cannot be used: it is older than what was acknowledged, so "
            "its log is missing or damaged; restore a backup (if it is an older copy that is to "
            f"hold from now on, remove {folder / NAME})"
        )


def refuse_missing(kept: Word | None, database: Path) -> None:
    """Refuse to begin anew where something was acknowledged.

    Raises:
        CannotStart: it was.
    """
    if kept:
        raise CannotStart(
            f"{database} is missing although changes were acknowledged ({NAME} beside it): "
            f"restore a backup, or move the whole state folder {database.parent} away to start "
            "without its claims"
        )
