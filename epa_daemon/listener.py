# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The socket in the shared folder: made whole, replaced when stale, removed at the end."""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path

from epa_daemon import peers
from epa_daemon.errors import CannotStart, NotDone

logger = logging.getLogger(__name__)

# sun_path of unix(7), with its closing NUL, and room for the suffix of the temporary name.
_LONGEST_PATH = 107 - len(".new")
_BACKLOG = 4096
_MODE = 0o660


def check(path: Path) -> None:
    """Check that a daemon could listen here.

    Raises:
        CannotStart: a live daemon does, the path is too long, or something that is not a socket
            is in its place.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise CannotStart(
            f"the socket's path {path} is longer than {_LONGEST_PATH} bytes; "
            "choose a shorter --data"
        )
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotStart(f"{path} is there and is not a socket; move it away")
        _refuse_live(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CannotStart(f"cannot use {path}: {error.strerror}") from error


def _refuse_live(path: Path) -> None:
    if not _is_stale(path):
        raise CannotStart(
            f"another daemon listens on {path}; stop it first, or give this one another --data"
        )


def _is_stale(path: Path) -> bool:
    """Whether nobody listens; a daemon too busy to accept is no reason to think so."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def discard_stale(path: Path) -> None:
    """Remove a socket that a killed daemon left: clients take the path alone for a running one.

    Only for who knows that no other daemon is about to start here.
    """
    try:
        found = path.lstat()
        stale = stat.S_ISSOCK(found.st_mode) and _is_stale(path)
        # Another may have taken its place meanwhile.
        if stale and path.lstat().st_ino == found.st_ino:
            path.unlink()
            logger.warning("removed %s, on which nobody listened", path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("cannot look whether %s is stale: %s", path, error.strerror)


class Impostor(NotDone):
    """Somebody else listens where the daemon should."""


def require_holder(connection: socket.socket, path: Path, holder: int | None) -> None:
    """Check that it is the daemon who listens: a client may have put a socket in its place.

    Args:
        connection: the one that the request goes over; another one proves nothing of it.
        path: the socket.
        holder: the process that has the state folder; None for unknown, and then it must be
            root's or ours.

    Raises:
        Impostor: another process listens there.
    """
    listening = peers.of(connection)
    known = listening.administrator if holder is None else listening.pid == holder
    if not known:
        daemon = "the daemon" if holder is None else f"the daemon, pid {holder}"
        raise Impostor(
            f"{listening} listens on {path}, and not {daemon}: somebody has put a socket in its "
            "place; find out who, and restart the daemon"
        )


@contextlib.contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """A non-blocking listening socket at a path, for the length of the context.

    It appears under its name only when it accepts connections, and is gone afterwards: clients
    take the path alone for a running daemon.

    Raises:
        CannotStart: a live daemon listens there, or the socket cannot be made.
    """
    check(path)
    new = path.with_name(f"{path.name}.new")
    with socket.socket(socket.AF_UNIX) as made:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            mask = os.umask(0o777 & ~_MODE)
            try:
                made.bind(str(new))
            finally:
                os.umask(mask)
            made.listen(_BACKLOG)
            made.setblocking(False)
            identity = new.stat().st_ino
            new.rename(path)
        except OSError as error:
            raise CannotStart(f"cannot listen on {path}: {error.strerror}") from error
        try:
            yield made
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == identity:
                    path.unlink()
