# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who holds what: one immutable value for both pools, with its invariants.

A ledger is never changed; every operation returns another one that shares what is the same.
Indexes (who owns a CPU, how many pages are recorded) are carried along, so that an operation
costs what it touches and not what the ledger holds.
"""

import enum
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from epa_daemon import cpulist
from epa_daemon.errors import Refusal

MAX_SERVICES = 4096


class Pool(enum.StrEnum):
    """The two sets of CPUs that are handed out; a service lives in one of them."""

    ISOLATED = "isolated"
    GENERAL = "general"


class Policy(enum.StrEnum):
    """Whether a NUMA request of another service may take a service's non-explicit CPUs."""

    LEGACY = "legacy"
    NON_PREEMPTIVE = "non-preemptive"


@dataclass(frozen=True, slots=True)
class Claim:
    """One service's hold on one CPU.

    Attributes:
        node: NUMA node of the CPU when it was granted; None where the host has no NUMA, or for
            an imported claim whose CPU has not been seen online yet.
        explicit: made by a NUMA request, which nobody may take.
    """

    node: int | None
    explicit: bool


@dataclass(frozen=True)
class Holding:
    """Everything that one service holds in its pool; never without claims."""

    pool: Pool
    policy: Policy
    claims: Mapping[int, Claim]

    @functools.cached_property
    def cpus(self) -> frozenset[int]:
        """The CPUs held, online or not."""
        return frozenset(self.claims)

    @functools.cached_property
    def ranges(self) -> str:
        """The CPUs held, as ranges."""
        return cpulist.format_ranges(self.claims)

    @functools.cached_property
    def explicit_cpus(self) -> frozenset[int]:
        """The CPUs held through NUMA requests."""
        return frozenset(cpu for cpu, claim in self.claims.items() if claim.explicit)

    @property
    def nodeless(self) -> bool:
        """Whether a claim does not know its NUMA node."""
        return any(claim.node is None for claim in self.claims.values())

    @property
    def protected(self) -> bool:
        """Nobody may take any CPU of this service."""
        return self.policy is Policy.NON_PREEMPTIVE

    def without(self, cpus: frozenset[int]) -> "Holding | None":
        """What is left when some CPUs are gone; None for nothing."""
        left = {cpu: claim for cpu, claim in self.claims.items() if cpu not in cpus}
        return replace(self, claims=left) if left else None


PageKey = tuple[int, int]
"""NUMA node and hugepage size in kB."""

_NOTHING: Mapping[str, int] = MappingProxyType({})
_NO_CLAIMS: Mapping[int, Claim] = MappingProxyType({})


