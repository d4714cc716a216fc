# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The hosts and services that the daemon is measured with, and the requests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tests import host_trees
from tests.host_trees import HostTree

BENCH = "bench"
PAGE_KB = 2048
GENERAL = "2-3"
_GENERAL_OWNER = "general-owner"


@dataclass(frozen=True)
class Scene:
    """A host with its services: so many in the isolated pool, and one more in the general one.

    Every service holds one CPU, as it must where there are about as many services as CPUs; a few
    CPUs are left free, so that the service under test can grow without taking from others.
    """

    name: str
    tree: HostTree
    services: int

    @property
    def last_node(self) -> int:
        """Where the free CPUs are: the lowest ids are handed out first."""
        return max(self.tree.nodes or {0: frozenset[int]()})

    @property
    def others(self) -> list[str]:
        return [f"service-{number:04}" for number in range(1, self.services)]

    def preload(self) -> list[bytes]:
        """Requests that make the services."""
        names = [*self.others, BENCH]
        return [cores(1, _GENERAL_OWNER, pool="general"), *(cores(1, name) for name in names)]


def _pages(nodes: int) -> Mapping[tuple[int, int], tuple[int, int]]:
    return {(node, PAGE_KB): (4096, 4096) for node in range(nodes)}


def small() -> Scene:
    """16 CPUs, 10 services."""
    tree = host_trees.regular(nodes=2, cores=4, isolated="4-15", pages=_pages(2))
    return Scene("16 CPUs, 10 services", tree, 10)


def large() -> Scene:
    """1,024 CPUs, 1,000 services."""
    tree = host_trees.regular(
        nodes=8, cores=64, caches_per_node=8, isolated="4-1023", pages=_pages(8)
    )
    return Scene("1,024 CPUs, 1,000 services", tree, 1000)


def crowded(services: int) -> Scene:
    """128 CPUs: room for every client of a crowd to grow a service of its own."""
    tree = host_trees.regular(nodes=2, cores=32, isolated="4-127", pages=_pages(2))
    return Scene(f"128 CPUs, {services} services", tree, services)


def _request(action: str, **fields: object) -> bytes:
    return json.dumps({"action": action, **fields}).encode()


def cores(count: int, service: str = BENCH, **fields: object) -> bytes:
    """Grant a count of CPUs; -1 releases."""
    return _request("allocate_cores", service_name=service, num_of_cores=count, **fields)


def numa_cores(count: int, node: int) -> bytes:
    """Grant CPUs of one node."""
    return _request("allocate_numa_cores", service_name=BENCH, numa_node=node, num_of_cores=count)


def hugepages(count: int, service: str = BENCH) -> bytes:
    """Record hugepages on node 0."""
    return _request(
        "allocate_hugepages",
        service_name=service,
        hugepages_requested=count,
        node_id=0,
        size_kb=PAGE_KB,
    )


def memory_info() -> bytes:
    """Read the hugepages."""
    return _request("get_memory_info")


def listing(pool: str = "isolated") -> bytes:
    """List a pool."""
    return _request("list_allocations", pool=pool)


def kept(request: bytes) -> bytes:
    """A request as a line that asks for the connection to be kept."""
    return json.dumps({**json.loads(request), "keep_alive": True}).encode() + b"\n"
