# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What happened: one event for each service that a decision changed. Pure but for the clock."""

import datetime
import re
from dataclasses import dataclass

from epa_daemon import cpulist, ledger_changes
from epa_daemon.ledger import Holding, Ledger
from epa_daemon.peers import Peer

_AGE = re.compile(r"\s*([0-9]{1,6})\s*([smhdw])\s*", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_CPUS = "cpus "


@dataclass(frozen=True)
class Cause:
    """Why something changed.

    Attributes:
        action: the request's action; `import`, `learn-nodes`, `restore` or `repair` without one.
        requested_for: the service that the request named; "" without a request.
        peer: who asked; None for nobody.
        snap: the peer's snap, "" for none, None for unknown.
    """

    action: str
    requested_for: str = ""
    peer: Peer | None = None
    snap: str | None = ""


@dataclass(frozen=True)
class Event:
    """A change of what one service holds.

    Attributes:
        subject: `cpus <pool>` or `hugepages node<N> <size> kB`.
        before: ranges (and "non-preemptive" where that is so) or a count; "" for nothing.
        after: the same, afterwards.
    """

    at: str
    cause: Cause
    service: str
    subject: str
    before: str
    after: str

    def __str__(self) -> str:
        cause = self.cause
        by = f" for {cause.peer}" if cause.peer else ""
        by += f" of snap {cause.snap}" if cause.snap else ""
        by += f" in the name of {cause.requested_for}" if self._taken else ""
        return (
            f"{cause.action}{by}: {self.service} holds {self.after or 'nothing'} "
            f"of {self.subject} (before: {self.before or 'nothing'})"
        )

    @property
    def _taken(self) -> bool:
        return self.cause.requested_for not in ("", self.service)


@dataclass(frozen=True)
class Difference:
    """What an event comes to for its service: ranges of CPUs, or numbers of pages; "" for none.

    Attributes:
        lost: what went without the service's own request.
    """

    got: str
    lost: str
    released: str


def difference(
    subject: str, before: str, after: str, action: str, service: str, requested_for: str
) -> Difference:
    """Read an event as what its service got, lost and released.

    An event that was kept by an older daemon does not say in whose name it was requested; what
    went with it counts as released.
    """
    if subject.startswith(_CPUS):
        old, new = _cpus_in(before), _cpus_in(after)
        got, gone = cpulist.format_ranges(new - old), cpulist.format_ranges(old - new)
    else:
        pages = int(after or 0) - int(before or 0)
        got, gone = str(max(pages, 0) or ""), str(max(-pages, 0) or "")
    others = requested_for not in ("", service) or action in ("import", "restore")
    return Difference(got, gone if others else "", "" if others else gone)


def _cpus_in(described: str) -> frozenset[int]:
    return cpulist.parse(described.split()[0]) if described else frozenset()


def _described(holding: Holding | None) -> str:
    if holding is None:
        return ""
    return f"{holding.ranges} {holding.policy}" if holding.protected else holding.ranges


def timestamp(at: datetime.datetime | None = None) -> str:
    """A time, by default now, in UTC, as ISO 8601; later ones sort after earlier ones."""
    moment = at or datetime.datetime.now(datetime.UTC)
    return moment.astimezone(datetime.UTC).isoformat(timespec="milliseconds")


def moment(text: str) -> str:
    """A time that somebody wrote, ISO 8601 (UTC unless it says otherwise), as `timestamp` does.

    Raises:
        ValueError: it is not such a time.
    """
    try:
        at = datetime.datetime.fromisoformat(text.strip())
        return timestamp(at if at.tzinfo else at.replace(tzinfo=datetime.UTC))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"'{text}' is not a time such as 2026-01-31T12:00") from error


def since(text: str, now: datetime.datetime) -> str:
    """A time, or an age such as `2h` (units s, m, h, d, w), as `timestamp` does.

    Raises:
        ValueError: it is neither.
    """
    age = _AGE.fullmatch(text)
    if not age:
        try:
            return moment(text)
        except ValueError as error:
            raise ValueError(f"{error}, or an age such as 2h or 3d") from error
    seconds = int(age[1]) * _UNITS[age[2]]
    try:
        return timestamp(now - datetime.timedelta(seconds=seconds))
    except OverflowError as error:
        raise ValueError(f"'{text}' is too long ago") from error


def events(cause: Cause, before: Ledger, after: Ledger) -> list[Event]:
    """An event for every service that differs between two ledgers."""
    at = timestamp()
    found: list[Event] = []
    for service in ledger_changes.services(before, after):
        old, new = before.holdings.get(service), after.holdings.get(service)
        if old == new:
            continue
        holding = new or old
        assert holding is not None
        ranges = (_described(old), _described(new))
        found.append(Event(at, cause, service, f"{_CPUS}{holding.pool}", *ranges))
    for key, service in ledger_changes.pages(before, after):
        counts = (before.pages_of(key, service), after.pages_of(key, service))
        subject = f"hugepages node{key[0]} {key[1]} kB"
        texts = (str(counts[0] or ""), str(counts[1] or ""))
        found.append(Event(at, cause, service, subject, *texts))
    return found