@dataclass(frozen=True)
class Ledger:
    """All claims of all services.

    Attributes:
        holdings: service name -> what it holds.
        hugepages: (node, size in kB) -> service name -> recorded pages, always above zero.
        owners: CPU -> names of its owners: one, or several where an imported state said so.
        contested: CPUs with more than one owner.
        nodeless: services with a claim that does not know its NUMA node.
        made_by: service -> the snap that made its claims; absent where no snap did, or nobody
            knows which.
    """

    holdings: Mapping[str, Holding] = field(default_factory=dict[str, Holding])
    hugepages: Mapping[PageKey, Mapping[str, int]] = field(
        default_factory=dict[PageKey, Mapping[str, int]]
    )
    owners: Mapping[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    contested: frozenset[int] = frozenset()
    nodeless: frozenset[str] = frozenset()
    made_by: Mapping[str, str] = field(default_factory=dict[str, str])

    @functools.cached_property
    def owned(self) -> frozenset[int]:
        """CPUs of either pool that somebody holds."""
        return frozenset(self.owners)

    def cpus_of(self, service: str) -> frozenset[int]:
        """The CPUs that a service holds; empty for an unknown one."""
        holding = self.holdings.get(service)
        return holding.cpus if holding else frozenset()

    def claims_of(self, service: str) -> Mapping[int, Claim]:
        """CPU -> claim of a service; empty for an unknown one."""
        holding = self.holdings.get(service)
        return holding.claims if holding else _NO_CLAIMS

    def held_by_others(self, service: str) -> frozenset[int]:
        """CPUs that services other than this one hold, contested ones included."""
        return self.owned - (self.cpus_of(service) - self.contested)

    def pages_of(self, key: PageKey, service: str) -> int:
        """Hugepages recorded for a service under a node and size."""
        return self.hugepages.get(key, _NOTHING).get(service, 0)

    def pages_recorded(self, key: PageKey) -> int:
        """Hugepages recorded for all services under a node and size."""
        return sum(self.hugepages.get(key, _NOTHING).values())

    def services(self) -> frozenset[str]:
        """The services that hold CPUs or have hugepages recorded."""
        return frozenset(self.holdings).union(*self.hugepages.values())

    def holds(self, service: str) -> bool:
        """Whether a service holds CPUs or has hugepages recorded."""
        return service in self.holdings or any(service in r for r in self.hugepages.values())

    def require_room_for(self, service: str) -> None:
        """Check that holding something for this service keeps the number of services in bounds.

        Raises:
            Refusal: `too-many-services`.
        """
        # The sum counts a service twice at times, so only near the bound is counting worth it.
        if len(self.holdings) + sum(map(len, self.hugepages.values())) < MAX_SERVICES:
            return
        names = self.services()
        if service not in names and len(names) >= MAX_SERVICES:
            raise Refusal(
                "too-many-services",
                f"{MAX_SERVICES} services hold allocations already; release one not in use",
            )

    def with_holding(self, service: str, holding: Holding | None) -> "Ledger":
        """This ledger with what one service holds replaced; None for nothing.

        Other services keep theirs, so a CPU may get a second owner: granting takes it from them
        first (`without_cpus`), only the import of an old state does not.
        """
        before = self.cpus_of(service)
        after = holding.cpus if holding else frozenset[int]()
        holdings = dict(self.holdings)
        if holding is None:
            holdings.pop(service, None)
        else:
            holdings[service] = holding
        nodeless = self.nodeless - {service}
        if holding and holding.nodeless:
            nodeless |= {service}
        if before == after:
            return replace(self, holdings=holdings, nodeless=nodeless)
        owners = dict(self.owners)
        for cpu in before - after:
            _set_owners(owners, cpu, tuple(n for n in owners[cpu] if n != service))
        for cpu in after - before:
            _set_owners(owners, cpu, tuple(sorted((*owners.get(cpu, ()), service))))
        changed = self.contested | (before ^ after)
        contested = frozenset(cpu for cpu in changed if len(owners.get(cpu, ())) > 1)
        return replace(
            self, holdings=holdings, owners=owners, contested=contested, nodeless=nodeless
        )

    def without_cpus(self, service: str, cpus: frozenset[int]) -> "Ledger":
        """This ledger with some CPUs of one service given back."""
        holding = self.holdings.get(service)
        if holding is None or not cpus & holding.cpus:
            return self
        return self.with_holding(service, holding.without(cpus))

    def with_pages(self, key: PageKey, service: str, count: int) -> "Ledger":
        """This ledger with a service's record for a node and size set; 0 removes it."""
        records = dict(self.hugepages.get(key, _NOTHING))
        records.pop(service, None)
        if count:
            records[service] = count
        hugepages = dict(self.hugepages)
        hugepages.pop(key, None)
        if records:
            hugepages[key] = records
        return replace(self, hugepages=hugepages)

    def with_maker(self, service: str, snap: str) -> "Ledger":
        """This ledger with the snap that made a service's claims; "" for none."""
        if self.made_by.get(service, "") == snap:
            return self
        made_by = {name: maker for name, maker in self.made_by.items() if name != service}
        return replace(self, made_by=made_by | ({service: snap} if snap else {}))

    def without_idle_makers(self) -> "Ledger":
        """This ledger with those forgotten who made claims of which nothing is left."""
        made_by = {name: snap for name, snap in self.made_by.items() if self.holds(name)}
        return self if len(made_by) == len(self.made_by) else replace(self, made_by=made_by)

    def with_nodes_learned(self, node_of: Mapping[int, int]) -> "Ledger":
        """This ledger with a node for every claim that lacks one and whose CPU has one now."""
        ledger = self
        for service in sorted(self.nodeless) if node_of else ():
            holding = self.holdings[service]
            claims = {
                cpu: replace(claim, node=node_of.get(cpu)) if claim.node is None else claim
                for cpu, claim in holding.claims.items()
            }
            if claims != holding.claims:
                ledger = ledger.with_holding(service, replace(holding, claims=claims))
        return ledger


def _set_owners(owners: dict[int, tuple[str, ...]], cpu: int, names: tuple[str, ...]) -> None:
    if names:
        owners[cpu] = names
    else:
        del owners[cpu]


def build(
    holdings: Mapping[str, Holding],
    hugepages: Iterable[tuple[PageKey, str, int]] = (),
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> Ledger:
    """A ledger from its parts, as the store and the import have them."""
    owners: dict[int, tuple[str, ...]] = {}
    for service in sorted(holdings):
        for cpu in holdings[service].claims:
            owners[cpu] = (*owners.get(cpu, ()), service)
    contested = frozenset(cpu for cpu, names in owners.items() if len(names) > 1)
    records: dict[PageKey, dict[str, int]] = {}
    for key, service, count in hugepages:
        records.setdefault(key, {})[service] = count
    nodeless = frozenset(name for name, holding in holdings.items() if holding.nodeless)
    return Ledger(dict(holdings), records, owners, contested, nodeless, dict(made_by))


def broken_invariants(ledger: Ledger) -> list[str]:
    """What is wrong with a ledger, a sentence each; [] for a sound one.

    Contested CPUs are not broken: an imported state may hold them.
    """
    wrong = [
        f"service {name} holds nothing" for name, h in ledger.holdings.items() if not h.claims
    ]
    wrong += [
        f"service {service} has {count} hugepages of {size} kB recorded on node {node}"
        for (node, size), records in ledger.hugepages.items()
        for service, count in records.items()
        if count <= 0
    ]
    wrong += [
        f"snap {snap} made claims of service {name}, which holds nothing"
        for name, snap in ledger.made_by.items()
        if not ledger.holds(name)
    ]
    indexes = build(ledger.holdings)
    if indexes.owners != ledger.owners or indexes.contested != ledger.contested:
        wrong.append("the owners of CPUs do not match the claims")
    if indexes.nodeless != ledger.nodeless:
        wrong.append("the services without a node do not match the claims")
    return wrong
