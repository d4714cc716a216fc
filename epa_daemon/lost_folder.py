# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A daemon that runs although its state folder, and so the lock in it, is gone."""

import socket
from pathlib import Path

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import peers, state_folder
from epa_daemon.state_folder import DaemonRunning

_PATIENCE = 5.0


class FolderLost(DaemonRunning):
    """The daemon that runs has all that the folder had; a store that is made there has not."""


def refuse(state: Path, path: Path) -> None:
    """Check that no daemon runs on a state folder whose lock nobody has.

    For all who read, make or change a store there, before they do. The daemon's word is taken
    where it is root's or this user's: others may put a socket there.

    Args:
        state: the folder.
        path: the socket.

    Raises:
        FolderLost: one does.
    """
    try:
        if state_folder.in_use(state):
            return
    except OSError:
        return  # Whoever wants to use it says why that cannot be.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(path))
        except OSError:
            return
        peer = peers.of(probe)
    if not peer.administrator:
        return
    try:
        there = epa_client.EpaClient(str(path), _PATIENCE).get_health().get("state")
    except epa_client.EpaError:
        return
    if there and Path(there).absolute() == state.absolute():
        raise FolderLost(
            f"a daemon (pid {peer.pid}) runs whose state folder {state} was removed or replaced; "
            "save what it knows (epa-orchestrator backup FILE), and stop it first",
            peer.pid,
        )
