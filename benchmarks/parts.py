# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What each promise costs: the steps of a durable allocation, timed one by one in this process.

They are the daemon's own functions on the small host, with a real store, a real pair of sockets
and the real commit thread. They do not add up exactly to what a client measures: each is timed
with warm caches.
"""

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import clients, effort, hosts, processes
from benchmarks.clients import Probe
from benchmarks.effort import MICROSECONDS, Effort
from benchmarks.pinning import Cpus
from benchmarks.report import Row, Section
from epa_daemon import access, allocator, history, opening, peers, protocol
from epa_daemon.committer import Committer
from epa_daemon.framing import Framer
from epa_daemon.history import Cause, Event
from epa_daemon.host import HostReader
from epa_daemon.ledger import Ledger
from epa_daemon.observer import Observer
from epa_daemon.pools import Rules
from epa_daemon.protocol import AllocateCores
from epa_daemon.rights import Access
from epa_daemon.store import Store

_FLOOR = "asyncio + commit"
_SETTLING_COMMITS = 400
_NOTES = (
    "The ratio is the share of the floor that a step would be. With events and without: the",
    "same change, committed with its history or not.",
)
Step = Callable[[], object]


@dataclass(frozen=True)
class Change:
    """Two ledgers that one request leads from and to, and what the history says of it."""

    before: Ledger
    after: Ledger
    events: list[Event]


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Time the steps, in turns with the floors."""
    scene = hosts.small()
    scene.tree.write(folder / "root")
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(processes.echo("asyncio", folder, cpus)).socket
        commits = stack.enter_context(processes.committer(folder, cpus))
        ours, theirs = socket.socketpair()
        kept = stack.enter_context(contextlib.closing(opening.open_folder(folder / "state")))
        stack.enter_context(ours)
        stack.enter_context(theirs)
        steps = _steps(folder / "root", ours, kept)
        send = clients.one_connection_each(echo)
        floors: dict[str, Callable[[], float]] = {
            "asyncio": lambda: clients.median_round(
                send, Probe((hosts.listing(),), None), chosen.samples
            ),
            "commit": lambda: statistics.median(commits.seconds(chosen.samples)),
        }
        timed = {name: _timed(step, chosen.samples) for name, step in steps.items()}
        handover = {"hand over": lambda: _handed_over(chosen.samples)}
        found = effort.taking_turns({**floors, **timed, **handover}, chosen.rounds)
    return [Section("What each step costs (in this process, one by one)", _rows(found), _NOTES)]


def _steps(root: Path, peer_of: socket.socket, kept: Store) -> dict[str, Step]:
    request = hosts.cores(3)
    observer = Observer(HostReader(root), Rules())
    host, rules = observer.look()
    peer, rights = peers.of(peer_of), Access()
    asked = protocol.parse_request(request)
    assert isinstance(asked, AllocateCores)
    small = Ledger()
    for name in (*hosts.small().others, hosts.BENCH):
        small = allocator.decide(_cores(name), host, small, rules)[1]
    reply, large = allocator.decide(asked, host, small, rules)
    cause = Cause("allocate_cores", hosts.BENCH, peer, "")
    there = Change(small, large, history.events(cause, small, large))
    back = Change(large, small, history.events(cause, large, small))
    kept.commit(Ledger(), small, [])
    for _ in range(_SETTLING_COMMITS):
        _there_and_back(kept, there, back, with_events=True)

    def framed() -> None:
        framer = Framer()
        framer.feed(request)
        framer.next_request()
        protocol.parse_request(request)

    return {
        "read the request": framed,
        "who asks": lambda: peers.of(peer_of),
        "may it": lambda: access.check(asked, peer, rights),
        "its snap": peer.snap,
        "look": observer.look,
        "decide": lambda: allocator.decide(asked, host, small, rules),
        "its events": lambda: history.events(cause, small, large),
        "with events": lambda: _there_and_back(kept, there, back, with_events=True),
        "without events": lambda: _there_and_back(kept, there, back, with_events=False),
        "write the reply": reply.encode,
    }


def _cores(service: str) -> AllocateCores:
    return AllocateCores(service_name=service, num_of_cores=1)


def _there_and_back(kept: Store, there: Change, back: Change, with_events: bool) -> None:
    for change in (there, back):
        kept.commit(change.before, change.after, change.events if with_events else [])


def _timed(step: Step, samples: int) -> Callable[[], float]:
    def median() -> float:
        seconds: list[float] = []
        for _ in range(samples):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return median


def _handed_over(samples: int) -> float:
    """Seconds for an empty job to the commit thread and back into the loop."""

    async def run() -> float:
        committer, loop = Committer(), asyncio.get_running_loop()
        seconds: list[float] = []
        for _ in range(samples):
            done = loop.create_future()
            start = time.perf_counter()
            committer.submit(lambda: None, done.set_result)
            await done
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    return asyncio.run(run())


def _rows(found: dict[str, float]) -> list[Row]:
    micros = {name: seconds * MICROSECONDS for name, seconds in found.items()}
    floor = micros["asyncio"] + micros["commit"]
    commit, bare = micros["with events"] / 2, micros["without events"] / 2
    shown = {
        "read and check the request": micros["read the request"],
        "peers: who asks (SO_PEERCRED)": micros["who asks"],
        "peers: may it": micros["may it"],
        "peers: its snap, for the history": micros["its snap"],
        "look at the host": micros["look"],
        "decide": micros["decide"],
        "history: make its events": micros["its events"],
        "history: commit them along": commit - bare,
        "durable: commit without them": bare,
        "never blocked: to the commit thread and back": micros["hand over"],
        "write the reply": micros["write the reply"],
    }
    return [
        Row("floor: asyncio", micros["asyncio"], "us"),
        Row("floor: commit", micros["commit"], "us"),
        *(Row(name, value, "us", floor, _FLOOR) for name, value in shown.items()),
    ]
