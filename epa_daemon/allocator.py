# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Decide a CPU request: the order of checks of the contract's part 4, in one place. Pure.

The numbers in comments are the steps of that part; the request models stand for step 1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from epa_daemon import cpulist, placement, pools, reports
from epa_daemon.errors import Refusal
from epa_daemon.host import Host
from epa_daemon.ledger import Claim, Holding, Ledger, Policy, Pool
from epa_daemon.pools import Rules
from epa_daemon.protocol import (
    AllocateCores,
    AllocateCoresPercent,
    AllocateNumaCores,
    CpuRequest,
)
from epa_daemon.replies import Reply
from epa_daemon.sysfs import Fault


@dataclass(frozen=True)
class Case:
    """One request with all that decides it; sets of CPU ids unless said otherwise.

    Attributes:
        configured: the pool, online or not.
        eligible: the pool's online CPUs.
        blocked: CPUs that services other than this one hold, in either pool.
        holding: what the service holds, None for nothing.
        spared: services from which this request may take nothing, whatever their policy.
    """

    request: CpuRequest
    host: Host
    ledger: Ledger
    rules: Rules
    configured: frozenset[int]
    eligible: frozenset[int]
    blocked: frozenset[int]
    holding: Holding | None
    spared: frozenset[str] = frozenset()

    @property
    def own(self) -> frozenset[int]:
        """CPUs that the service holds."""
        return self.ledger.cpus_of(self.request.service_name)

    @property
    def available(self) -> frozenset[int]:
        """Eligible CPUs that the service may have without taking any: its own and free ones."""
        return self.eligible - self.blocked | self.eligible & self.own

    @property
    def policy(self) -> Policy:
        """The policy in force if the request succeeds."""
        inherited = self.holding.policy if self.holding else Policy.LEGACY
        return self.request.preemption_policy or inherited


def decide(
    request: CpuRequest,
    host: Host,
    ledger: Ledger,
    rules: Rules,
    spared: frozenset[str] = frozenset(),
) -> tuple[Reply, Ledger]:
    """Answer a CPU request; it takes nothing from the services that are to be spared.

    Returns:
        The reply, and the ledger as it is once the reply may be sent.

    Raises:
        Refusal: the request is refused and nothing changes.
    """
    configured = pools.cpus_of(request.pool, host, rules)  # 2
    release = _is_release(request)
    if host.online_fault and not release:  # 3
        _refuse_unread(host)
    if isinstance(request, AllocateNumaCores) and request.num_of_cores == 0:  # 4
        raise Refusal("invalid-count", "num_of_cores=0 is invalid for allocate_numa_cores")
    holding = ledger.holdings.get(request.service_name)
    if holding and holding.pool is not request.pool:  # 5
        raise Refusal(
            "wrong-pool",
            f"Service {request.service_name} owns CPUs in pool {holding.pool}; "
            "release that allocation in its pool before switching pools",
        )
    if isinstance(request, AllocateNumaCores):  # 6
        _check_node(request.numa_node, host, release)
    eligible = configured & host.grantable
    blocked = ledger.held_by_others(request.service_name)
    case = Case(request, host, ledger, rules, configured, eligible, blocked, holding, spared)
    return _release(case) if release else _grant(case)  # 7


def _is_release(request: CpuRequest) -> bool:
    match request:
        case AllocateCoresPercent():
            return request.percent <= 0
        case AllocateCores() | AllocateNumaCores():
            return request.num_of_cores == -1
        case _:
            raise TypeError(f"not a CPU request: {type(request).__name__}")


def _refuse_unread(host: Host) -> None:
    fault = host.online_fault
    assert fault is not None
    if fault.kind == "malformed":
        raise Refusal("host-unreadable", fault.reason, fault.path)
    raise _unreadable(fault)


def _unreadable(fault: Fault) -> Refusal:
    text = f"Failed to read CPU topology {fault.path}: {fault.reason}"
    return Refusal("host-unreadable", text, fault.path)


