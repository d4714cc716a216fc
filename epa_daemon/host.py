# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the kernel says now: CPUs, NUMA nodes, cores, caches and hugepages, as plain values.

Where the facts stand is fixed by the kernel's ABI documents (stable/sysfs-devices-system-cpu,
stable/sysfs-devices-node) and by admin-guide/cputopology. `HostReader` is the only reader.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from epa_daemon import cpulist, sysfs, topology
from epa_daemon.sysfs import Fault, FaultyFile
from epa_daemon.topology import Topology

_CPU_ADVICE = "check that /sys is mounted and readable by the daemon"
_ISOLATED_ADVICE = "boot with isolcpus=<CPU list> to give this host isolated CPUs"
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


@functools.lru_cache(maxsize=16)
def _parsed(content: bytes) -> frozenset[int]:
    return cpulist.parse(sysfs.text_of(content))


def _cpu_set(path: str, advice: str) -> tuple[frozenset[int], Fault | None]:
    try:
        return _parsed(sysfs.read_bytes(path, advice)), None
    except FaultyFile as error:
        return frozenset(), error.fault
    except ValueError as error:
        return frozenset(), Fault(path, "malformed", str(error), advice)


class HostReader:
    """Reads the host tree below a root folder; `/` is this host.

    The two small files `isolated` and `online` are read on every call. The topology is read
    again only when `online` has changed.
    """

    def __init__(self, root: Path):
        self._root = root
        system = root / "sys/devices/system"
        self._online_path = str(system / "cpu/online")
        self._isolated_path = str(system / "cpu/isolated")
        self._topology: Topology | None = None
        self._topology_of: frozenset[int] | None = None

    def read(self, with_memory: bool = False) -> Host:
        """Look at the host. Never raises: what could not be read is in `Host.faults`."""
        grantable, online_fault = _cpu_set(self._online_path, _CPU_ADVICE)
        isolated, isolated_fault = _cpu_set(self._isolated_path, _ISOLATED_ADVICE)
        if self._topology is None or self._topology_of != grantable:
            known = None if online_fault else grantable
            self._topology = topology.read(self._root, known)
            self._topology_of = grantable
        memory = read_memory(self._root) if with_memory else None
        found = (online_fault, isolated_fault, memory and memory.fault, *self._topology.faults)
        faults = tuple(fault for fault in found if fault)
        return Host(grantable, online_fault, isolated, self._topology, memory, faults)


def read_memory(root: Path) -> Memory:
    """The hugepage counts of every node; a node without a hugepages folder has no sizes."""
    nodes: dict[int, Mapping[int, Pages]] = {}
    try:
        for node, folder in sysfs.numbered(root / topology.NODES, "node", _CPU_ADVICE).items():
            nodes[node] = _node_pages(folder / "hugepages")
    except FaultyFile as error:
        return Memory(fault=error.fault)
    return Memory(nodes)


def _node_pages(folder: Path) -> dict[int, Pages]:
    sizes: dict[int, Path] = {}
    for path in sysfs.children(folder, _HUGEPAGES_ADVICE):
        size = path.name.removeprefix("hugepages-").removesuffix("kB")
        if size.isdecimal() and path.name == f"hugepages-{size}kB":
            sizes[int(size)] = path
    return {
        size: Pages(
            total=sysfs.read(path / "nr_hugepages", _count, _HUGEPAGES_ADVICE),
            free=sysfs.read(path / "free_hugepages", _count, _HUGEPAGES_ADVICE),
        )
        for size, path in sorted(sizes.items())
    }


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"'{text.strip()[:100]}' is not a number of pages")
    return int(text)
