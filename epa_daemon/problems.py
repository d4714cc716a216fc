# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What is wrong, look by look: each fact is logged once, and shown as long as it holds."""

import logging
import os

from epa_daemon.affinity import Thread
from epa_daemon.threads import Process

logger = logging.getLogger(__name__)

_CONNECT = (
    "; connect the plug: snap connect epa-orchestrator:process-control, then: "
    "snap restart epa-orchestrator.daemon"
)


class Problems:
    """The problems of something that is looked at again and again."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._noted: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        """What is wrong now, a sentence each."""
        return list(self._shown.values())

    def start(self) -> None:
        """A new look: what is not noted in it has passed."""
        self._noted = {}

    def note(self, key: str, text: str) -> None:
        """Something is wrong; the first text of a look is shown, the first one of all logged."""
        if key not in self._shown and key not in self._noted:
            logger.warning("%s", text)
        self._noted.setdefault(key, text)
        self._shown = {**self._shown, key: self._noted[key]}

    def finish(self) -> None:
        """The look is over."""
        self._shown = self._noted

    def refused(self, process: Process, thread: Thread, error: OSError) -> None:
        """The kernel does not let a thread be moved."""
        if isinstance(error, PermissionError):
            text = f"Open vSwitch's threads cannot be moved ({error.strerror})"
            advice = _CONNECT if "SNAP_NAME" in os.environ else "; run the daemon as root"
            self.note("permission", text + advice)
        else:
            text = f"{process}: thread {thread.tid} ({thread.name}) keeps its mask"
            self.note(f"{process} {error.errno}", f"{text}: {error.strerror}")

    def unreadable(self, path: str, error: OSError) -> None:
        """A file below /proc is there and cannot be read."""
        reason = error.strerror or str(error)
        self.note(f"unreadable {reason}", f"cannot read {path}: {reason}")
