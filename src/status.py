# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From what was found to the status that people see. Pure."""

import dataclasses

import ops

import daemon

_LONGEST = 160


@dataclasses.dataclass(frozen=True)
class Report:
    """The end of a look at the machine.

    Attributes:
        blocked: what an operator has to mend, the most important first.
        waiting: what heals itself.
        holdings: what is handed out; None if the daemon was not asked or did not answer.
    """

    blocked: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    holdings: daemon.Holdings | None = None


def status(report: Report) -> ops.StatusBase:
    """One status: trouble first, and never `active` without an answer from the daemon."""
    if report.blocked:
        return ops.BlockedStatus(_first(report.blocked))
    if report.waiting:
        return ops.WaitingStatus(_first(report.waiting))
    if report.holdings is None:
        return ops.WaitingStatus("waiting for the daemon to answer")
    return ops.ActiveStatus(allocation_state(report.holdings))


def allocation_state(holdings: daemon.Holdings) -> str:
    """Who has how much, short; it changes only when somebody takes or releases something."""
    parts = [_isolated(holdings)]
    general = holdings.pools.get(daemon.GENERAL)
    if general is not None:
        parts.append(f"general pool {general.held}/{general.total}")
    totals: dict[int, tuple[int, int]] = {}
    for pages in holdings.pages:
        held, total = totals.get(pages.size_kb, (0, 0))
        totals[pages.size_kb] = (held + sum(pages.holders.values()), total + pages.total)
    for size, (held, total) in sorted(totals.items(), reverse=True):
        if held or total:
            parts.append(f"{page_size(size)} pages {held}/{total}")
    return ", ".join(parts)


def page_size(kilobytes: int) -> str:
    """1G, 2M, 64K."""
    for unit, factor in (("G", 1 << 20), ("M", 1 << 10)):
        if kilobytes % factor == 0:
            return f"{kilobytes // factor}{unit}"
    return f"{kilobytes}K"


def _isolated(holdings: daemon.Holdings) -> str:
    pool = holdings.pools[daemon.ISOLATED]
    owners = len(set(holdings.owners(daemon.ISOLATED)))
    if not pool.total and not pool.held:
        return "no isolated CPUs"
    if not owners:
        return f"0/{pool.total} CPUs held"
    return f"{pool.held}/{pool.total} CPUs held by {count(owners, 'service')}"


def count(number: int, thing: str) -> str:
    """`1 service`, `2 services`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _first(texts: tuple[str, ...]) -> str:
    text = " ".join(texts[0].split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 3]}..."
    return f"{text} (+{len(texts) - 1} more)" if len(texts) > 1 else text
