# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What it costs to keep Open vSwitch off owned CPUs: on this host, with a stand-in for it."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from benchmarks import clients, effort, processes
from benchmarks.effort import MICROSECONDS, Effort
from benchmarks.pinning import Cpus
from benchmarks.processes import Daemon
from benchmarks.report import Row, Section

_THREADS = 64
_RATIO_TARGET = 2.0
_IDLE_TARGET = 0.6
_IDLE_SECONDS = 60.0
_NOTES = (
    f"A stand-in named ovs-vswitchd has {_THREADS} sleeping threads; each grant takes a CPU that",
    "all of them may run on. Two daemons take turns, one of them switched on.",
)


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Time grants with and without threads to move; nothing on a host with one CPU."""
    if not cpus.apart:
        return []
    with contextlib.ExitStack() as stack:
        tids = stack.enter_context(_stand_in())
        daemons: dict[str, Daemon] = {}
        for state in ("off", "on"):
            own = folder / state
            own.mkdir()
            (own / "switch").write_text("" if state == "off" else "1")
            daemons[state] = stack.enter_context(processes.daemon_of_this_host(own, cpus))
        time.sleep(1)
        found = effort.taking_turns(
            {
                state: lambda daemon=daemon: _grants(daemon, tids, cpus, chosen.samples)
                for state, daemon in daemons.items()
            },
            chosen.rounds,
        )
        idle = _idle(daemons["on"], chosen)
    name = f"grant of a CPU that {_THREADS} threads have to leave"
    times = [found[state] * MICROSECONDS for state in ("on", "off")]
    rows = [
        Row(name, times[0], "us", times[1], "switched off", _RATIO_TARGET),
        Row("CPU time of 60 idle seconds, switched on", idle, "s", target=_IDLE_TARGET),
    ]
    return [Section("Open vSwitch's threads", rows, _NOTES)]


@contextlib.contextmanager
def _stand_in() -> Generator[list[int]]:
    """The numbers of its threads."""
    names = [f"handler{n}" for n in range(_THREADS - 1)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stand_in", "ovs-vswitchd", *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
        finally:
            process.kill()


def _grants(daemon: Daemon, tids: list[int], cpus: Cpus, samples: int) -> float:
    """The median seconds of a grant; a release would widen the masks only after a while."""
    send = clients.one_connection_each(daemon.socket)
    grant, release = _request(1), _request(-1)
    seconds: list[float] = []
    for _ in range(samples):
        for tid in tids:
            os.sched_setaffinity(tid, {cpus.server, cpus.client})
        taken, reply = send(grant)
        seconds.append(taken)
        clients.check([reply, send(release)[1]], None)
    return statistics.median(seconds)


def _request(count: int) -> bytes:
    return json.dumps(
        {
            "action": "allocate_cores",
            "pool": "general",
            "service_name": "a",
            "num_of_cores": count,
        }
    ).encode()


def _idle(daemon: Daemon, chosen: Effort) -> float:
    """CPU seconds, scaled to a minute in a quick run."""
    seconds = _IDLE_SECONDS if chosen is effort.FULL else _IDLE_SECONDS / 10
    before = daemon.cpu_seconds()
    time.sleep(seconds)
    return (daemon.cpu_seconds() - before) * _IDLE_SECONDS / seconds
