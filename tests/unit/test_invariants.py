# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Random requests on random hosts, with the store behind them and restarts in between."""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from epa_daemon import allocator, cpulist, history, hugepages, ledger, opening, reports
from epa_daemon.errors import Refusal
from epa_daemon.host import Host, Memory, Pages
from epa_daemon.ledger import Ledger, Policy, Pool
from epa_daemon.pools import GeneralPool, Rules
from epa_daemon.protocol import (
    AllocateCores,
    AllocateCoresPercent,
    AllocateHugepages,
    AllocateNumaCores,
    CpuRequest,
)
from tests import host_trees

SERVICES = st.sampled_from(["openstack-hypervisor", "ovs-dpdk-datapath", "ceph-osd.0"])
# Weighted so that services meet often: in one pool, under the policy that lets them take.
POOLS = st.sampled_from([Pool.ISOLATED, Pool.ISOLATED, Pool.ISOLATED, Pool.GENERAL])
POLICIES = st.sampled_from([None, None, None, Policy.LEGACY, Policy.NON_PREEMPTIVE])


class Allocations(RuleBasedStateMachine):
    """What must hold after every request, whatever came before."""

    @initialize(
        nodes=st.integers(1, 2),
        cores=st.integers(1, 4),
        threads=st.sampled_from([1, 2, 4]),
        cut=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    )
    def boot(self, nodes: int, cores: int, threads: int, cut: tuple[int, int]) -> None:
        tree = host_trees.regular(nodes=nodes, cores=cores, threads=threads)
        self.cpus = sorted(tree.cpus)
        low, high = sorted(cut)
        self.tree = dataclasses.replace(tree, isolated=frozenset(self.cpus[low:high]))
        general = frozenset(self.cpus[:low]) | frozenset(self.cpus[high:])
        self.general = general
        self.pools = Rules(GeneralPool(general))
        self.offline = frozenset[int]()
        scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(dir=scratch))
        self.store = opening.open_folder(self.folder)
        self.ledger = Ledger()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.store.close()
            shutil.rmtree(self.folder)

    def look(self) -> Host:
        tree = dataclasses.replace(self.tree, offline=self.offline)
        pages = Memory(
            {node: {2048: Pages(8, 8 - node), 1048576: Pages(0, 0)} for node in tree.nodes or {}}
        )
        return Host(tree.online, None, tree.isolated, tree.topology(), pages)

    def commit(self, after: Ledger) -> None:
        self.store.commit(
            self.ledger, after, history.events(history.Cause("test"), self.ledger, after)
        )
        self.ledger = after

    def decide(self, request: CpuRequest) -> dict[str, Any] | None:
        """Decide and commit; None for a refusal."""
        before, seen = self.ledger, self.look()
        try:
            reply, after = allocator.decide(request, seen, before, self.pools)
        except Refusal:
            return None
        self.check_others(request, before, after)
        if after is not before:
            self.commit(after)
        return reply.model_dump(mode="json")

    def check_others(self, request: CpuRequest, before: Ledger, after: Ledger) -> None:
        """Others lose only what a legacy NUMA request may take, and never move."""
        took = after.cpus_of(request.service_name) - before.cpus_of(request.service_name)
        for name, old in before.holdings.items():
            if name == request.service_name:
                continue
            lost = old.cpus - after.cpus_of(name)
            assert after.cpus_of(name) <= old.cpus
            assert lost <= took
            if lost:
                assert isinstance(request, AllocateNumaCores)
                assert not old.protected
                assert not lost & old.explicit_cpus
                assert old.pool is request.pool
                assert after.holdings[request.service_name].policy is Policy.LEGACY

    def check_grant(self, request: CpuRequest, granted: frozenset[int], count: int) -> None:
        seen = self.look()
        pool = seen.isolated if request.pool is Pool.ISOLATED else self.general
        assert len(granted) == count
        assert granted <= pool & seen.grantable
        before = self.ledger
        again = self.decide(request)
        assert again is not None
        assert self.ledger is before, "the same request again must change nothing"

    @rule(service=SERVICES, pool=POOLS, policy=POLICIES, count=st.integers(1, 8))
    def allocate(self, service: str, pool: Pool, policy: Policy | None, count: int) -> None:
        request = AllocateCores(
            service_name=service, pool=pool, preemption_policy=policy, num_of_cores=count
        )
        reply = self.decide(request)
        if reply:
            granted = cpulist.parse(reply["allocated_cores"])
            assert granted == self.ledger.cpus_of(service)
            self.check_grant(request, granted, count)

    @rule(service=SERVICES, pool=POOLS, share=st.integers(1, 100))
    def allocate_share(self, service: str, pool: Pool, share: int) -> None:
        request = AllocateCoresPercent(service_name=service, pool=pool, percent=share)
        reply = self.decide(request)
        if reply:
            granted = cpulist.parse(reply["allocated_cores"])
            self.check_grant(request, granted, -(-reply["total_available_cpus"] * share // 100))

    @rule(
        service=SERVICES,
        pool=POOLS,
        policy=POLICIES,
        node=st.sampled_from([0, 0, 1, 2]),
        count=st.integers(1, 4),
    )
    def allocate_in_node(
        self, service: str, pool: Pool, policy: Policy | None, node: int, count: int
    ) -> None:
        before = self.ledger
        request = AllocateNumaCores(
            service_name=service,
            pool=pool,
            preemption_policy=policy,
            numa_node=node,
            num_of_cores=count,
        )
        reply = self.decide(request)
        if reply:
            granted = cpulist.parse(reply["cores_allocated"])
            here = self.look().topology.nodes[node]
            assert granted <= here
            elsewhere = before.cpus_of(service) - here
            assert self.ledger.cpus_of(service) == granted | elsewhere
            self.check_grant(request, granted, count)

    @rule(service=SERVICES, node=st.integers(0, 1))
    def want_a_whole_node(self, service: str, node: int) -> None:
        """What must not be taken is in the way of this one more often than of others."""
        seen = self.look()
        here = seen.topology.nodes.get(node, frozenset()) & seen.isolated
        if here:
            self.allocate_in_node(service, Pool.ISOLATED, None, node, len(here))

    @rule(service=SERVICES, pool=POOLS)
    def release(self, service: str, pool: Pool) -> None:
        before = self.ledger.holdings.get(service)
        reply = self.decide(AllocateCores(service_name=service, pool=pool, num_of_cores=-1))
        assert (reply is None) == (before is not None and before.pool is not pool)
        if reply:
            assert not self.ledger.cpus_of(service)

    @rule(service=SERVICES, pool=POOLS, node=st.integers(0, 2))
    def release_in_node(self, service: str, pool: Pool, node: int) -> None:
        before = self.ledger.claims_of(service)
        reply = self.decide(
            AllocateNumaCores(service_name=service, pool=pool, numa_node=node, num_of_cores=-1)
        )
        if reply:
            kept = {cpu for cpu, claim in before.items() if claim.node != node}
            assert self.ledger.cpus_of(service) == kept

    @rule(
        service=SERVICES,
        node=st.integers(0, 3),
        size=st.sampled_from([2048, 1048576, 4]),
        count=st.integers(-1, 10),
    )
    def hugepages(self, service: str, node: int, size: int, count: int) -> None:
        request = AllocateHugepages(
            service_name=service, node_id=node, size_kb=size, hugepages_requested=count
        )
        try:
            _, after = hugepages.decide(request, self.look(), self.ledger)
        except Refusal:
            return
        assert after.pages_of((node, size), service) == max(count, 0)
        assert after.holdings is self.ledger.holdings
        if after is not self.ledger:
            self.commit(after)

    @rule(data=st.data())
    def hotplug(self, data: st.DataObject) -> None:
        self.offline = data.draw(st.frozensets(st.sampled_from(self.cpus), max_size=3))

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = opening.open_folder(self.folder)
        assert self.store.load() == self.ledger

    @precondition(lambda self: len(self.ledger.holdings) > 1)
    @rule()
    def give_everything_back(self) -> None:
        for service, held in list(self.ledger.holdings.items()):
            self.decide(AllocateCores(service_name=service, pool=held.pool, num_of_cores=-1))
        assert not self.ledger.owned

    @invariant()
    def no_cpu_has_two_owners(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert ledger.broken_invariants(self.ledger) == []
        assert self.ledger.contested == frozenset()

    @invariant()
    def listings_say_what_the_ledger_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        shown: dict[str, frozenset[int]] = {}
        for pool in Pool:
            listing = reports.listing(pool, self.look(), self.ledger, self.pools)
            shown |= {
                a.service_name: cpulist.parse(a.allocated_cores) for a in listing.allocations
            }
            assert listing.total_allocations == len(listing.allocations)
            assert listing.total_allocated_cpus == sum(a.cores_count for a in listing.allocations)
            assert 0 <= listing.remaining_available_cpus <= listing.total_available_cpus
        assert shown == {name: held.cpus for name, held in self.ledger.holdings.items()}


TestAllocations = cast("Any", Allocations).TestCase
TestAllocations.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
