# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The daemon's log: one bounded line for each thing that happened."""

import logging
import sys

_LONGEST = 2000


class OneLine(logging.Formatter):
    """Keeps a message on one line, whatever names from outside it holds; tracebacks follow it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, with control characters escaped."""
        line = super().formatMessage(record)
        if not line.isprintable():
            line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def configure(level: str) -> None:
    """Log to standard error, which the service manager keeps with the time of each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
