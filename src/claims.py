# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What became of claims between two looks at the daemon. Pure."""

import cpulist
import daemon


def lost(before: daemon.Holdings, after: daemon.Holdings) -> list[str]:
    """In words, what services held before and do not hold any more.

    A service that holds more than before, or others of its pool besides, has lost nothing.
    """
    now = {(claim.service, claim.pool): cpulist.parse(claim.cpus) for claim in after.claims}
    gone: list[str] = []
    for claim in before.claims:
        missing = cpulist.parse(claim.cpus) - now.get((claim.service, claim.pool), frozenset())
        if missing:
            gone.append(f"{claim.service} holds {claim.pool} CPUs {cpulist.ranges(missing)}")
    records = _records(after)
    for (service, node, size), count in _records(before).items():
        if records.get((service, node, size), 0) < count:
            gone.append(f"{service} holds {count} hugepages of {size} kB on node {node}")
    return gone


def _records(holdings: daemon.Holdings) -> dict[tuple[str, int, int], int]:
    return {
        (service, page.node, page.size_kb): count
        for page in holdings.pages
        for service, count in page.holders.items()
    }
