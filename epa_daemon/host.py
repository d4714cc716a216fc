# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the kernel says now: CPUs, NUMA nodes, cores, caches and hugepages, as plain values.

Where the facts stand is fixed by the kernel's ABI documents (stable/sysfs-devices-system-cpu,
stable/sysfs-devices-node) and by admin-guide/cputopology. `HostReader` is the only reader.
"""

import functools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from epa_daemon import cpulist, sysfs, topology
from epa_daemon.sysfs import Fault, FaultyFile
from epa_daemon.topology import Topology

_CPU_ADVICE = "check that /sys is mounted and readable by the daemon"
_ISOLATED_ADVICE = "boot with isolcpus=<CPU list> to give this host isolated CPUs"
# Seconds until a topology that is not settled is read again, doubling from the first to the last.
_FIRST_PATIENCE = 0.5
_LAST_PATIENCE = 60.0
_HUGEPAGES_ADVICE = (
    "connect the plug: snap connect epa-orchestrator:hardware-observe, "
    "then try again (no restart needed)"
)


@dataclass(frozen=True)
class Pages:
    """Hugepages of one size on one node, as the kernel counts them."""

    total: int
    free: int


@dataclass(frozen=True)
class Memory:
    """The hugepages of every node.

    Attributes:
        nodes: NUMA node -> hugepage size in kB -> counts; {} on a host without NUMA folders.
        fault: set where counts exist but cannot be used; then `nodes` must not be believed.
    """

    nodes: Mapping[int, Mapping[int, Pages]] = field(
        default_factory=dict[int, Mapping[int, Pages]]
    )
    fault: Fault | None = None


@dataclass(frozen=True)
class Host:
    """One look at the host; every decision is made on a fresh one.

    Attributes:
        grantable: CPUs of the file `online`, the only ones that may be granted; empty where
            `online_fault` is set.
        online_fault: why `online` could not be used.
        isolated: CPUs of the file `isolated`, also offline ones; empty where it is unusable.
        topology: the map; follows `online`.
        memory: None where this look did not ask for it.
        faults: everything that could not be read as expected, for the log and the health report.
    """

    grantable: frozenset[int]
    online_fault: Fault | None
    isolated: frozenset[int]
    topology: Topology
    memory: Memory | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def harmful_faults(self) -> tuple[Fault, ...]:
        """The faults that keep something from being granted or shown.

        An absent file is not among them where its absence only means that the host has none of
        it, as on a kernel without isolcpus.
        """
        needed = {self.online_fault, *self.topology.broken_nodes.values()}
        if self.memory:
            needed.add(self.memory.fault)
        return tuple(f for f in self.faults if f.kind != "absent" or f in needed)


@functools.lru_cache(maxsize=16)
def _parsed(content: bytes) -> frozenset[int]:
    return cpulist.parse(sysfs.text_of(content))


def _cpu_set(path: str, advice: str) -> tuple[frozenset[int], Fault | None]:
    try:
        return _parsed(sysfs.read_bytes(path, advice)), None
    except FaultyFile as error:
        return frozenset(), error.fault
    except ValueError as error:
        return frozenset(), sysfs.malformed(path, error)


class HostReader:
    """Reads the host tree below a root folder; `/` is this host.

    The two small files `isolated` and `online` are read on every call. The topology is read
    again when `online` or the list of nodes has changed, and, as long as it is not settled, after
    a while: a CPU that comes online shows up in the files of its node and cache a moment later.
    """

    def __init__(self, root: Path):
        self._root = root
        system = root / "sys/devices/system"
        self._online_path = str(system / "cpu/online")
        self._isolated_path = str(system / "cpu/isolated")
        self._nodes_path = str(root / topology.NODES)
        self._topology: Topology | None = None
        self._seen: tuple[frozenset[int], tuple[int, ...]] | None = None
        self._again_at = 0.0
        self._patience = _FIRST_PATIENCE

    def read(self, with_memory: bool = False) -> Host:
        """Look at the host. Never raises: what could not be read is in `Host.faults`."""
        grantable, online_fault = _cpu_set(self._online_path, _CPU_ADVICE)
        isolated, isolated_fault = _cpu_set(self._isolated_path, _ISOLATED_ADVICE)
        known = self._topology_for(grantable, online_fault)
        memory = read_memory(self._root) if with_memory else None
        found = (online_fault, isolated_fault, memory and memory.fault, *known.faults)
        faults = tuple(fault for fault in found if fault)
        return Host(grantable, online_fault, isolated, known, memory, faults)

    def _topology_for(self, grantable: frozenset[int], online_fault: Fault | None) -> Topology:
        seen = (grantable, _edition(self._nodes_path))
        now = time.monotonic()
        if seen != self._seen:
            self._patience = _FIRST_PATIENCE
        elif self._topology and (self._topology.settled or now < self._again_at):
            return self._topology
        else:
            self._patience = min(2 * self._patience, _LAST_PATIENCE)
        self._seen, self._again_at = seen, now + self._patience
        self._topology = topology.read(self._root, None if online_fault else grantable)
        return self._topology


def _edition(folder: str) -> tuple[int, ...]:
    """Changes when folders come or go; a tenth of the cost of listing them at every look."""
    try:
        found = os.stat(folder)
    except OSError:
        return ()  # `topology.read` tells why.
    return found.st_ino, found.st_nlink, found.st_mtime_ns


def read_memory(root: Path) -> Memory:
    """The hugepage counts of every node; a node without a hugepages folder has no sizes."""
    nodes: dict[int, Mapping[int, Pages]] = {}
    try:
        for node, folder in sysfs.numbered(root / topology.NODES, "node", _CPU_ADVICE).items():
            nodes[node] = _node_pages(f"{folder}/hugepages")
    except FaultyFile as error:
        return Memory(fault=error.fault)
    return Memory(nodes)


def _node_pages(folder: str) -> dict[int, Pages]:
    # Texts and not Path: clients that poll get_memory_info read all of this every time.
    sizes: dict[int, str] = {}
    for name in sysfs.children(folder, _HUGEPAGES_ADVICE):
        size = name.removeprefix("hugepages-").removesuffix("kB")
        if size.isdecimal() and name == f"hugepages-{size}kB":
            sizes[int(size)] = f"{folder}/{name}"
    return {
        size: Pages(
            total=sysfs.read(f"{path}/nr_hugepages", _count, _HUGEPAGES_ADVICE),
            free=sysfs.read(f"{path}/free_hugepages", _count, _HUGEPAGES_ADVICE),
        )
        for size, path in sorted(sizes.items())
    }


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"'{text.strip()[:100]}' is not a number of pages")
    return int(text)
