# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Hostile clients: a good one is served beside them, and the daemon's memory stays bounded.

How much longer it waits is counted for `make trust`. Only its median is asserted, and generously:
other processes on the machine would fail anything closer.
"""

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from epa_daemon import history, opening
from epa_daemon.event_log import KEPT_EVENTS
from epa_daemon.history import Cause, Event
from epa_daemon.ledger import Ledger
from epa_daemon.protocol import ACTIONS
from tests import host_trees
from tests.faults import tally
from tests.faults.attacks import ATTACKS
from tests.functional.daemons import Daemon, MakeDaemon, read_to_end
from tests.functional.test_peers import NOBODY, needs_root

# Each needs a core at least, and would be hostile to the others: one after the other.
pytestmark = pytest.mark.xdist_group("hostile")

PROJECT = Path(__file__).parents[2]
PAGES = {(0, 2048): (100_000, 100_000), (1, 2048): (100_000, 100_000)}
TREE = host_trees.regular(nodes=2, cores=8, isolated="2-31", pages=PAGES)
SECONDS = 6.0
# Those that come to an end are seen through.
FINITE = ("early-closes", "endless-request", "many-names", "history-closes")
MEMORY_KB = 150_000
# Beside these it waits its turn for a place; what it waits is bounded, but not by its peace.
QUEUED = ("descriptors",)
MEDIAN_RATIO = 30


@contextlib.contextmanager
def under(attack: str, daemon: Daemon) -> Generator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.faults.attacks", attack, str(daemon.socket_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def ask(daemon: Daemon, request: dict[str, Any]) -> dict[str, Any]:
    """As clients do it that wait for a place in the kernel's queue of connections.

    With a timeout, connect() does not wait where that queue is full (unix(7), EAGAIN).
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket_path))
        connection.settimeout(60)
        connection.sendall(json.dumps(request).encode())
        return json.loads(read_to_end(connection))


def waits(daemon: Daemon, seconds: float) -> list[float]:
    """Seconds per request of a good client, which changes and lists in turn."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        count = 1 + len(found) // 2 % 3
        grant = {"action": "allocate_cores", "service_name": "good", "num_of_cores": count}
        started = time.perf_counter()
        reply = ask(daemon, {"action": "list_allocations"} if len(found) % 2 else grant)
        found.append(time.perf_counter() - started)
        assert "error" not in reply
        time.sleep(0.002)
    return found


def make_history(daemon: Daemon) -> None:
    """As much as is kept."""
    at, cause, ledger = history.timestamp(), Cause("allocate_cores", "old"), Ledger()
    changes = [
        Event(at, cause, f"old{number % 10}", "cpus isolated", "2-3", f"2-{3 + number % 9}")
        for number in range(KEPT_EVENTS)
    ]
    opened = opening.open_folder(daemon.state)
    opened.commit(ledger, ledger, changes)
    opened.close()


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_good_client_is_served_beside_hostile_ones(make_daemon: MakeDaemon, attack: str):
    daemon = make_daemon(TREE)
    if attack.startswith("history"):
        make_history(daemon)
    daemon.start()
    waits(daemon, 0.2)
    peace = waits(daemon, SECONDS / 2)
    most = 0
    with under(attack, daemon) as attacker:
        begun, during = time.monotonic(), list[float]()
        while time.monotonic() - begun < SECONDS or (
            attack in FINITE and attacker.poll() is None and time.monotonic() - begun < 60
        ):
            during += waits(daemon, 0.5)
            most = max(most, daemon.memory_kb())
        if attack in FINITE:
            assert attacker.wait(60) == 0
        else:
            assert attacker.poll() is None
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert most < MEMORY_KB
    assert "ERROR" not in daemon.log.read_text()
    slower = statistics.median(during) / statistics.median(peace)
    assert slower < MEDIAN_RATIO or attack in QUEUED
    tally.add(
        f"test_a_good_client_is_served_beside_hostile_ones[{attack}]",
        served=len(during),
        median_ratio=round(slower, 1),
        p99_ratio=round(p99(during) / p99(peace), 1),
        memory_mb=most // 1000,
    )


FLOOD = """
import socket, sys
for number in range(2000):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    connection.sendall(sys.argv[2 + number % (len(sys.argv) - 2)].encode())
    while connection.recv(65536):
        pass
    connection.close()
"""


@needs_root
def test_the_log_stays_bounded_under_hostile_clients(make_daemon: MakeDaemon):
    """Nobody who has no right to change anything can make it grow."""
    daemon = make_daemon(TREE).start()
    daemon.socket_path.chmod(0o666)
    before = daemon.log.stat().st_size
    about = {"service_name": "a", "num_of_cores": 1, "numa_node": 0, "percent": 1}
    about |= {"hugepages_requested": 1, "node_id": 0, "size_kb": 2048}
    requests = ["x", *(json.dumps({"action": name} | about) for name in (*ACTIONS, "no"))]
    command = ["/usr/bin/env", "python3", "-c", FLOOD, str(daemon.socket_path), *requests]
    subprocess.run(command, user=NOBODY, check=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert daemon.log.stat().st_size == before
    tally.add("test_the_log_stays_bounded_under_hostile_clients", requests=2000, bytes_logged=0)
