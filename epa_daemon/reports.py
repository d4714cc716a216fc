# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From values to replies: grants, releases, listings and the host map. Pure."""

from epa_daemon import cpulist, pools
from epa_daemon.host import Host
from epa_daemon.ledger import Ledger, Policy, Pool
from epa_daemon.pools import Rules
from epa_daemon.protocol import (
    AllocateCores,
    AllocateCoresPercent,
    AllocateNumaCores,
    CpuRequest,
)
from epa_daemon.replies import (
    AllocateCoresPercentReply,
    AllocateCoresReply,
    AllocateNumaCoresReply,
    Allocation,
    CpuInfo,
    CpuPool,
    ListAllocationsReply,
    NodeInfo,
    OptionsInForce,
    Reply,
    TopologyReply,
)
from epa_daemon.rights import Access


def granted(
    request: CpuRequest,
    eligible: frozenset[int],
    ledger: Ledger,
    policy: Policy,
    chosen: frozenset[int],
) -> Reply:
    """The reply to a grant.

    Args:
        request: what was asked.
        eligible: the pool's online CPUs.
        ledger: the ledger after the grant.
        policy: the policy in force after the grant.
        chosen: the CPUs granted (in the node, for a NUMA request).
    """
    count = request.num_of_cores if isinstance(request, AllocateCores | AllocateNumaCores) else 0
    return _cpu_reply(request, eligible, ledger, policy, chosen, count)


def released(
    request: CpuRequest, eligible: frozenset[int], ledger: Ledger, policy: Policy | None
) -> Reply:
    """The reply to a release; `policy` is that of what is left, None for nothing left."""
    count = -1 if isinstance(request, AllocateNumaCores) else 0
    return _cpu_reply(request, eligible, ledger, policy, frozenset(), count)


def _cpu_reply(
    request: CpuRequest,
    eligible: frozenset[int],
    ledger: Ledger,
    policy: Policy | None,
    chosen: frozenset[int],
    count: int,
) -> Reply:
    total, free = len(eligible), eligible - ledger.owned
    ranges = cpulist.format_ranges(chosen)
    match request:
        case AllocateCores():
            return AllocateCoresReply(
                pool=request.pool,
                preemption_policy=policy,
                service_name=request.service_name,
                num_of_cores=count,
                cores_allocated=len(chosen),
                allocated_cores=ranges,
                shared_cpus=cpulist.format_ranges(free),
                total_available_cpus=total,
                remaining_available_cpus=len(free),
            )
        case AllocateCoresPercent():
            return AllocateCoresPercentReply(
                pool=request.pool,
                preemption_policy=policy,
                service_name=request.service_name,
                cores_allocated_count=len(chosen),
                allocated_cores=ranges,
                total_available_cpus=total,
                remaining_available_cpus=len(free),
            )
        case AllocateNumaCores():
            return AllocateNumaCoresReply(
                pool=request.pool,
                preemption_policy=policy,
                service_name=request.service_name,
                numa_node=request.numa_node,
                num_of_cores=count,
                cores_allocated=ranges,
                total_available_cpus=total,
                remaining_available_cpus=len(free),
            )
        case _:
            raise TypeError(f"not a CPU request: {type(request).__name__}")


def listing(pool: Pool, host: Host, ledger: Ledger, rules: Rules) -> ListAllocationsReply:
    """One pool and its owners, offline claims included.

    Raises:
        Refusal: `pool-not-configured`.
    """
    configured = pools.cpus_of(pool, host, rules)
    eligible = configured & host.grantable
    owners = [item for item in ledger.holdings.items() if item[1].pool is pool]
    owners.sort(key=lambda item: item[0])
    claimed = frozenset[int]().union(*(holding.cpus for _, holding in owners))
    allocations = [
        Allocation(
            pool=pool,
            preemption_policy=holding.policy,
            service_name=name,
            allocated_cores=holding.ranges,
            cores_count=len(holding.claims),
            is_explicit=bool(holding.explicit_cpus),
        )
        for name, holding in owners
    ]
    return ListAllocationsReply(
        pool=pool,
        total_allocations=len(allocations),
        total_allocated_cpus=len(claimed),
        total_available_cpus=len(eligible),
        remaining_available_cpus=len(eligible - ledger.owned),
        allocations=allocations,
        cpu_pool=CpuPool(
            source="isolated" if pool is Pool.ISOLATED else "configured",
            configured_cpus=cpulist.format_ranges(configured),
            eligible_cpus=cpulist.format_ranges(eligible),
            unavailable_allocated_cpus=cpulist.format_ranges(claimed - eligible),
        ),
    )


def options(rules: Rules, access: Access) -> OptionsInForce:
    """The options in force, the pool as ranges."""
    general = rules.general
    return OptionsInForce(
        cpu_pool="isolated" if general is None else cpulist.format_ranges(general.cpus),
        small_system_percent=rules.small_system_percent,
        large_system_threshold=rules.large_system_threshold,
        large_system_reserved=rules.large_system_reserved,
        access_uids=sorted(access.uids),
        access_gids=sorted(access.gids),
        owners="snap" if access.owners else None,
    )


def topology_map(host: Host, ledger: Ledger, rules: Rules) -> TopologyReply:
    """The host map with owners: every CPU that is present, isolated or owned."""
    topology = host.topology
    general = rules.general.cpus if rules.general else frozenset[int]()
    package_of = {cpu: core.package for core in topology.cores for cpu in core.cpus}
    cache_of = {cpu: group for group in topology.caches for cpu in group}

    def pool_of(cpu: int) -> Pool | None:
        if cpu in host.isolated:
            return Pool.ISOLATED
        return Pool.GENERAL if cpu in general else None

    def info(cpu: int) -> CpuInfo:
        place = topology.places.get(cpu)
        return CpuInfo(
            cpu=cpu,
            online=cpu in topology.online,
            node=topology.node_of.get(cpu),
            package=package_of.get(cpu),
            core=min(place.core) if place else None,
            cache=cpulist.format_ranges(cache_of.get(cpu, ())),
            pool=pool_of(cpu),
            owners=list(ledger.owners.get(cpu, ())),
        )

    return TopologyReply(
        online=cpulist.format_ranges(topology.online),
        present=cpulist.format_ranges(topology.present),
        isolated=cpulist.format_ranges(host.isolated),
        general=cpulist.format_ranges(general) if rules.general else None,
        nodes=[
            NodeInfo(node=node, cpus=cpulist.format_ranges(cpus))
            for node, cpus in topology.nodes.items()
        ],
        cpus=[info(cpu) for cpu in sorted(topology.present | host.isolated | ledger.owned)],
    )
