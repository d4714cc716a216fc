# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Which CPUs to take. Pure, exact, and the same on every run.

The goals, each only among the choices that are equally good in those before it:

1. keep the CPUs that the service holds already (when shrinking: its lowest ids);
2. take free CPUs before other services' ones, then from as few services as possible;
3. touch the fewest NUMA nodes;
4. touch the fewest cores of which another service holds a thread, then leave the fewest
   cores half used;
5. touch the fewest cache groups;
6. take the lowest CPU ids.

Goals 3 to 6 are one sum of integers: each node, core and cache group that is touched adds a
weight so large that no number of the lesser ones can outweigh it, and each CPU taken subtracts
a power of two by its rank, which makes the lowest ids the smallest sum. Sums over disjoint
cores add up, so the best choice of n CPUs is found exactly by merging tables "number of CPUs ->
least sum" from the cores up through cache groups and nodes.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from epa_daemon.topology import Place, Topology

# A count of nodes, cores or cache groups never needs more bits (CPU ids end at 65535).
_FIELD = 17
_NODE, _SHARED, _HALF, _CACHE = (1 << _FIELD * place for place in (3, 2, 1, 0))
_BLOCK_WEIGHT = {"node": _NODE, "cache": _CACHE}

# Sets of owners are tried one by one; this bounds the work (candidates x sets) on a host where
# very many services could each give up a few CPUs. Small hosts stay far below it.
_OWNER_SET_BUDGET = 20_000

Table = dict[int, int]


@dataclass(frozen=True)
class Situation:
    """What surrounds a choice.

    Attributes:
        kept: CPUs that the service will hold whatever is chosen.
        others: CPUs that other services hold before the choice.
    """

    topology: Topology
    kept: frozenset[int]
    others: frozenset[int]


def place(
    count: int,
    own: frozenset[int],
    free: frozenset[int],
    takeable: Mapping[str, frozenset[int]],
    others: frozenset[int],
    topology: Topology,
) -> frozenset[int]:
    """Choose `count` CPUs for a service.

    Args:
        count: at most as many as `own`, `free` and `takeable` hold together.
        own: CPUs that the service holds and may keep.
        free: CPUs that nobody holds.
        takeable: service -> CPUs that may be taken from it.
        others: every CPU that other services hold, takeable or not.
        topology: the map of the host; every CPU above is on it.
    """
    if count <= len(own):
        return frozenset(sorted(own)[:count])
    wanted = count - len(own)
    if wanted <= len(free):
        situation = Situation(topology, own, others)
        return own | _cheapest(wanted, sorted(free), situation)[1]
    kept = own | free
    return kept | _rob(count - len(kept), takeable, Situation(topology, kept, others))


def _rob(
    count: int, takeable: Mapping[str, frozenset[int]], situation: Situation
) -> frozenset[int]:
    order = sorted(frozenset[int]().union(*takeable.values()))
    best = min(
        _cheapest(count, [cpu for cpu in order if cpu in chosen], situation, order)
        for chosen in _owner_sets(count, takeable)
    )
    return best[1]


