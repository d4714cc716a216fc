# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Many clients at once, in one process: each sends its next request when it has its reply.

Driven by bare epoll, because the clients together have one CPU and must not be what is slow.
"""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import clients

_CHUNK = 256 * 1024


@dataclass
class _Client:
    """One of the many, between two replies."""

    requests: Sequence[bytes]
    connection: socket.socket
    sent: int = 0
    parts: list[bytes] = field(default_factory=list[bytes])
    replies: list[bytes] = field(default_factory=list[bytes])


class Crowd:
    """A run of clients against one socket."""

    def __init__(self, path: Path, requests: Sequence[Sequence[bytes]]):
        self._address = str(path)
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._requests = requests
        self.replies: list[list[bytes]] = []

    def run(self) -> float:
        """Send everything; returns the seconds until the last reply."""
        start = time.perf_counter()
        for requests in self._requests:
            self._send(_Client(requests, socket.socket(socket.AF_UNIX)))
        while self._clients:
            for descriptor, _ in self._epoll.poll():
                self._receive(descriptor)
        self._epoll.close()
        return time.perf_counter() - start

    def _send(self, client: _Client) -> None:
        # Neither can block for long: the listener's backlog has room for all of the clients, and
        # a socket's buffer for a request.
        client.connection.connect(self._address)
        client.connection.send(client.requests[client.sent])
        client.sent += 1
        descriptor = client.connection.fileno()
        self._clients[descriptor] = client
        self._epoll.register(descriptor, select.EPOLLIN)

    def _receive(self, descriptor: int) -> None:
        client = self._clients[descriptor]
        data = client.connection.recv(_CHUNK)
        if data:
            client.parts.append(data)
            return
        del self._clients[descriptor]
        # Closing takes the descriptor out of the epoll set, which saves a system call.
        client.connection.close()
        client.replies.append(b"".join(client.parts))
        client.parts.clear()
        if client.sent < len(client.requests):
            client.connection = socket.socket(socket.AF_UNIX)
            self._send(client)
        else:
            self.replies.append(client.replies)


def run(path: Path, requests: Sequence[Sequence[bytes]], changes: bool | None) -> float:
    """Let a crowd send its requests and check its replies; returns the seconds it took."""
    crowd = Crowd(path, requests)
    seconds = crowd.run()
    for replies in crowd.replies if changes is not None else ():
        clients.check(replies, changes)
    return seconds


def spread(path: Path, requests: Sequence[bytes], count: int = 32) -> None:
    """Send different requests once each, with several clients, because commits are shared."""
    crowd = Crowd(path, [requests[i::count] for i in range(count) if requests[i::count]])
    crowd.run()
    for replies in crowd.replies:
        clients.check(replies, None)
