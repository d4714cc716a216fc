# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What happened: one event for each service that a decision changed. Pure but for the clock."""

import datetime
from dataclasses import dataclass

from epa_daemon import ledger
from epa_daemon.ledger import Holding, Ledger
from epa_daemon.peers import Peer


@dataclass(frozen=True)
class Event:
    """A change of what one service holds.

    Attributes:
        action: the request's action, or `import` or `learn-nodes` for the daemon itself.
        subject: `cpus <pool>` or `hugepages node<N> <size> kB`.
        before: ranges (and "non-preemptive" where that is so) or a count; "" for nothing.
        after: the same, afterwards.
        peer: who asked; None for the daemon itself.
        snap: the peer's snap, "" for none.
    """

    at: str
    action: str
    service: str
    subject: str
    before: str
    after: str
    peer: Peer | None
    snap: str

    def row(self) -> tuple[object, ...]:
        """The columns of the table of events."""
        uid, pid = (self.peer.uid, self.peer.pid) if self.peer else (None, None)
        what = (self.action, self.service, self.subject, self.before, self.after)
        return (self.at, *what, uid, pid, self.snap)

    def __str__(self) -> str:
        by = f" for {self.peer}" if self.peer else ""
        by += f" of snap {self.snap}" if self.snap else ""
        return (
            f"{self.action}{by}: {self.service} holds {self.after or 'nothing'} "
            f"of {self.subject} (before: {self.before or 'nothing'})"
        )


def _described(holding: Holding | None) -> str:
    if holding is None:
        return ""
    return f"{holding.ranges} {holding.policy}" if holding.protected else holding.ranges


def timestamp() -> str:
    """Now, in UTC, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def events(
    action: str, before: Ledger, after: Ledger, peer: Peer | None = None, snap: str = ""
) -> list[Event]:
    """An event for every service that differs between two ledgers."""
    at = timestamp()
    found: list[Event] = []
    for service in ledger.changed_services(before, after):
        old, new = before.holdings.get(service), after.holdings.get(service)
        holding = new or old
        assert holding is not None
        subject = f"cpus {holding.pool}"
        ranges = (_described(old), _described(new))
        found.append(Event(at, action, service, subject, *ranges, peer, snap))
    for key, service in ledger.changed_pages(before, after):
        counts = (before.pages_of(key, service), after.pages_of(key, service))
        subject = f"hugepages node{key[0]} {key[1]} kB"
        texts = (str(counts[0] or ""), str(counts[1] or ""))
        found.append(Event(at, action, service, subject, *texts, peer, snap))
    return found
