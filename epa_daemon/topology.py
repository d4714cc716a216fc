# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The map of the host: NUMA nodes, cores with their thread siblings, and cache groups.

Old and small kernels lack some files, so each fact has fallbacks: `online` and `present` to the
cpuN folders, `cpulist` to `cpumap`, the `*_list` files to their masks. The map is kept nested:
a core, or a cache group that holds no whole nodes, is cut where a NUMA node ends, so that
placement can count nodes, cache groups and cores independently.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from epa_daemon import sysfs
from epa_daemon.sysfs import Fault, FaultyFile

CPUS = Path("sys/devices/system/cpu")
NODES = Path("sys/devices/system/node")
_ADVICE = "check that /sys is mounted and readable by the daemon"


@dataclass(frozen=True)
class Core:
    """A physical core: its online hardware threads, and the socket it sits in (if known)."""

    cpus: frozenset[int]
    package: int | None = None


@dataclass(frozen=True)
class Place:
    """Where a CPU stands: its core, and the blocks around it from the outermost inwards.

    A block is ("node", its CPUs) or ("cache", its CPUs).
    """

    core: frozenset[int]
    blocks: tuple[tuple[str, frozenset[int]], ...]


@dataclass(frozen=True)
class Topology:
    """Frozen map of a host.

    Attributes:
        online: CPUs in use by the kernel, by the best source there is (for the map, not for
            grants).
        present: CPUs plugged into the machine.
        nodes: NUMA node -> its online CPUs, empty for a memory-only node; {} without NUMA.
        cores: disjoint; every online CPU is in exactly one.
        caches: disjoint groups of CPUs that share the last-level cache (L3 where there is one).
        broken_nodes: nodes whose CPUs could not be read, with the reason.
    """

    online: frozenset[int]
    present: frozenset[int]
    nodes: Mapping[int, frozenset[int]]
    cores: tuple[Core, ...]
    caches: tuple[frozenset[int], ...]
    broken_nodes: Mapping[int, Fault] = field(default_factory=dict[int, Fault])
    faults: tuple[Fault, ...] = ()

    @functools.cached_property
    def node_of(self) -> Mapping[int, int]:
        """CPU -> NUMA node, for the online CPUs of hosts with NUMA."""
        return {cpu: node for node, cpus in self.nodes.items() for cpu in cpus}

    @functools.cached_property
    def settled(self) -> bool:
        """Whether every online CPU is where one expects it: nothing is missing or at fault."""
        cached = frozenset[int]().union(*self.caches)
        in_nodes = not self.nodes or self.online == frozenset(self.node_of)
        return in_nodes and not self.faults and cached in (frozenset(), self.online)

    @functools.cached_property
    def places(self) -> Mapping[int, Place]:
        """CPU -> where it stands, for every online CPU."""
        cache_of = {cpu: group for group in self.caches for cpu in group}
        cores = {cpu: core.cpus for core in self.cores for cpu in core.cpus}
        return {
            cpu: Place(core, self._blocks(cpu, cache_of.get(cpu))) for cpu, core in cores.items()
        }

    def _blocks(
        self, cpu: int, cache: frozenset[int] | None
    ) -> tuple[tuple[str, frozenset[int]], ...]:
        node = self.node_of.get(cpu)
        blocks = [] if node is None else [("node", self.nodes[node])]
        if cache is not None:
            blocks.append(("cache", cache))
        return tuple(sorted(blocks, key=lambda block: -len(block[1])))


def read(root: Path, online: frozenset[int] | None) -> Topology:
    """Read the map below a root folder.

    Args:
        root: the host tree.
        online: content of the file `online`, or None where it was unusable.
    """
    reader = _Reader()
    folders = reader.numbered(root / CPUS, "cpu")
    if online is None:
        online = frozenset(cpu for cpu, folder in folders.items() if reader.is_online(folder))
    present = reader.cpu_set(root / CPUS, ("present",), ()) or frozenset(folders) | online
    nodes = reader.nodes(root, online)
    cores = reader.cores(folders, online, nodes)
    caches = reader.caches(folders, online, nodes)
    return Topology(
        online, present, nodes, cores, caches, reader.broken_nodes, tuple(reader.faults)
    )


