# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Thirty-two clients at once: shared commits, and requests per second."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import effort, hosts, load, processes, wal
from benchmarks.effort import Effort
from benchmarks.pinning import Cpus
from benchmarks.processes import Daemon, Server
from benchmarks.report import Row, Section

CLIENTS = 32
_COMMITS_TARGET = 0.25
_LISTS_TARGET = 0.5
_MEMORY_TARGET = 45
# Even, so that each client's last request leaves the size that its next turn starts from; and
# few, so that most turns do not see the log start from its beginning again (see `wal`).
_CHANGES_EACH = 8


@dataclass
class _Shared:
    """Commits and allocations, over the turns within one generation of the log."""

    commits: int = 0
    allocations: int = 0

    @property
    def ratio(self) -> float:
        """Not a number, which meets no target, if there was no such turn."""
        return self.commits / self.allocations if self.allocations else math.nan


@dataclass
class _Busy:
    """How much of their CPUs the server and the clients used: the busier one is what is slow."""

    server: Server
    used: float = 0.0
    used_by_clients: float = 0.0
    elapsed: float = 0.0

    def rate(self, requests: Sequence[Sequence[bytes]], changes: bool | None) -> float:
        """Let the crowd run; returns the requests per second."""
        before, clients_before = self.server.cpu_seconds(), time.process_time()
        seconds = load.run(self.server.socket, requests, changes)
        self.used += self.server.cpu_seconds() - before
        self.used_by_clients += time.process_time() - clients_before
        self.elapsed += seconds
        return sum(map(len, requests)) / seconds

    def row(self, name: str) -> Row:
        used, by_clients = (100 * n / self.elapsed for n in (self.used, self.used_by_clients))
        return Row(f"  CPU used by the {name}", used, "%", by_clients, "the clients")


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Put the daemon and the floor under load."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        echo = _Busy(enter(processes.echo("asyncio", folder, cpus)))
        small = _Busy(enter(processes.loaded_daemon(hosts.small(), folder / "small", cpus)))
        scene = hosts.crowded(CLIENTS)
        crowded = enter(processes.loaded_daemon(scene, folder / "crowded", cpus))
        rows = _lists(echo, small, chosen)
        rows += _changes(crowded, [*scene.others, hosts.BENCH], chosen)
        rows.append(Row("resident memory", crowded.rss_mb(), "MB", target=_MEMORY_TARGET))
    section = Section(
        f"{CLIENTS} clients at once",
        rows,
        (
            f"list_allocations: {hosts.small().name}; allocate_cores: {scene.name}, each client",
            "growing and shrinking its own. Commits are counted in SQLite's log. Of the server",
            "and the clients, each on a CPU of its own, the busier one is what limits the rate.",
        ),
    )
    return [section]


def _lists(echo: _Busy, small: _Busy, chosen: Effort) -> list[Row]:
    requests = [[hosts.listing()] * chosen.crowd_requests] * CLIENTS
    measures: dict[str, Callable[[], float]] = {
        "echo": lambda: echo.rate(requests, None),
        "list": lambda: small.rate(requests, changes=False),
    }
    effort.taking_turns(measures, 1)  # Warms up both; counted from zero afterwards.
    echo, small = _Busy(echo.server), _Busy(small.server)
    found = effort.taking_turns(measures, chosen.crowd_rounds)
    rate, floor = found["list"], found["echo"]
    return [
        Row("list_allocations", rate, "/s", floor, "asyncio", _LISTS_TARGET, at_least=True),
        small.row("daemon"),
        echo.row("echo"),
    ]


def _changes(daemon: Daemon, names: Sequence[str], chosen: Effort) -> list[Row]:
    shared, busy = _Shared(), _Busy(daemon)
    cycles = [
        [hosts.cores(2, name), hosts.cores(1, name)] * (_CHANGES_EACH // 2) for name in names
    ]

    def turn() -> float:
        before = wal.read(daemon.log)
        rate = busy.rate(cycles, changes=True)
        after = wal.read(daemon.log)
        if before.generation == after.generation:
            shared.commits += after.commits - before.commits
            shared.allocations += sum(map(len, cycles))
        return rate

    found = effort.taking_turns({"rate": turn}, 4 * chosen.crowd_rounds)
    return [
        Row("allocate_cores, all changing", found["rate"], "/s"),
        busy.row("daemon"),
        Row("  commits per allocation", shared.ratio, "", target=_COMMITS_TARGET),
    ]
