# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A host and a ledger that are 64 and 100 times larger: what does a request cost there?"""

import contextlib
import functools
from pathlib import Path

from benchmarks import clients, effort, hosts, latency, load, processes
from benchmarks.clients import Probe
from benchmarks.effort import MICROSECONDS, Effort
from benchmarks.hosts import Scene
from benchmarks.pinning import Cpus
from benchmarks.processes import Daemon
from benchmarks.report import Row, Section

_TARGET = 2.0
_NOTES = (
    "Both hosts are nearly full: one CPU for each service, and some left to grow into.",
    "'list_allocations, reply's size taken out' lists the general pool, which has one owner on",
    "either host: the replies are alike, so what differs is the cost of all the other services.",
    "allocate_hugepages: every service has a record on the node. get_memory_info reads files of",
    "every node, and there are 8 nodes against 2.",
)


def _probes(scene: Scene) -> dict[str, tuple[Probe, float | None]]:
    """What is compared, in this order, with its target."""

    def change(*cycle: bytes) -> tuple[Probe, float | None]:
        return Probe(cycle, changes=True), _TARGET

    node = scene.last_node
    return {
        "allocate_cores, changing": change(hosts.cores(1), hosts.cores(3)),
        "allocate_cores, unchanged": (Probe((hosts.cores(2),)), _TARGET),
        "release and grant": change(hosts.cores(-1), hosts.cores(2)),
        "allocate_numa_cores, changing": change(
            hosts.numa_cores(1, node), hosts.numa_cores(2, node)
        ),
        "get_memory_info": (Probe((hosts.memory_info(),)), _TARGET),
        "list_allocations, reply's size taken out": (Probe((hosts.listing("general"),)), _TARGET),
        "list_allocations, whole reply": (Probe((hosts.listing(),)), None),
    }


def _page_probes() -> dict[str, tuple[Probe, float | None]]:
    """What is compared once every service has hugepages recorded."""
    growing = Probe((hosts.hugepages(2), hosts.hugepages(1)), changes=True)
    return {
        "allocate_hugepages, changing": (growing, _TARGET),
        "get_memory_info, a record per service": (Probe((hosts.memory_info(),)), None),
    }


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Compare the large host with the small one."""
    scenes = (hosts.large(), hosts.small())
    with contextlib.ExitStack() as stack:
        daemons = [
            stack.enter_context(processes.loaded_daemon(scene, folder / f"scale{n}", cpus))
            for n, scene in enumerate(scenes)
        ]
        for daemon in daemons:
            latency.settle(daemon)
        large, small = (_probes(scene) for scene in scenes)
        rows = [
            _compare(name, daemons, (large[name][0], small[name][0]), large[name][1], chosen)
            for name in large
        ]
        for scene, daemon in zip(scenes, daemons, strict=True):
            records = [hosts.hugepages(1, name) for name in (*scene.others, hosts.BENCH)]
            load.spread(daemon.socket, records)
        rows += [
            _compare(name, daemons, (probe, probe), target, chosen)
            for name, (probe, target) in _page_probes().items()
        ]
        rows.append(Row("resident memory of the larger", daemons[0].rss_mb(), "MB", target=45))
    return [Section(f"{scenes[0].name} against {scenes[1].name}", rows, _NOTES)]


def _compare(
    name: str,
    daemons: list[Daemon],
    probes: tuple[Probe, Probe],
    target: float | None,
    chosen: Effort,
) -> Row:
    measures = {
        size: functools.partial(
            clients.median_round,
            clients.one_connection_each(daemon.socket),
            probe,
            max(chosen.samples // len(probe.cycle) // 2, 5),
        )
        for size, daemon, probe in zip(("large", "small"), daemons, probes, strict=True)
    }
    found = effort.taking_turns(measures, chosen.rounds)
    large, small = (found[size] * MICROSECONDS for size in ("large", "small"))
    return Row(name, large, "us", small, "small host", target)