class _Reader:
    """Collects faults while reading: an absent file is normal here, any other fault is kept."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.broken_nodes: dict[int, Fault] = {}

    def note(self, fault: Fault) -> None:
        if fault.kind != "absent":
            self.faults.append(fault)

    def numbered(self, folder: Path, prefix: str) -> dict[int, Path]:
        try:
            return sysfs.numbered(folder, prefix, _ADVICE)
        except FaultyFile as error:
            self.note(error.fault)
            return {}

    def cpu_set(
        self, folder: Path, lists: tuple[str, ...], masks: tuple[str, ...]
    ) -> frozenset[int] | None:
        try:
            return sysfs.read_first_set(folder, lists, masks, _ADVICE)
        except FaultyFile as error:
            self.note(error.fault)
            return None

    def number(self, path: Path) -> int | None:
        try:
            return sysfs.read(path, int, _ADVICE)
        except FaultyFile as error:
            self.note(error.fault)
            return None

    def is_online(self, folder: Path) -> bool:
        """A CPU without the file `online` cannot be unplugged, so it is online."""
        return self.number(folder / "online") != 0

    def nodes(self, root: Path, online: frozenset[int]) -> dict[int, frozenset[int]]:
        nodes: dict[int, frozenset[int]] = {}
        taken: set[int] = set()
        for node, folder in self.numbered(root / NODES, "node").items():
            try:
                cpus = sysfs.read_first_set(folder, ("cpulist",), ("cpumap",), _ADVICE)
            except FaultyFile as error:
                self.faults.append(error.fault)
                self.broken_nodes[node] = error.fault
                cpus = frozenset[int]()
            nodes[node] = (cpus & online) - taken
            taken |= cpus
        return nodes

    def cores(
        self,
        folders: Mapping[int, Path],
        online: frozenset[int],
        nodes: Mapping[int, frozenset[int]],
    ) -> tuple[Core, ...]:
        cores: list[Core] = []
        taken: set[int] = set()
        for cpu in sorted(online):
            if cpu in taken:
                continue
            folder = folders.get(cpu, Path("/nonexistent")) / "topology"
            siblings = self.cpu_set(
                folder,
                ("core_cpus_list", "thread_siblings_list"),
                ("core_cpus", "thread_siblings"),
            )
            cpus = (siblings or frozenset()) & _same_node(cpu, nodes, online) - taken | {cpu}
            package = self.number(folder / "physical_package_id")
            cores.append(Core(cpus, package if package is not None and package >= 0 else None))
            taken |= cpus
        return tuple(cores)

    def caches(
        self,
        folders: Mapping[int, Path],
        online: frozenset[int],
        nodes: Mapping[int, frozenset[int]],
    ) -> tuple[frozenset[int], ...]:
        groups: list[frozenset[int]] = []
        taken: set[int] = set()
        for cpu in sorted(online):
            if cpu in taken or cpu not in folders:
                continue
            group = self._last_level_cache(folders[cpu] / "cache")
            if group is not None:
                whole = (group & online) - taken | {cpu}
                groups.extend(_cut_at_nodes(whole, nodes))
                taken |= whole
        return tuple(groups)

    def _last_level_cache(self, folder: Path) -> frozenset[int] | None:
        best: tuple[int, Path] | None = None
        for index in self.numbered(folder, "index").values():
            level = self.number(index / "level")
            if level is not None and level <= 3 and (best is None or level > best[0]):
                best = level, index
        if best is None:
            return None
        return self.cpu_set(best[1], ("shared_cpu_list",), ("shared_cpu_map",))


def _same_node(
    cpu: int, nodes: Mapping[int, frozenset[int]], online: frozenset[int]
) -> frozenset[int]:
    return next((cpus for cpus in nodes.values() if cpu in cpus), online)


def _cut_at_nodes(
    group: frozenset[int], nodes: Mapping[int, frozenset[int]]
) -> Iterable[frozenset[int]]:
    touched = [cpus for cpus in nodes.values() if cpus & group]
    if len(touched) <= 1 or all(cpus <= group for cpus in touched):
        return [group]
    rest = group - frozenset().union(*touched)
    return [part for part in (*(group & cpus for cpus in touched), rest) if part]
