# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Placement against brute force: every choice is tried, and the goals are counted one by one."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epa_daemon import placement
from epa_daemon.topology import Core, Topology


@dataclass(frozen=True)
class Case:
    """A request on a small host."""

    topology: Topology
    own: frozenset[int]
    free: frozenset[int]
    takeable: Mapping[str, frozenset[int]]
    others: frozenset[int]
    count: int

    def place(self) -> frozenset[int]:
        return placement.place(
            self.count, self.own, self.free, self.takeable, self.others, self.topology
        )


def brute_force(case: Case) -> frozenset[int]:
    """The contract's goals in their order, over every set of the right size."""
    owner_of = {cpu: name for name, cpus in case.takeable.items() for cpu in cpus}
    candidates = sorted(case.own | case.free | frozenset(owner_of))

    def goals(chosen: tuple[int, ...]) -> tuple[object, ...]:
        held = frozenset(chosen)
        taken = [owner_of[cpu] for cpu in held if cpu in owner_of]
        left = case.others - held
        touched = [core.cpus for core in case.topology.cores if core.cpus & held]
        shrinking = case.count <= len(case.own)
        return (
            -len(held & case.own),
            chosen if shrinking else (),
            len(taken),
            len(set(taken)),
            sum(bool(cpus & held) for cpus in case.topology.nodes.values()),
            sum(bool(cpus & left) for cpus in touched),
            sum(not cpus <= held for cpus in touched),
            sum(bool(group & held) for group in case.topology.caches),
            chosen,
        )

    return frozenset(min(itertools.combinations(candidates, case.count), key=goals))


def partition(draw: st.DrawFn, items: list[int], largest: int) -> list[frozenset[int]]:
    parts: list[frozenset[int]] = []
    while items:
        size = draw(st.integers(1, min(largest, len(items))))
        parts.append(frozenset(items[:size]))
        items = items[size:]
    return parts


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Small hosts: any numbering, 1 to 8 threads, uneven nodes and caches, nested either way."""
    count = draw(st.integers(1, 10))
    numbers = draw(st.permutations(range(draw(st.integers(0, 3)), 20)))[:count]
    nodes = partition(draw, list(numbers), 6) if draw(st.booleans()) else [frozenset(numbers)]
    cores: list[Core] = []
    caches: list[frozenset[int]] = []
    above = draw(st.booleans())
    for node in nodes:
        parts = partition(draw, sorted(node), draw(st.sampled_from([1, 2, 4, 8])))
        cores += [Core(part) for part in parts]
        if not above:
            groups = partition(draw, list(range(len(parts))), 3)
            caches += [frozenset[int]().union(*(parts[i] for i in g)) for g in groups]
    if above:
        groups = partition(draw, list(range(len(nodes))), 2)
        caches = [frozenset[int]().union(*(nodes[i] for i in g)) for g in groups]
    cpus = frozenset(numbers)
    return Topology(cpus, cpus, dict(enumerate(nodes)), tuple(cores), tuple(caches))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    topology = draw(topologies())
    roles = {
        cpu: draw(st.sampled_from(["own", "free", "free", "a", "b", "c", "blocked", "outside"]))
        for cpu in sorted(topology.online)
    }

    def having(role: str) -> frozenset[int]:
        return frozenset(cpu for cpu, given_role in roles.items() if given_role == role)

    takeable = {name: having(name) for name in "abc" if having(name)}
    own, free = having("own"), having("free")
    others = having("blocked").union(*takeable.values())
    most = len(own) + len(free) + sum(map(len, takeable.values()))
    count = draw(st.integers(0, most))
    return Case(topology, own, free, takeable, others, count)


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_placement_equals_brute_force(case: Case):
    assert case.place() == brute_force(case)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_same_request_again_gives_the_same_cpus(case: Case):
    first = case.place()
    again = Case(
        case.topology,
        own=first,
        free=(case.free | case.own) - first,
        takeable={n: left for n, cpus in case.takeable.items() if (left := cpus - first)},
        others=case.others - first,
        count=case.count,
    )
    assert again.place() == first


def regular(nodes: int, caches: int, cores: int, threads: int) -> Topology:
    """Nodes of `caches` groups of `cores` cores."""
    ids = itertools.count()
    node_cpus: dict[int, frozenset[int]] = {}
    groups: list[frozenset[int]] = []
    all_cores: list[Core] = []
    for node in range(nodes):
        node_groups: list[frozenset[int]] = []
        for _ in range(caches):
            made = [Core(frozenset(itertools.islice(ids, threads))) for _ in range(cores)]
            all_cores += made
            node_groups.append(frozenset[int]().union(*(core.cpus for core in made)))
        groups += node_groups
        node_cpus[node] = frozenset[int]().union(*node_groups)
    cpus = frozenset[int]().union(*groups)
    return Topology(cpus, cpus, node_cpus, tuple(all_cores), tuple(groups))


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
def test_large_hosts_fill_one_node_with_whole_cores_first(threads: int):
    topology = regular(nodes=8, caches=4, cores=32 // threads, threads=threads)
    free = topology.online - {0}
    case = Case(topology, frozenset(), free, {}, frozenset({0}), 64)
    chosen = case.place()
    whole = {cpu for core in topology.cores if core.cpus <= free for cpu in core.cpus}
    assert len(chosen) == 64
    assert chosen <= whole
    assert chosen <= topology.nodes[0]


def test_many_small_owners_are_robbed_of_no_more_than_asked():
    topology = regular(nodes=1, caches=1, cores=300, threads=1)
    takeable = {f"s{i:03}": frozenset({3 * i, 3 * i + 1, 3 * i + 2}) for i in range(100)}
    case = Case(topology, frozenset(), frozenset(), takeable, topology.online, 10)
    chosen = case.place()
    assert len(chosen) == 10
    assert len({name for name, cpus in takeable.items() if cpus & chosen}) == 4
