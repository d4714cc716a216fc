# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What nothing can go below: servers that only echo, and a process that only commits.

Each runs as a process of its own (`python -m benchmarks.floors KIND PATH`), as the daemon does,
and is given the daemon's CPU.
"""

import asyncio
import json
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CHUNK = 64 * 1024


class _Echo(asyncio.Protocol):
    """The least that an asyncio server can do for a request."""

    closes = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        if self.closes:
            self._transport.close()


class _KeptEcho(_Echo):
    """The same on a connection that stays."""

    closes = False


def _serve_asyncio(path: Path, protocol: Callable[[], asyncio.Protocol]) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_unix_server(protocol, str(path))
        await server.serve_forever()

    asyncio.run(serve())


def _serve_blocking(path: Path) -> None:
    """The least that Python can do for a request: one client at a time, nothing to wait on."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        while True:
            connection, _ = listener.accept()
            connection.send(connection.recv(_CHUNK))
            connection.close()


def _serve_commits(path: Path) -> None:
    """For each line with a number, that many commits; answers with the seconds of each."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rows (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        done = 0
        for line in sys.stdin:
            seconds: list[float] = []
            for _ in range(int(line)):
                done += 1
                seconds.append(_commit(connection, done))
            print(json.dumps(seconds), flush=True)


def _commit(connection: sqlite3.Connection, number: int) -> float:
    start = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO rows VALUES ('service', ?)", (str(number),))
    connection.execute("COMMIT")
    return time.perf_counter() - start


def main(kind: str, path: Path) -> None:
    """Serve one floor until terminated."""
    match kind:
        case "asyncio":
            _serve_asyncio(path, _Echo)
        case "asyncio-kept":
            _serve_asyncio(path, _KeptEcho)
        case "blocking":
            _serve_blocking(path)
        case "commit":
            _serve_commits(path)
        case _:
            sys.exit(f"no such floor: {kind}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