def _check_node(node: int, host: Host, release: bool) -> None:
    if not host.topology.nodes:
        raise Refusal("no-numa", "NUMA topology not available")
    if node not in host.topology.nodes:
        raise Refusal("no-such-node", f"NUMA node {node} does not exist")
    fault = host.topology.broken_nodes.get(node)
    if fault and not release:
        raise _unreadable(fault)


def _release(case: Case) -> tuple[Reply, Ledger]:
    request = case.request
    gone = case.own
    if isinstance(request, AllocateNumaCores):
        gone = _own_in_node(case, request.numa_node)
    ledger = case.ledger.without_cpus(request.service_name, gone)
    left = ledger.holdings.get(request.service_name)
    policy = left.policy if left else None
    return reports.released(case.request, case.eligible, ledger, policy), ledger


def _own_in_node(case: Case, node: int) -> frozenset[int]:
    """Own CPUs claimed on a node; a claim without a memory of it counts where its CPU is now."""
    claims = case.ledger.claims_of(case.request.service_name)
    node_of = case.host.topology.node_of
    return frozenset(
        cpu
        for cpu, claim in claims.items()
        if (node_of.get(cpu) if claim.node is None else claim.node) == node
    )


def _grant(case: Case) -> tuple[Reply, Ledger]:
    _check_pool(case)
    if isinstance(case.request, AllocateNumaCores):
        _check_node_capacity(case, case.request)
    _check_policy(case)
    if isinstance(case.request, AllocateNumaCores):
        chosen, kept = _choose_in_node(case, case.request)
    else:
        chosen, kept = _choose_in_pool(case), dict[int, Claim]()
    case.ledger.require_room_for(case.request.service_name)
    ledger = _granted(case, chosen, kept)
    return reports.granted(case.request, case.eligible, ledger, case.policy, chosen), ledger


def _check_pool(case: Case) -> None:
    pool = case.request.pool
    outside = frozenset(
        cpu
        for cpu in case.ledger.owned - case.configured
        if any(case.ledger.holdings[name].pool is pool for name in case.ledger.owners[cpu])
    )
    if outside:  # 8
        ranges = cpulist.format_ranges(outside)
        raise Refusal("pool-excludes-claims", pools.EXCLUDES.format(ranges=ranges))
    if not case.eligible:  # 9
        why = "No CPUs available"
        if pool is Pool.ISOLATED:
            why += ": No Isolated CPUs configured"
        raise Refusal("no-cpus", why)


def _check_node_capacity(case: Case, request: AllocateNumaCores) -> None:  # 10
    node, wanted = request.numa_node, request.num_of_cores
    capacity = len(case.eligible & case.host.topology.nodes[node])
    if not capacity:
        raise Refusal("no-cpus-in-node", f"No eligible CPUs available in NUMA node {node}")
    if wanted > capacity:
        raise Refusal(
            "node-too-small",
            f"NUMA node {node} only has {capacity} eligible CPUs, but {wanted} were requested",
        )
    if wanted < -1:
        raise Refusal("invalid-count", "Invalid NUMA core count")


def _check_policy(case: Case) -> None:
    if case.holding is None:
        return
    if case.holding.protected and case.request.preemption_policy is Policy.LEGACY:  # 11
        raise Refusal(
            "policy-downgrade", "Fully release protected claims before selecting legacy policy"
        )
    if case.own - case.eligible:  # 12
        raise Refusal(
            "claims-outside-pool",
            "Existing claims are outside the eligible CPU pool; "
            "explicitly release before replacing",
        )


def _choose_in_pool(case: Case) -> frozenset[int]:
    available = case.available
    count = _wanted(case, len(available))
    _check_contested(case, count > len(case.own))
    if count > len(available):  # 13
        raise Refusal(
            "insufficient-cpus",
            f"Insufficient CPUs available. Requested: {count}, Available: {len(available)}",
        )
    if count == 0:
        raise Refusal("nothing-selected", f"Failed to allocate {count} cores")
    free = available - case.own
    return placement.place(count, case.own, free, {}, case.blocked, case.host.topology)


