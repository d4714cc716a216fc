# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How long to wait: each step for itself, and where somebody waits for all of them, together."""

import contextlib
import contextvars
import time
from collections.abc import Generator

# A step that comes after the end gets this much all the same: most need less.
_LEAST_SECONDS = 10.0

_end: contextvars.ContextVar[float | None] = contextvars.ContextVar("end", default=None)


@contextlib.contextmanager
def within(seconds: float) -> Generator[None]:
    """Let the steps in the context share so many seconds."""
    token = _end.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _end.reset(token)


def left(most: float) -> float:
    """How many seconds the next step may take: so many, or what is left of those in `within`."""
    end = _end.get()
    return most if end is None else min(most, max(_LEAST_SECONDS, end - time.monotonic()))
