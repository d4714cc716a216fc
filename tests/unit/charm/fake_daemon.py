# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A daemon that answers as the contract says, and fails a test on any request not in it."""

import dataclasses
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import cpulist

Reply = dict[str, Any]

NEW_FEATURES = [
    *("non-preemptive-allocations", "cpu-pools", "topology", "health", "keep-alive"),
    *("reload", "ovs-affinity", "history", "backup", "verify"),
]


@dataclasses.dataclass
class Held:
    cpus: frozenset[int]
    pool: str = "isolated"
    policy: str = "legacy"
    numa: bool = False


@dataclasses.dataclass
class FakeDaemon:
    """A daemon.

    Attributes:
        old: the one deployed before this project's, whose replies have fewer fields.
        features: what it names; there are daemons with pools and without the rest.
        refusals: action -> the sentence with which it is refused.
    """

    old: bool = False
    features: list[str] = dataclasses.field(default_factory=lambda: list(NEW_FEATURES))
    refusals: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    isolated: str = "2-13"
    general: str | None = None
    pages: dict[tuple[int, int], tuple[int, int]] = dataclasses.field(
        default_factory=lambda: {(0, 1048576): (16, 16)}
    )
    held: dict[str, Held] = dataclasses.field(default_factory=dict[str, Held])
    page_records: dict[tuple[str, int, int], int] = dataclasses.field(
        default_factory=dict[tuple[str, int, int], int]
    )
    problems: list[str] = dataclasses.field(default_factory=list[str])
    memory_error: str = ""
    node: int = 0  # The one that all CPUs are of.
    changes: list[str] = dataclasses.field(default_factory=list[str])

    def answer(self, action: str, fields: Reply) -> Reply:
        if self.old:
            assert "pool" not in fields, "today's daemon knows no pools"
            assert action not in ("get_health", "get_topology")
        if action in ("get_health", "get_topology"):
            assert action.removeprefix("get_") in self.features, f"unknown action {action}"
        if action in self.refusals:
            refuse(self.refusals[action], "internal-error")
        return getattr(self, f"_{action}")(**fields)

    def _pool(self, name: str) -> frozenset[int]:
        return cpulist.parse((self.isolated if name == "isolated" else self.general) or "")

    def _free(self, pool: str) -> frozenset[int]:
        taken = frozenset[int]().union(*(held.cpus for held in self.held.values()))
        return self._pool(pool) - taken

    def _list_allocations(self, pool: str = "isolated") -> Reply:
        if pool == "general" and self.general is None:
            refuse("CPU pool general is not configured", "pool-not-configured")
        mine = {name: held for name, held in sorted(self.held.items()) if held.pool == pool}
        reply: Reply = {
            "version": "1.0",
            "total_allocations": len(mine),
            "total_allocated_cpus": sum(len(held.cpus) for held in mine.values()),
            "total_available_cpus": len(self._pool(pool)),
            "remaining_available_cpus": len(self._free(pool)),
            "allocations": [self._entry(name, held) for name, held in mine.items()],
        }
        if not self.old:
            reply |= {"supported_cpu_features": self.features, "pool": pool}
        return reply

    def _entry(self, name: str, held: Held) -> Reply:
        entry: Reply = {
            "service_name": name,
            "allocated_cores": cpulist.format_ranges(held.cpus),
            "cores_count": len(held.cpus),
            "is_explicit": held.numa,
        }
        return entry if self.old else entry | {"pool": held.pool, "preemption_policy": held.policy}

    def _get_memory_info(self, service_name: str) -> Reply:
        assert service_name == ""
        if self.memory_error:
            refuse(self.memory_error, "memory-unreadable")
        nodes: Reply = {}
        for (node, size), (total, free) in self.pages.items():
            content = nodes.setdefault(f"node{node}", {"capacity": [], "allocations": {}})
            content["capacity"].append({"total": total, "free": free, "size": size})
        for (service, node, size), count in self.page_records.items():
            sizes = nodes[f"node{node}"]["allocations"].setdefault(service, {})
            sizes[str(size)] = count
        return {"version": "1.0", "service_name": "", "numa_hugepages": nodes}

    def _get_health(self) -> Reply:
        problems = [{"code": "x", "text": text} for text in self.problems]
        return {
            "version": "1.0",
            "healthy": not problems,
            "daemon_version": "0.1.0",
            "pid": 7,
            "uptime_seconds": 60,
            "problems": problems,
        }

    def _get_topology(self) -> Reply:
        pools = {pool: self._pool(pool) for pool in ("isolated", "general")}
        owned = frozenset[int]().union(*(held.cpus for held in self.held.values()))
        cpus = [
            {
                "cpu": cpu,
                "pool": next((pool for pool, cpus in pools.items() if cpu in cpus), None),
                "owners": [name for name, held in self.held.items() if cpu in held.cpus],
            }
            for cpu in sorted(owned.union(*pools.values()))
        ]
        return {"version": "1.0", "cpus": cpus}

    def _allocate_cores(self, service_name: str, num_of_cores: int, **options: str) -> Reply:
        pool = options.get("pool", "isolated")
        if num_of_cores == -1:
            self.changes.append(f"release {service_name} {pool}")
            self.held.pop(service_name, None)
            cpus = frozenset[int]()
        else:
            cpus = self._take(service_name, num_of_cores, options, numa=False)
        return {
            "cores_allocated": len(cpus),
            "allocated_cores": cpulist.format_ranges(cpus),
            "remaining_available_cpus": len(self._free(pool)),
        }

    def _allocate_cores_percent(self, service_name: str, percent: int, **options: str) -> Reply:
        pool = options.get("pool", "isolated")
        count = -(-len(self._pool(pool)) * percent // 100)
        cpus = self._take(service_name, count, options, numa=False)
        return {
            "cores_allocated_count": len(cpus),
            "allocated_cores": cpulist.format_ranges(cpus),
            "remaining_available_cpus": len(self._free(pool)),
        }

    def _allocate_numa_cores(
        self, service_name: str, numa_node: int, num_of_cores: int, **options: str
    ) -> Reply:
        if numa_node > 1:
            refuse(f"NUMA node {numa_node} does not exist", "no-such-node")
        if num_of_cores == -1:
            self.changes.append(f"release {service_name} node {numa_node}")
            if numa_node == self.node:
                self.held.pop(service_name, None)
            cpus = frozenset[int]()
        else:
            cpus = self._take(service_name, num_of_cores, options, numa=True)
        return {
            "cores_allocated": cpulist.format_ranges(cpus),
            "remaining_available_cpus": len(self._free(options.get("pool", "isolated"))),
        }

    def _take(
        self, service: str, count: int, options: dict[str, str], numa: bool
    ) -> frozenset[int]:
        pool = options.get("pool", "isolated")
        assert set(options) <= {"pool", "preemption_policy"}
        if pool == "general" and self.general is None:
            refuse("CPU pool general is not configured", "pool-not-configured")
        free = sorted(self._free(pool))
        if count > len(free):
            refuse(f"Insufficient CPUs available. Requested: {count}, Available: {len(free)}", "")
        cpus = frozenset(free[:count])
        policy = options.get("preemption_policy", "legacy")
        self.held[service] = Held(cpus, pool, policy, numa)
        self.changes.append(f"allocate {service} {pool} {policy} {cpulist.format_ranges(cpus)}")
        return cpus


def refuse(text: str, code: str) -> None:
    raise epa_client.Refused({"version": "1.0", "error": text, "code": code})
