# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One client: raw blocking sockets, so that what is timed is the server and the kernel."""

import itertools
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 256 * 1024

Send = Callable[[bytes], tuple[float, bytes]]
"""Sends a request; returns the seconds until its reply was complete, and the reply."""


@dataclass(frozen=True)
class Probe:
    """What is sent again and again.

    Attributes:
        cycle: requests sent in turn. Growing and shrinking do not cost the same, so a sample is
            the mean of one whole cycle.
        changes: whether each request must (True) or must not (False) change something; None
            where the server is not the daemon.
    """

    cycle: tuple[bytes, ...]
    changes: bool | None = False


class Mismatch(Exception):
    """The server did not do what is being timed, so its times say nothing."""


def one_connection_each(path: Path) -> Send:
    """A client that makes a connection for each request and reads until it is closed."""
    address = str(path)

    def send(request: bytes) -> tuple[float, bytes]:
        with socket.socket(socket.AF_UNIX) as connection:
            start = time.perf_counter()
            connection.connect(address)
            connection.sendall(request)
            reply = connection.recv(_CHUNK)
            while more := connection.recv(_CHUNK):
                reply += more
            return time.perf_counter() - start, reply

    return send


def kept_connection(connection: socket.socket, path: Path) -> Send:
    """A client that sends line after line on one connection."""
    connection.connect(str(path))

    def send(request: bytes) -> tuple[float, bytes]:
        start = time.perf_counter()
        connection.sendall(request)
        reply = connection.recv(_CHUNK)
        while reply and not reply.endswith(b"\n"):
            reply += connection.recv(_CHUNK)
        return time.perf_counter() - start, reply

    return send


def ask(path: Path, request: bytes) -> bytes:
    """The reply to one request, which must be a success."""
    _, reply = one_connection_each(path)(request)
    check([reply], None)
    return reply


def median_round(send: Send, probe: Probe, samples: int) -> float:
    """The median over some cycles of the seconds per request.

    A first cycle is not counted: it brings the state into the cycle, and the caches up.
    """
    timed = [send(request) for _ in range(samples + 1) for request in probe.cycle]
    if probe.changes is not None:
        check([reply for _, reply in timed[1:]], probe.changes)
    size = len(probe.cycle)
    seconds = [second for second, _ in timed[size:]]
    return statistics.median(
        sum(seconds[i : i + size]) / size for i in range(0, len(seconds), size)
    )


def check(replies: Sequence[bytes], changes: bool | None) -> None:
    """Check that all replies are successes and, if asked, that each differs from the one before.

    Raises:
        Mismatch: they are not, or do not.
    """
    for reply in replies:
        if not reply.startswith(b"{") or b'"error":' in reply[:40]:
            raise Mismatch(f"the daemon answered {reply[:300]!r}")
    for before, after in itertools.pairwise(replies):
        if changes is not None and (before != after) is not changes:
            raise Mismatch(f"expected {'a change' if changes else 'no change'}: {after[:300]!r}")
