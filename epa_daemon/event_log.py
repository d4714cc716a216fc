# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The history in the store: the table `events`, bounded by number and by age."""

import contextlib
import datetime
import sqlite3
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from epa_daemon import history
from epa_daemon.errors import StoreFailed
from epa_daemon.history import Event

KEPT_EVENTS = 10_000
KEPT_DAYS = 366
# Events go at once by so many; every commit would touch more pages for it.
_TRIM_EVERY = 256
# What stands for a snap that is not known; no snap is named so.
_UNKNOWN = "?"


@dataclass(frozen=True)
class Recorded:
    """An event as it was kept.

    Attributes:
        number: later events have larger ones.
        requested_for: "" also for what an older daemon kept, which did not record it.
        snap: "" for none, None for unknown.
    """

    number: int
    at: str
    action: str
    service: str
    subject: str
    before: str
    after: str
    uid: int | None
    pid: int | None
    snap: str | None
    requested_for: str


class EventLog:
    """What is kept in the table `events`."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection
        # Unknown how many an earlier process left: trim with the first events.
        self._untrimmed = _TRIM_EVERY

    def write(self, events: Sequence[Event]) -> None:
        """Add events, within a transaction of the caller's.

        Raises:
            sqlite3.Error: the caller has to roll back.
        """
        self._connection.executemany(
            "INSERT INTO events (at, action, service, subject, before, after, uid, pid, snap, "
            "requested_for) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(event) for event in events],
        )
        self._untrimmed += len(events)
        if self._untrimmed >= _TRIM_EVERY:
            self._untrimmed = 0
            self._connection.execute(
                "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ? OR at < ?",
                (KEPT_EVENTS, _oldest()),
            )

    def remove_last(self, count: int) -> None:
        """Forget the last events, in the transaction that is under way.

        Raises:
            sqlite3.Error: they are still there.
        """
        self._connection.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id DESC LIMIT ?)",
            (count,),
        )

    def read(
        self, limit: int, service: str | None, since: str | None, before: int | None
    ) -> Generator[Recorded]:
        """Events from the newest to the oldest, of one service if asked.

        They are read one by one, so that those that nobody takes cost nothing; close it then.

        Args:
            limit: so many at most.
            service: None for all.
            since: none that happened before this time.
            before: only those with a smaller number.

        Raises:
            StoreFailed: they cannot be read.
        """
        conditions = ["at >= ?", "id > (SELECT max(id) FROM events) - ?"]
        values: list[object] = [max(since or "", _oldest()), KEPT_EVENTS]
        if service is not None:
            conditions.append("service = ?")
            values.append(service)
        if before is not None:
            conditions.append("id < ?")
            values.append(before)
        columns = "id, at, action, service, subject, before, after, uid, pid, snap, requested_for"
        where = " AND ".join(conditions)
        question = f"SELECT {columns} FROM events WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
        try:
            # A question that stays open would keep the log from being folded into the database.
            with contextlib.closing(self._connection.execute(question, (*values, limit))) as rows:
                for row in rows:
                    yield Recorded(*row[:9], snap=_snap(row[9]), requested_for=row[10])
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error


def _oldest() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return history.timestamp(now - datetime.timedelta(days=KEPT_DAYS))


def _snap(kept: str) -> str | None:
    return None if kept == _UNKNOWN else kept


def _row(event: Event) -> tuple[object, ...]:
    cause = event.cause
    uid, pid = (cause.peer.uid, cause.peer.pid) if cause.peer else (None, None)
    snap = _UNKNOWN if cause.snap is None else cause.snap
    what = (cause.action, event.service, event.subject, event.before, event.after)
    return (event.at, *what, uid, pid, snap, cause.requested_for)
