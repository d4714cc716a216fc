# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A daemon that runs although its state folder, and so the lock in it, is gone."""

import json
import socket
import time
from pathlib import Path
from typing import Any, cast

from epa_daemon import peers, state_folder
from epa_daemon.state_folder import DaemonRunning

# For the whole exchange, however slowly the reply comes.
_PATIENCE = 5.0
_LONGEST_REPLY = 1024 * 1024


class FolderLost(DaemonRunning):
    """The daemon that runs has all that the folder had; a store that is made there has not."""


def refuse(state: Path, path: Path) -> None:
    """Check that no daemon runs on a state folder whose lock nobody has.

    For all who read, make or change a store there, before they do. The daemon's word is taken
    where it is root's, this user's or that of the folder's owner: others may put a socket there.

    Args:
        state: the folder.
        path: the socket.

    Raises:
        FolderLost: one does, or whoever listens does not say.
    """
    if _locked(state):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(path))
        except OSError:
            return
        peer = peers.of(probe)
        if not (peer.administrator or peer.uid == _owner(state)):
            return
        wrong = _lost(probe, state, path)
    # Asked again: the daemon may have started since.
    if wrong and not _locked(state):
        raise FolderLost(f"a daemon (pid {peer.pid}) {wrong}", peer.pid)


def _lost(probe: socket.socket, state: Path, path: Path) -> str | None:
    """What is wrong with the process that listens; None for nothing."""
    try:
        there = _state_of(probe)
    except (OSError, ValueError) as error:
        return (
            f"listens on {path} and does not answer ({error}); it may have what the state folder "
            f"{state} had: save that if it answers later (epa-orchestrator backup FILE), and "
            "stop it first"
        )
    if there is None or Path(there).absolute() != state.absolute():
        return None
    return (
        f"runs whose state folder {state} was removed or replaced; save what it knows "
        "(epa-orchestrator backup FILE), and stop it first"
    )


def _state_of(probe: socket.socket) -> str | None:
    """The state folder that whoever listens names; None where it names none.

    Raises:
        OSError, ValueError: it gives no proper reply.
    """
    deadline, reply = time.monotonic() + _PATIENCE, b""
    probe.sendall(b'{"action":"get_health"}')
    while data := _received(probe, deadline):
        reply += data
        if len(reply) > _LONGEST_REPLY:
            raise ValueError("its reply does not end")
    said: Any = json.loads(reply)
    if not isinstance(said, dict):
        raise ValueError("its reply is not an object")
    there = cast("dict[str, Any]", said).get("state")
    return there if isinstance(there, str) else None


def _received(probe: socket.socket, deadline: float) -> bytes:
    probe.settimeout(max(deadline - time.monotonic(), 0.001))
    return probe.recv(65536)


def _locked(state: Path) -> bool:
    try:
        return state_folder.in_use(state)
    except OSError:
        return True  # Whoever wants to use it says why that cannot be.


def _owner(state: Path) -> int:
    """Whose the folder is, or what is left of the way to it."""
    there = state.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return there.stat().st_uid