def _wanted(case: Case, candidates: int) -> int:
    request, rules = case.request, case.rules
    if isinstance(request, AllocateCoresPercent):
        return math.ceil(len(case.eligible) * request.percent / 100)
    assert isinstance(request, AllocateCores)
    if request.num_of_cores > 0:
        return request.num_of_cores
    if candidates > rules.large_system_threshold:
        return max(candidates - rules.large_system_reserved, 0)
    return candidates * rules.small_system_percent // 100


def _choose_in_node(
    case: Case, request: AllocateNumaCores
) -> tuple[frozenset[int], Mapping[int, Claim]]:
    """The CPUs to hold in the node, and the claims in other nodes that stay."""
    count = request.num_of_cores
    in_node = case.eligible & case.host.topology.nodes[request.numa_node]
    replaced = _own_in_node(case, request.numa_node)
    _check_contested(case, count > len(replaced))
    available = case.available & in_node
    takeable = _takeable(case, in_node) if case.policy is Policy.LEGACY else {}
    reachable = available.union(*takeable.values())
    if count > len(reachable):  # 13
        _check_spared(case, in_node, reachable)
        ranges = cpulist.format_ranges(in_node - reachable)
        raise Refusal(
            "held-by-others",
            f"Failed to allocate {count} cores from NUMA node {request.numa_node}. CPUs {ranges} "
            "are held by other services through an explicit NUMA or non-preemptive claim.",
        )
    own = case.own & in_node
    free = available - own
    chosen = placement.place(count, own, free, takeable, case.blocked, case.host.topology)
    claims = case.ledger.claims_of(case.request.service_name)
    kept = {cpu: claim for cpu, claim in claims.items() if cpu not in replaced | in_node}
    return chosen, kept


def _takeable(case: Case, in_node: frozenset[int]) -> dict[str, frozenset[int]]:
    """Service -> CPUs of the node that a legacy NUMA request may take from it."""
    takeable: dict[str, set[int]] = {}
    ledger = case.ledger
    for cpu in (in_node & case.blocked) - ledger.contested:
        (name,) = ledger.owners[cpu]
        holding = ledger.holdings[name]
        open_to_all = holding.pool is case.request.pool and not holding.protected
        if name not in case.spared and open_to_all and not holding.claims[cpu].explicit:
            takeable.setdefault(name, set()).add(cpu)
    return {name: frozenset(cpus) for name, cpus in sorted(takeable.items())}


def _check_spared(case: Case, in_node: frozenset[int], reachable: frozenset[int]) -> None:
    """Name the snaps whose claims are in the way."""
    names = {name for cpu in in_node - reachable for name in case.ledger.owners[cpu]} & case.spared
    if names and case.policy is Policy.LEGACY:
        snaps = sorted({case.ledger.made_by[name] for name in names})
        raise Refusal(
            "not-permitted",
            f"Failed to allocate {case.request.service_name} CPUs that snap "
            f"{' and '.join(snaps)} holds for {' and '.join(sorted(names))}; "
            "policy.owners=snap keeps others from taking them",
        )


def _check_contested(case: Case, grows: bool) -> None:
    """Two owners of one CPU (an imported state said so) both keep it, and neither grows."""
    contested = case.own & case.ledger.contested
    if grows and contested:
        owners = sorted({n for cpu in contested for n in case.ledger.owners[cpu]})
        raise Refusal(
            "contested",
            f"CPUs {cpulist.format_ranges(contested)} are held by {' and '.join(owners)} at once "
            "(imported so); release one of them before asking for more",
        )


def _granted(case: Case, chosen: frozenset[int], kept: Mapping[int, Claim]) -> Ledger:
    explicit = isinstance(case.request, AllocateNumaCores)
    node_of = case.host.topology.node_of
    ledger = case.ledger
    for cpu in sorted(chosen & case.blocked - case.own):
        for loser in ledger.owners[cpu]:
            ledger = ledger.without_cpus(loser, frozenset({cpu}))
    claims = {cpu: Claim(node_of.get(cpu), explicit) for cpu in sorted(chosen)}
    holding = Holding(case.request.pool, case.policy, {**kept, **claims})
    if case.holding == holding:
        return ledger
    return ledger.with_holding(case.request.service_name, holding)
