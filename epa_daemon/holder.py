# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Asking the daemon that has a state folder, and nobody in its place."""

import socket
from pathlib import Path

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import listener


class HolderClient(epa_client.EpaClient):
    """A client that sends nothing before it knows who listens, on every connection that it makes.

    Its requests also raise `listener.Impostor`.
    """

    def __init__(self, path: Path, holder: int | None):
        super().__init__(str(path))
        self._listening = path
        self._holder = holder

    def _connect(self) -> socket.socket:
        connection = super()._connect()
        try:
            listener.require_holder(connection, self._listening, self._holder)
        except BaseException:
            connection.close()
            raise
        return connection
