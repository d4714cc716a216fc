# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One client and a small host: how far the daemon is above what nothing can go below."""

import contextlib
import socket
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clients, effort, hosts, processes, wal
from benchmarks.clients import Probe, Send
from benchmarks.effort import MICROSECONDS, Effort
from benchmarks.pinning import Cpus
from benchmarks.processes import Committer, Daemon
from benchmarks.report import Row, Section

_LIST_TARGET = 1.5
_DURABLE_TARGET = 1.4
_IN_TURN = "commit after an echo"
_NOTES = (
    "From connect() to the end of the reply. Echoes send the request back and close. A commit",
    "writes one row (WAL, synchronous=FULL), either at once after the one before it or, as in a",
    "server, after an echo. Durable: 1 and 3 CPUs in turn.",
)
_LISTING = Probe((hosts.listing(),))
_GROWING_AND_SHRINKING = Probe((hosts.cores(1), hosts.cores(3)), changes=True)
# A generation of the log ends at 1,000 pages (SQLite's default); an allocation writes about
# four of them, so this many of either stay within the first generation.
_YOUNG_SAMPLES = 12
_YOUNG_ROUNDS = 7
_COMMITS_OF_A_GENERATION = 1100
_SETTLING_ROUNDS = 100


@dataclass(frozen=True)
class Bench:
    """Everything that takes turns in the groups below."""

    daemon: Daemon
    asyncio: Send
    blocking: Send
    commits: Committer
    effort: Effort

    def floors(self) -> dict[str, Callable[[], float]]:
        """The floors; the echoes get the request that the daemon gets."""
        samples = self.effort.samples
        echoed = Probe(_LISTING.cycle, None)
        return {
            "asyncio": lambda: clients.median_round(self.asyncio, echoed, samples),
            "blocking": lambda: clients.median_round(self.blocking, echoed, samples),
            "commit": lambda: statistics.median(self.commits.seconds(samples)),
        }

    def commit_after_echo(self) -> float:
        """The commit floor as a server would pay it: with a request before each.

        Nothing is different but that the CPU's caches and the disk have seen other work since.
        """
        seconds: list[float] = []
        for _ in range(self.effort.samples):
            self.asyncio(_LISTING.cycle[0])
            seconds += self.commits.seconds(1)
        return statistics.median(seconds)


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Take the floors and the daemon's times beside them."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        once = clients.one_connection_each
        bench = Bench(
            enter(processes.loaded_daemon(hosts.small(), folder / "small", cpus)),
            once(enter(processes.echo("asyncio", folder, cpus)).socket),
            once(enter(processes.echo("blocking", folder, cpus)).socket),
            enter(processes.committer(folder, cpus)),
            chosen,
        )
        kept_echo = enter(processes.echo("asyncio-kept", folder, cpus))
        young = _young(bench)
        settle(bench.daemon)
        bench.commits.seconds(_COMMITS_OF_A_GENERATION)
        settled = _settled(bench, young)
        return [settled, _kept(bench, kept_echo.socket)]


def settle(daemon: Daemon) -> None:
    """Change things until the log is written over instead of growing.

    A commit that makes a file longer costs the file system two to three times as much.
    """
    send = clients.one_connection_each(daemon.socket)
    for _ in range(_SETTLING_ROUNDS):
        if wal.read(daemon.log).generation[0] > 0:
            return
        clients.median_round(send, _GROWING_AND_SHRINKING, 10)
    raise clients.Mismatch(f"{daemon.log} was not written over; has the daemon's log changed?")


def _young(bench: Bench) -> Row:
    send = clients.one_connection_each(bench.daemon.socket)
    samples = _YOUNG_SAMPLES
    found = effort.taking_turns(
        {
            **bench.floors(),
            "commit": lambda: statistics.median(bench.commits.seconds(samples)),
            "durable": lambda: clients.median_round(send, _GROWING_AND_SHRINKING, samples),
        },
        min(bench.effort.rounds, _YOUNG_ROUNDS),
    )
    name = "  the same while the log file still grows"
    return _against(name, found, "durable", ("asyncio", "commit"))


def _settled(bench: Bench, young: Row) -> Section:
    send = clients.one_connection_each(bench.daemon.socket)
    samples = bench.effort.samples
    floors = {**bench.floors(), _IN_TURN: bench.commit_after_echo}
    found = effort.taking_turns(
        {
            **floors,
            "list": lambda: clients.median_round(send, _LISTING, samples),
            "durable": lambda: clients.median_round(send, _GROWING_AND_SHRINKING, samples // 2),
        },
        bench.effort.rounds,
    )
    listing, durable = "list_allocations", "allocate_cores, durable"
    rows = [
        *(Row(f"floor: {name}", found[name] * MICROSECONDS, "us") for name in floors),
        _against(listing, found, "list", ("asyncio",), _LIST_TARGET),
        _against(listing, found, "list", ("blocking",)),
        _against(durable, found, "durable", ("asyncio", "commit"), _DURABLE_TARGET),
        _against(durable, found, "durable", ("asyncio", _IN_TURN)),
        _against(durable, found, "durable", ("blocking", "commit")),
        young,
    ]
    return Section("One connection per request (16 CPUs, 10 services)", rows, _NOTES)


def _kept(bench: Bench, echo: Path) -> Section:
    samples = bench.effort.samples
    listing = Probe(tuple(map(hosts.kept, _LISTING.cycle)))
    durable = Probe(tuple(map(hosts.kept, _GROWING_AND_SHRINKING.cycle)), changes=True)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        send_echo = clients.kept_connection(one, echo)
        send = clients.kept_connection(other, bench.daemon.socket)
        echoed = Probe(listing.cycle, None)
        found = effort.taking_turns(
            {
                "kept asyncio": lambda: clients.median_round(send_echo, echoed, samples),
                "commit": bench.floors()["commit"],
                "list": lambda: clients.median_round(send, listing, samples),
                "durable": lambda: clients.median_round(send, durable, samples // 2),
            },
            bench.effort.rounds,
        )
    name = "kept asyncio"
    rows = [
        Row(f"floor: {name}", found[name] * MICROSECONDS, "us"),
        _against("list_allocations", found, "list", (name,)),
        _against("allocate_cores, durable", found, "durable", (name, "commit")),
    ]
    return Section("One kept connection (16 CPUs, 10 services)", rows)


def _against(
    name: str,
    found: dict[str, float],
    measured: str,
    floors: tuple[str, ...],
    target: float | None = None,
) -> Row:
    base = sum(found[floor] for floor in floors) * MICROSECONDS
    value = found[measured] * MICROSECONDS
    return Row(name, value, "us", base, " + ".join(floors), target)
