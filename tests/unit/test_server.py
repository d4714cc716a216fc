# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How often a process may replace its places, by the server's own clock."""

import asyncio
import contextlib
import select
import socket
from pathlib import Path
from typing import cast

import pytest

from epa_daemon import server
from epa_daemon.connection import Connection
from epa_daemon.peers import Peer
from epa_daemon.protocol import Request
from epa_daemon.replies import Respond
from epa_daemon.server import MAX_OF_A_PROCESS, Process, Server


def test_a_process_may_replace_all_of_its_places_and_then_has_to_rest():
    process = Process()
    # As many connections as there are places; only their number counts.
    process.connections = cast("set[Connection]", set(range(MAX_OF_A_PROCESS)))
    for _ in range(MAX_OF_A_PROCESS):
        assert not process.crowded(10.0)
        process.replaced += 1
    assert process.crowded(10.1)
    assert not process.crowded(10.3)


def test_a_process_with_a_place_left_may_take_it():
    process = Process(replaced=MAX_OF_A_PROCESS, until=20.0)
    assert not process.crowded(10.0)


def _say_nothing(request: Request, peer: Peer, respond: Respond) -> None: ...


def closed(connections: list[socket.socket]) -> list[int]:
    readable = select.select(connections, [], [], 0)[0]
    return [number for number, one in enumerate(connections) if one in readable]


def test_whoever_comes_again_too_fast_takes_no_place_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # So that it has no time to rest, however slow this host is.
    monkeypatch.setattr(server, "_PATIENCE_SECONDS", 600.0)

    async def play() -> list[int]:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
            listener.bind(str(tmp_path / "socket"))
            listener.listen(1024)
            listener.setblocking(False)
            Server(listener, _say_nothing).start()
            own: list[socket.socket] = []
            for _ in range(3 * MAX_OF_A_PROCESS):
                own.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
                own[-1].connect(str(tmp_path / "socket"))
            async with asyncio.timeout(20):
                while len(closed(own)) < 2 * MAX_OF_A_PROCESS:
                    await asyncio.sleep(0.01)
            return closed(own)

    first, second = range(MAX_OF_A_PROCESS), range(2 * MAX_OF_A_PROCESS, 3 * MAX_OF_A_PROCESS)
    assert asyncio.run(play()) == [*first, *second], "the places are those of the ones between"
