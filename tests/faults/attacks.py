# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Hostile clients: `python -m tests.faults.attacks NAME SOCKET [COUNT]`, in a process of its own.

Each prints `begun` when it is under way, and goes on until it is killed or has done all.
"""

import contextlib
import itertools
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Callable

GIB = 1 << 30


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _begun() -> None:
    print("begun", flush=True)


def early_closes(path: str, count: int) -> None:
    """Connect, send something or nothing, and go."""
    pieces = (b'{"action":"list_allocations"}', b'{"action":', b"", b"{", b"x")
    _begun()
    for number in range(count):
        with _connect(path) as connection, contextlib.suppress(OSError):
            connection.send(pieces[number % len(pieces)])


def slow_writers(path: str, count: int) -> None:
    """Send a request byte by byte, on many connections at once, again and again."""
    request = b'{"action":"list_allocations","service_name":"' + b"x" * 1000
    connections = [_connect(path) for _ in range(count)]
    _begun()
    for at in range(10_000):
        for number, connection in enumerate(connections):
            try:
                connection.send(request[at % len(request) :][:1] if at else b"{")
            except OSError:
                connection.close()
                connections[number] = _connect(path)
        time.sleep(0.2)


def slow_readers(path: str, count: int) -> None:
    """Ask for more than buffers hold, and read none of it."""
    connections: list[socket.socket] = []
    for _ in range(count):
        connection = _connect(path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        connection.send(b'{"action":"get_topology","keep_alive":true}')
        connections.append(connection)
    for passed in range(10_000):
        if passed == 5:  # By now nothing more fits into the buffers.
            _begun()
        for number, connection in enumerate(connections):
            try:
                connection.send(b'{"action":"get_topology"}\n' * 20)
            except BlockingIOError:
                pass
            except OSError:
                connection.close()
                connections[number] = _connect(path)
                connections[number].setblocking(False)
        time.sleep(1)


def endless_request(path: str, count: int) -> None:
    """Send GiB in one request, on a new connection whenever the daemon ends it."""
    chunk = b"x" * (1 << 20)
    left = count * GIB
    _begun()
    while left > 0:
        with _connect(path) as connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            connection.sendall(b'{"action":"')
            while left > 0:
                connection.sendall(chunk)
                left -= len(chunk)
        left -= 4 * len(chunk)  # What the buffers took, and the daemon dropped.


def many_names(path: str, count: int) -> None:
    """Record hugepages under ever new names, until there may be no more, and go on."""
    _begun()
    for number in range(count):
        request = {
            "action": "allocate_hugepages",
            "service_name": f"{number} " + "\N{GRINNING FACE}" * 100,
            "hugepages_requested": 1,
            "node_id": number % 2,
            "size_kb": 2048,
        }
        with _connect(path) as connection:
            connection.sendall(json.dumps(request).encode())
            while connection.recv(65536):
                pass


def descriptors(path: str, count: int) -> None:
    """Keep more connections than there are places, and take each again that is lost."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 100)), hard))
    connections = [_connect(path) for _ in range(count)]
    _begun()
    while True:
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                try:
                    lost = connection.recv(1) == b""
                except ConnectionResetError:
                    lost = True
                if lost:
                    connection.close()
                    connections[number] = _connect(path)
        time.sleep(0.5)


HISTORY = (
    {"action": "get_history", "limit": 1000},
    {"action": "get_history", "service_name": "absent"},
    {"action": "get_history", "since": "2999-01-01"},
)


def _ask_for_history(path: str, number: int) -> socket.socket:
    connection = _connect(path)
    with contextlib.suppress(OSError):
        connection.send(json.dumps(HISTORY[number % len(HISTORY)]).encode())
    return connection


def history_readers(path: str, count: int) -> None:
    """Read the history on many connections at once, and again as soon as it is there."""
    poller, reading = select.poll(), dict[int, socket.socket]()
    asked = itertools.count()

    def ask() -> None:
        connection = _ask_for_history(path, next(asked))
        reading[connection.fileno()] = connection
        poller.register(connection, select.POLLIN)

    for _ in range(count):
        ask()
    _begun()
    while True:
        for descriptor, _ in poller.poll():
            # One that a process has beyond its places may be reset.
            with contextlib.suppress(OSError):
                if reading[descriptor].recv(1 << 20):
                    continue
            poller.unregister(descriptor)
            reading.pop(descriptor).close()
            ask()


def history_closes(path: str, count: int) -> None:
    """Ask for history and go, without a look at it."""
    _begun()
    for number in range(count):
        _ask_for_history(path, number).close()


ATTACKS: dict[str, tuple[Callable[[str, int], None], int]] = {
    "early-closes": (early_closes, 10_000),
    "slow-writers": (slow_writers, 500),
    "slow-readers": (slow_readers, 100),
    "endless-request": (endless_request, 1),
    "many-names": (many_names, 4_300),
    "descriptors": (descriptors, 2_000),
    "history-readers": (history_readers, 300),
    "history-closes": (history_closes, 20_000),
}


if __name__ == "__main__":
    attack, default = ATTACKS[sys.argv[1]]
    attack(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else default)
