# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Short ways to write hosts, ledgers and requests as values."""

from typing import Any

import pytest

from epa_daemon import allocator, cpulist, ledger
from epa_daemon.errors import Refusal
from epa_daemon.host import Host, Memory, Pages
from epa_daemon.ledger import Claim, Holding, Ledger, Policy, Pool
from epa_daemon.pools import GeneralPool, Rules
from epa_daemon.protocol import (
    AllocateCores,
    AllocateCoresPercent,
    AllocateNumaCores,
    CpuRequest,
)
from epa_daemon.sysfs import Fault
from tests import host_trees


def host(
    isolated: str = "2-7,10-15",
    offline: str = "",
    nodes: int = 2,
    fault: Fault | None = None,
    **shape: Any,
) -> Host:
    """Sixteen CPUs, 0-7 and 8-15 on two nodes, siblings adjacent, unless said otherwise."""
    tree = host_trees.regular(nodes=nodes, isolated=isolated, offline=offline, **shape)
    grantable = frozenset[int]() if fault else tree.online
    return Host(grantable, fault, tree.isolated, tree.topology())


def without_numa(seen: Host) -> Host:
    topology = seen.topology
    bare = type(topology)(topology.online, topology.present, {}, topology.cores, topology.caches)
    return Host(seen.grantable, seen.online_fault, seen.isolated, bare)


def memory(**sizes: tuple[int, int]) -> Memory:
    """For example node0_2048=(total, free)."""
    nodes: dict[int, dict[int, Pages]] = {}
    for name, (total, free) in sizes.items():
        node, size = name.removeprefix("node").split("_")
        nodes.setdefault(int(node), {})[int(size)] = Pages(total, free)
    return Memory(nodes)


def rules(general: str | None = None, **numbers: int) -> Rules:
    return Rules(None if general is None else GeneralPool(cpulist.parse(general)), **numbers)


def holding(
    cpus: str,
    explicit: bool = False,
    pool: Pool = Pool.ISOLATED,
    policy: Policy = Policy.LEGACY,
    node: int | None = None,
) -> Holding:
    claims = {cpu: Claim(node, explicit) for cpu in sorted(cpulist.parse(cpus))}
    return Holding(pool, policy, claims)


def holding_all(**holdings: Holding) -> Ledger:
    return ledger.build(holdings)


def cores(count: int = 0, service: str = "a", **fields: Any) -> AllocateCores:
    return AllocateCores(service_name=service, num_of_cores=count, **fields)


def percent(share: int, service: str = "a", **fields: Any) -> AllocateCoresPercent:
    return AllocateCoresPercent(service_name=service, percent=share, **fields)


def numa(node: int, count: int, service: str = "a", **fields: Any) -> AllocateNumaCores:
    return AllocateNumaCores(service_name=service, numa_node=node, num_of_cores=count, **fields)


def granted(
    request: CpuRequest,
    seen: Host | None = None,
    before: Ledger | None = None,
    by: Rules | None = None,
) -> tuple[dict[str, Any], Ledger]:
    """The reply as a dictionary, and the ledger afterwards, whose invariants hold."""
    reply, after = allocator.decide(
        request, host() if seen is None else seen, before or Ledger(), by or Rules()
    )
    assert ledger.broken_invariants(after) == []
    return reply.model_dump(mode="json"), after


def refused(
    request: CpuRequest,
    seen: Host | None = None,
    before: Ledger | None = None,
    by: Rules | None = None,
) -> Refusal:
    with pytest.raises(Refusal) as caught:
        granted(request, seen, before, by)
    return caught.value


def held(after: Ledger, service: str = "a") -> str:
    return cpulist.format_ranges(after.cpus_of(service))
