# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""qemu's own control socket: stop, save and restore a machine."""

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.integration.lab.errors import MachineLost

# The memory files already hold the memory: the state file needs only the devices.
_CAPABILITIES = [{"capability": "x-ignore-shared", "state": True}]


class Qmp:
    """One conversation."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        self._socket = connect(path, timeout)
        self._file = self._socket.makefile("rwb")
        self._next()
        self("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._socket.close()

    def __call__(self, command: str, **arguments: object) -> Any:
        """Do a command and return its answer.

        Raises:
            MachineLost: qemu refused it, said nothing in time, or ended.
        """
        try:
            request = {"execute": command, "arguments": arguments}
            self._file.write(json.dumps(request).encode() + b"\n")
            self._file.flush()
            while True:
                message = self._next()
                if "error" in message:
                    raise MachineLost(f"qemu refused {command}: {message['error']['desc']}")
                if "return" in message:
                    return message["return"]
        except OSError as error:
            raise MachineLost(f"qemu did not answer {command}: {error}") from error

    def _next(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise MachineLost("qemu closed its control socket")
        return json.loads(line)

    def save(self, state: Path) -> None:
        """Stop the machine and write all but its memory to a file."""
        self("stop")
        self("migrate-set-capabilities", capabilities=_CAPABILITIES)
        self("migrate", uri=f"file:{state}")
        self._wait_until_migrated()

    def load(self, state: Path) -> None:
        """Go on from a saved state; the machine was started with `-incoming defer`."""
        self("migrate-set-capabilities", capabilities=_CAPABILITIES)
        self("migrate-incoming", uri=f"file:{state}")
        self._wait_until_migrated()
        self("cont")

    def _wait_until_migrated(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while (status := self("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise MachineLost(f"the machine's state could not be moved: {status}")
            time.sleep(0.01)


def connect(path: Path, timeout: float) -> socket.socket:
    """Connect to a socket which qemu makes in a moment.

    Raises:
        MachineLost: it did not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        try:
            client.connect(str(path))
        except OSError as error:
            client.close()
            if time.monotonic() > deadline:
                raise MachineLost(f"qemu did not open {path.name}: {error}") from error
            time.sleep(0.01)
        else:
            return client