def _owner_sets(count: int, takeable: Mapping[str, frozenset[int]]) -> Iterator[frozenset[int]]:
    """The CPUs of every smallest set of services that can give up `count` CPUs together.

    The first is that of the services with the most to give.
    """
    givers = sorted(takeable.values(), key=lambda cpus: (-len(cpus), min(cpus)))
    sums = itertools.accumulate(len(cpus) for cpus in givers)
    fewest = 1 + next(i for i, total in enumerate(sums) if total >= count)
    everything = frozenset[int]().union(*givers)
    if fewest in (count, len(givers)):
        # Each gives one (so do all who are asked), or all must give: the choice is free.
        yield everything
        return
    tries = max(1, _OWNER_SET_BUDGET // len(everything))
    for chosen in itertools.islice(itertools.combinations(givers, fewest), tries):
        if sum(map(len, chosen)) >= count:
            yield frozenset[int]().union(*chosen)


@dataclass
class _Branch:
    """Candidates below one block of the host, by inner block and by core."""

    branches: dict[tuple[str, frozenset[int]], "_Branch"] = field(
        default_factory=dict[tuple[str, frozenset[int]], "_Branch"]
    )
    cores: dict[frozenset[int], list[int]] = field(default_factory=dict[frozenset[int], list[int]])


def _cheapest(
    count: int,
    candidates: Sequence[int],
    situation: Situation,
    order: Sequence[int] | None = None,
) -> tuple[int, frozenset[int]]:
    """The least sum, and the CPUs that have it.

    Args:
        count: how many to choose.
        candidates: ascending CPU ids.
        situation: what surrounds the choice.
        order: the CPU ids to rank by; sums are comparable between calls with the same order.
    """
    order = candidates if order is None else order
    solver = _Solver(count, len(candidates), order, situation)
    tree = _tree(order, frozenset(candidates), situation.topology.places)
    total = solver.solve(tree)[0][count]
    ranks = -total & ((1 << len(order)) - 1)
    chosen = frozenset(cpu for i, cpu in enumerate(reversed(order)) if ranks >> i & 1)
    return total, chosen


def _tree(
    order: Sequence[int], candidates: frozenset[int], places: Mapping[int, Place]
) -> _Branch:
    """The candidates by block and core; cores of the rest stand there empty.

    An empty core may still cost: one that the service shares with somebody who is not asked to
    give up a thread makes that set of owners the worse one.
    """
    root = _Branch()
    for cpu in order:
        branch = root
        for block in places[cpu].blocks:
            branch = branch.branches.setdefault(block, _Branch())
        threads = branch.cores.setdefault(places[cpu].core, [])
        if cpu in candidates:
            threads.append(cpu)
    return root


class _Solver:
    """Merges tables; keeps only the numbers of CPUs that can still lead to `count`."""

    def __init__(self, count: int, candidates: int, order: Sequence[int], situation: Situation):
        self._count = count
        self._spare = candidates - count
        self._shift = len(order)
        self._rank = {cpu: 1 << i for i, cpu in enumerate(reversed(order))}
        self._situation = situation

    def solve(self, branch: _Branch) -> tuple[Table, int]:
        """The table of a branch, and how many candidates it holds."""
        table, size = {0: 0}, 0
        for core, cpus in branch.cores.items():
            table, size = self._merge(table, size, self._core(core, cpus), len(cpus))
        for (kind, cpus), inner in branch.branches.items():
            other, more = self.solve(inner)
            if not cpus & self._situation.kept:
                weight = _BLOCK_WEIGHT[kind] << self._shift
                other = {n: total + weight if n else total for n, total in other.items()}
            table, size = self._merge(table, size, other, more)
        return table, size

    def _merge(
        self, left: Table, left_size: int, right: Table, right_size: int
    ) -> tuple[Table, int]:
        size = left_size + right_size
        least, most = size - self._spare, self._count
        merged: Table = {}
        for n, total in left.items():
            for m, more in right.items():
                both = n + m
                if least <= both <= most:
                    value = total + more
                    if both not in merged or value < merged[both]:
                        merged[both] = value
        return merged, size

    def _core(self, core: frozenset[int], cpus: Sequence[int]) -> Table:
        """Taking 0, 1, ... threads of a core; threads of one core differ by id only."""
        kept = len(core & self._situation.kept)
        others = core & self._situation.others
        table: Table = {}
        taken = 0
        for n in range(len(cpus) + 1):
            if n:
                taken += self._rank[cpus[n - 1]]
                others -= {cpus[n - 1]}
            weight = 0
            if kept + n:
                weight = _SHARED * bool(others) + _HALF * (kept + n < len(core))
            table[n] = (weight << self._shift) - taken
        return table
