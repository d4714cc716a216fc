# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What is asked of the store itself: its history, a copy of it, whether it is sound.

It is done between two commits, in the thread that makes them.
"""

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from epa_daemon import history, protocol, schema, state_folder
from epa_daemon.errors import Refusal, StoreFailed
from epa_daemon.event_log import Recorded
from epa_daemon.ledger import Ledger
from epa_daemon.protocol import Backup, GetHistory, Verify
from epa_daemon.replies import (
    BackupReply,
    HistoryEvent,
    HistoryReply,
    Problem,
    Reply,
    VerifyReply,
)
from epa_daemon.store import Store

Chore = GetHistory | Backup | Verify

# A page of events is as long as a request may be.
_PAGE_BYTES = protocol.MAX_REQUEST - 1024


def answer(request: Chore, store: Store, state: Path) -> Reply:
    """Answer a request about the store of a state folder.

    Raises:
        Refusal: `store-failed`.
    """
    match request:
        case GetHistory():
            return _history(request, store)
        case Backup():
            return _backup(store, state)
        case Verify():
            return verify(store)


def _history(request: GetHistory, store: Store) -> HistoryReply:
    asked = (request.service_name, request.since, request.before)
    try:
        # One more than asked for tells whether there are more.
        with contextlib.closing(store.log.read(request.limit + 1, *asked)) as found:
            return _page(found, request.limit)
    except StoreFailed as error:
        raise Refusal("store-failed", f"Failed to read the history: {error}") from error


def _page(found: Iterator[Recorded], limit: int) -> HistoryReply:
    page: list[HistoryEvent] = []
    room = _PAGE_BYTES
    for event in found:
        shown = _shown(event)
        room -= len(shown.model_dump_json().encode()) + 1
        if len(page) == limit or (room < 0 and page):
            return HistoryReply(events=page, next=page[-1].id)
        page.append(shown)
    return HistoryReply(events=page, next=None)


def _shown(event: Recorded) -> HistoryEvent:
    what = (event.subject, event.before, event.after)
    difference = history.difference(*what, event.action, event.service, event.requested_for)
    return HistoryEvent(
        id=event.number,
        at=event.at,
        action=event.action,
        service_name=event.service,
        subject=event.subject,
        got=difference.got,
        lost=difference.lost,
        released=difference.released,
        before=event.before,
        after=event.after,
        requested_for=event.requested_for or None,
        uid=event.uid,
        pid=event.pid,
        snap=event.snap,
    )


def _backup(store: Store, state: Path) -> BackupReply:
    """Put a copy beside the store: a caller never names a file that the daemon writes."""
    target = state / state_folder.BACKUP
    new = target.with_name(f"{target.name}.new")
    try:
        store.return_to(state)
        store.back_up(new)
        os.replace(new, target)
        state_folder.sync_folder(state)
        return BackupReply(file=target.name, size=target.stat().st_size)
    except (StoreFailed, OSError) as error:
        raise Refusal("store-failed", f"Failed to make a backup in {state}: {error}") from error


def verify(store: Store) -> VerifyReply:
    """What is wrong with an open store whose ledger was loaded."""
    held = store.committed
    problems = [Problem(code="store-damaged", text=text) for text in store.problems()]
    problems += [unusable(name) for name in sorted(unusable_names(held))]
    return VerifyReply(
        problems=problems,
        schema_version=schema.VERSION,
        services=len(held.services()),
        claimed_cpus=len(held.owned),
    )


def unusable_names(ledger: Ledger) -> frozenset[str]:
    """The services whose names no request can carry; an import may have brought them."""
    return frozenset(name for name in ledger.services() if not protocol.is_service_name(name))


def unusable(name: str) -> Problem:
    """Tell of such a service, and how it is released."""
    quoted = json.dumps(name)
    return Problem(
        code="unusable-name",
        text=f"service {quoted} was imported under a name that no request can carry; to release "
        f"it, stop the daemon and run: epa-orchestrator repair --release {shlex.quote(quoted)}",
    )
