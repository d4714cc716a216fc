# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Text for people. Pure."""

from collections.abc import Iterable, Sequence

import daemon
import status


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their longest cell."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "\n".join(lines)


def allocations(claims: Sequence[daemon.Claim]) -> str:
    """A line for each claim."""
    if not claims:
        return "nobody holds CPUs"
    return table(
        ("SERVICE", "POOL", "CPUS", "COUNT", "POLICY", "CLAIM"),
        [
            (c.service, c.pool, c.cpus, c.count, c.policy, "NUMA" if c.numa else "count")
            for c in claims
        ],
    )


def hugepages(pages: Sequence[daemon.Pages]) -> str:
    """A line for each node and size."""
    if not pages:
        return "no hugepages on this host"
    rows = [
        (
            page.node,
            status.page_size(page.size_kb),
            page.total,
            page.free,
            ", ".join(f"{name} {number}" for name, number in page.holders.items()) or "-",
        )
        for page in pages
    ]
    return table(("NODE", "SIZE", "TOTAL", "FREE", "HELD BY"), rows)
