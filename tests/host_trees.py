# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Host trees of any shape, written as the kernel writes them."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from epa_daemon import cpulist
from epa_daemon.topology import Core, Topology

HOSTS = Path(__file__).parent / "hosts"
TWO_SOCKETS = HOSTS / "two-sockets-16cpu"


@dataclasses.dataclass(frozen=True)
class HostTree:
    """A machine to write down.

    Attributes:
        cores: thread siblings.
        nodes: NUMA node -> CPUs; None for a kernel without NUMA.
        pages: (node, size in kB) -> (total, free).
    """

    cores: tuple[frozenset[int], ...]
    nodes: Mapping[int, frozenset[int]] | None
    caches: tuple[frozenset[int], ...] = ()
    isolated: frozenset[int] = frozenset()
    offline: frozenset[int] = frozenset()
    pages: Mapping[tuple[int, int], tuple[int, int]] = dataclasses.field(
        default_factory=dict[tuple[int, int], tuple[int, int]]
    )
    masks: bool = False

    @property
    def cpus(self) -> frozenset[int]:
        return frozenset[int]().union(*self.cores)

    @property
    def online(self) -> frozenset[int]:
        return self.cpus - self.offline

    def topology(self) -> Topology:
        """What a reader must make of it."""
        nodes = {node: cpus & self.online for node, cpus in (self.nodes or {}).items()}
        cores = tuple(Core(core & self.online) for core in self.cores if core & self.online)
        caches = tuple(group & self.online for group in self.caches if group & self.online)
        return Topology(self.online, self.cpus, nodes, cores, caches)

    def write(self, root: Path) -> Path:
        cpu = root / "sys/devices/system/cpu"
        write(cpu / "online", cpulist.format_ranges(self.online))
        write(cpu / "present", cpulist.format_ranges(self.cpus))
        write(cpu / "isolated", cpulist.format_ranges(self.isolated))
        for core in self.cores:
            for thread in core & self.online:
                topology = cpu / f"cpu{thread}/topology"
                self._write_set(topology / "thread_siblings", core & self.online, "_list")
                write(topology / "physical_package_id", "0")
        for thread in self.cpus:
            write(cpu / f"cpu{thread}/online", str(int(thread not in self.offline)))
        for group in self.caches:
            for thread in group & self.online:
                index = cpu / f"cpu{thread}/cache/index3"
                write(index / "level", "3")
                self._write_list_or_mask(
                    index / "shared_cpu_list", index / "shared_cpu_map", group & self.online
                )
        self._write_nodes(root / "sys/devices/system/node")
        return root

    def _write_nodes(self, folder: Path) -> None:
        for node, cpus in (self.nodes or {}).items():
            here = folder / f"node{node}"
            self._write_list_or_mask(here / "cpulist", here / "cpumap", cpus & self.online)
        for (node, size), (total, free) in self.pages.items():
            sizes = folder / f"node{node}/hugepages/hugepages-{size}kB"
            write(sizes / "nr_hugepages", str(total))
            write(sizes / "free_hugepages", str(free))

    def _write_set(self, path: Path, cpus: frozenset[int], suffix: str) -> None:
        self._write_list_or_mask(path.with_name(path.name + suffix), path, cpus)

    def _write_list_or_mask(self, as_list: Path, as_mask: Path, cpus: frozenset[int]) -> None:
        if self.masks:
            write(as_mask, mask(cpus))
        else:
            write(as_list, cpulist.format_ranges(cpus))


def mask(cpus: Iterable[int]) -> str:
    """CPUs as the kernel prints a bitmap: words of 32 bits, the most significant first."""
    bits = sum(1 << cpu for cpu in cpus)
    words: list[str] = []
    while bits or not words:
        words.append(f"{bits & 0xFFFFFFFF:08x}")
        bits >>= 32
    return ",".join(reversed(words))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def regular(
    nodes: int = 1,
    cores: int = 4,
    threads: int = 2,
    caches_per_node: int = 1,
    isolated: str = "",
    offline: str = "",
    pages: Mapping[tuple[int, int], tuple[int, int]] | None = None,
    first: int = 0,
) -> HostTree:
    """A machine of equal nodes, each of `cores` cores, with adjacent sibling numbers."""
    siblings: list[frozenset[int]] = []
    for core in range(nodes * cores):
        start = first + core * threads
        siblings.append(frozenset(range(start, start + threads)))
    per_cache = cores // caches_per_node

    def union(some: Iterable[frozenset[int]]) -> frozenset[int]:
        return frozenset[int]().union(*some)

    return HostTree(
        cores=tuple(siblings),
        nodes={n: union(siblings[n * cores : (n + 1) * cores]) for n in range(nodes)},
        caches=tuple(
            union(siblings[i : i + per_cache]) for i in range(0, len(siblings), per_cache)
        ),
        isolated=cpulist.parse(isolated),
        offline=cpulist.parse(offline),
        pages=dict(pages or {}),
    )
