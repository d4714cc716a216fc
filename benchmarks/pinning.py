# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Server and client on CPUs of their own, so that neither measures the other's work."""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cpus:
    """Where things run; the same CPU twice where there is only one."""

    server: int
    client: int

    @property
    def apart(self) -> bool:
        return self.server != self.client

    def __str__(self) -> str:
        if self.apart:
            return f"servers pinned to CPU {self.server}, clients to CPU {self.client}"
        return f"only CPU {self.server} is available: servers and clients share it"


@contextlib.contextmanager
def pinned() -> Generator[Cpus]:
    """Pin this process as the client for the length of the context."""
    available = sorted(os.sched_getaffinity(0))
    cpus = Cpus(available[0], available[-1])
    os.sched_setaffinity(0, {cpus.client})
    try:
        yield cpus
    finally:
        os.sched_setaffinity(0, available)


@contextlib.contextmanager
def as_server(cpus: Cpus) -> Generator[None]:
    """A process started in this context inherits the server's CPU, with all of its threads."""
    os.sched_setaffinity(0, {cpus.server})
    try:
        yield
    finally:
        os.sched_setaffinity(0, {cpus.client})
