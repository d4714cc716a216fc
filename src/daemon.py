# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the daemon says of itself, today's and older ones alike, as values."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Generator, Mapping
from typing import Any

from charms.epa_orchestrator.v0 import epa_client
from opentelemetry import trace

import cpulist
import errors
import patience

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

ISOLATED = "isolated"
HISTORY = "history"
GENERAL = "general"
OVS_AFFINITY = "ovs-affinity"

# A crashed daemon is back after two seconds; a new one may take over an old state first.
ANSWER_SECONDS = 10.0
START_SECONDS = 30.0
_STEP_SECONDS = 10.0
_POLL_SECONDS = 0.5
# Older daemons send the sentence alone.
_NO_POOL = ("pool-not-configured", "CPU pool general is not configured")


@dataclasses.dataclass(frozen=True)
class Claim:
    """What one service holds of one pool."""

    service: str
    pool: str
    cpus: str
    count: int
    policy: str
    numa: bool


@dataclasses.dataclass(frozen=True)
class Pool:
    """How many CPUs of a pool are held, of how many."""

    held: int
    total: int
    free: int


@dataclasses.dataclass(frozen=True)
class Pages:
    """Hugepages of one size on one node, and who they are recorded for."""

    node: int
    size_kb: int
    total: int
    free: int
    holders: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Holdings:
    """Everything that the daemon has handed out.

    Attributes:
        pools: pool -> numbers; without `general` where none is configured.
        pages_problem: why the hugepages could not be told; "" if they could.
    """

    features: frozenset[str]
    pools: Mapping[str, Pool]
    claims: tuple[Claim, ...]
    pages: tuple[Pages, ...]
    pages_problem: str = ""

    @property
    def newer(self) -> bool:
        """Whether this is this project's daemon and not the one deployed before it."""
        return "health" in self.features

    def owners(self, pool: str) -> list[str]:
        """Who holds CPUs of a pool."""
        return [claim.service for claim in self.claims if claim.pool == pool]

    @property
    def sentences(self) -> list[str]:
        """Each claim in words, hugepages included; equal ones mean that nothing was lost."""
        cpus = [f"{claim.service} holds {claim.pool} CPUs {claim.cpus}" for claim in self.claims]
        pages = [
            f"{service} holds {count} hugepages of {page.size_kb} kB on node {page.node}"
            for page in self.pages
            for service, count in page.holders.items()
        ]
        return cpus + pages


class _Traced(epa_client.EpaClient):
    def request(self, action: str, **fields: Any) -> dict[str, Any]:
        with tracer.start_as_current_span(f"daemon {action}"):
            return super().request(action, **fields)


def client() -> epa_client.EpaClient:
    """A client with a limit for each step, so that no hook waits for ever."""
    return _Traced(timeout=_STEP_SECONDS)


@contextlib.contextmanager
def asked() -> Generator[None]:
    """Take every way of not answering, and every odd answer, as silence.

    Raises:
        errors.DaemonSilent: there was no answer to work with.
    """
    try:
        yield
    except (epa_client.NotRunning, epa_client.NoReply, epa_client.NotPermitted) as error:
        raise errors.DaemonSilent(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.DaemonSilent(f"the daemon's reply makes no sense: {error!r}") from error


@contextlib.contextmanager
def listed() -> Generator[None]:
    """As `asked`, for what a daemon never refuses unless something is wrong with itself.

    Raises:
        errors.DaemonSilent: there was no answer to work with.
        errors.NeedsOperator: it refuses.
    """
    try:
        with asked():
            yield
    except epa_client.Refused as error:
        raise errors.NeedsOperator(f"the daemon refuses: {error.text}") from error


def look() -> Holdings:
    """Ask for both pools and the hugepages.

    Raises:
        errors.DaemonSilent: no answer.
        errors.NeedsOperator: the daemon refuses to list what is held.
    """
    with tracer.start_as_current_span("daemon look"), listed():
        ask = client()
        listings = [ask.list_allocations()]
        features = frozenset[str](listings[0].get("supported_cpu_features") or ())
        left_over: list[Claim] = []
        if "cpu-pools" in features:
            try:
                listings.append(ask.list_allocations(pool=GENERAL))
            except epa_client.Refused as error:
                if error.code not in _NO_POOL and error.text not in _NO_POOL:
                    raise
                if "topology" in features:
                    left_over = _without_a_pool(ask.get_topology(), listings[0])
        pages, problem = _pages(ask)
        pools = {str(listing.get("pool", ISOLATED)): _pool(listing) for listing in listings}
        listed_claims = [_claim(entry) for found in listings for entry in found["allocations"]]
        return Holdings(features, pools, (*listed_claims, *left_over), pages, problem)


def wait(seconds: float) -> Holdings:
    """Ask until there is an answer.

    Raises:
        errors.DaemonSilent: none in this time.
        errors.NeedsOperator: the daemon refuses to list what is held.
    """
    deadline = time.monotonic() + patience.left(seconds)
    while True:
        try:
            return look()
        except errors.DaemonSilent:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_SECONDS)


def problems(holdings: Holdings) -> list[str]:
    """What the daemon itself finds wrong; an older one cannot say.

    Raises:
        errors.DaemonSilent: no answer.
        errors.NeedsOperator: it refuses.
    """
    if not holdings.newer:
        return []
    with listed():
        return [str(problem["text"]) for problem in client().get_health()["problems"]]


def _pool(listing: Mapping[str, Any]) -> Pool:
    return Pool(
        held=int(listing["total_allocated_cpus"]),
        total=int(listing["total_available_cpus"]),
        free=int(listing["remaining_available_cpus"]),
    )


def _claim(entry: Mapping[str, Any]) -> Claim:
    return Claim(
        service=str(entry["service_name"]),
        pool=str(entry.get("pool") or ISOLATED),
        cpus=str(entry["allocated_cores"]),
        count=int(entry["cores_count"]),
        policy=str(entry.get("preemption_policy") or "legacy"),
        numa=bool(entry.get("is_explicit")),
    )


def _without_a_pool(topology: Mapping[str, Any], isolated: Mapping[str, Any]) -> list[Claim]:
    """General claims that no listing shows, because their pool is configured no longer."""
    known = {str(entry["service_name"]) for entry in isolated["allocations"]}
    held: dict[str, set[int]] = {}
    for cpu in topology["cpus"]:
        if cpu["pool"] != ISOLATED:
            for owner in cpu["owners"]:
                held.setdefault(str(owner), set()).add(int(cpu["cpu"]))
    return [
        Claim(owner, GENERAL, cpulist.ranges(cpus), len(cpus), "-", numa=False)
        for owner, cpus in sorted(held.items())
        if owner not in known
    ]


def _pages(ask: epa_client.EpaClient) -> tuple[tuple[Pages, ...], str]:
    try:
        nodes: Mapping[str, Any] = ask.get_memory_info()["numa_hugepages"] or {}
    except epa_client.Refused as error:
        return (), error.text
    found: list[Pages] = []
    for node, content in nodes.items():
        number = int(node.removeprefix("node"))
        counts = {int(count["size"]): count for count in content["capacity"]}
        held: dict[int, dict[str, int]] = {size: {} for size in counts}
        for service, sizes in content["allocations"].items():
            for size, count in sizes.items():
                held.setdefault(int(size), {})[str(service)] = int(count)
        for size, holders in sorted(held.items()):
            count = counts.get(size, {"total": 0, "free": 0})
            found.append(Pages(number, size, int(count["total"]), int(count["free"]), holders))
    return tuple(found), ""
