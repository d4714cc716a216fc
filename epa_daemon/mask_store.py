# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The masks that Open vSwitch's threads had before the daemon changed them, in the store.

They outlive the daemon, so that one that was killed knows after its restart what to put back.
They do not outlive the boot in which they were found: thread numbers start anew with it.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from epa_daemon import cpulist
from epa_daemon.affinity import Key
from epa_daemon.errors import StoreFailed

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Rows = list[tuple[int, int, int, str]]
Masks = Mapping[Key, frozenset[int]]


def boot() -> str:
    """Names this boot of the host (random(4))."""
    return _BOOT_ID.read_text().strip()


class MaskStore:
    """What is kept in the tables `found_masks` and `changed_masks_since`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[None]],
    ):
        """`transaction` makes durable what is written within, as `Store.commit` does."""
        self._connection = connection
        self._transaction = transaction

    def load(self) -> Masks | None:
        """What was found when this boot's masks were first changed; None if they are unchanged.

        Raises:
            StoreFailed: it cannot be read.
        """
        try:
            since = self._connection.execute("SELECT boot FROM changed_masks_since").fetchone()
            if since is None or since != (boot(),):
                return None
            rows = self._connection.execute("SELECT tid, start, mask FROM found_masks")
            return {(tid, start): cpulist.parse(mask) for tid, start, mask in rows}
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StoreFailed(str(error)) from error

    def keep(self, masks: Mapping[tuple[int, Key], frozenset[int]]) -> None:
        """Make durable what was found, before anything is changed.

        Args:
            masks: by pid, and thread with its start.

        Raises:
            StoreFailed, StoreRemoved: it is not; nothing may be changed then.
            StoreInDoubt: it may be, or may not.
        """
        rows = [
            (pid, tid, start, cpulist.format_ranges(mask))
            for (pid, (tid, start)), mask in masks.items()
        ]
        try:
            since = boot()
        except OSError as error:
            raise StoreFailed(str(error)) from error
        self._replace(since, rows)

    def forget(self) -> None:
        """All is put back.

        Raises:
            StoreFailed, StoreRemoved: it is still kept, and would be put back again.
            StoreInDoubt: it may be.
        """
        self._replace(None, [])

    def kept(self) -> tuple[str | None, Rows]:
        """All that is kept, and since which boot, for another store.

        Raises:
            StoreFailed: it cannot be read.
        """
        try:
            since = self._connection.execute("SELECT boot FROM changed_masks_since").fetchone()
            rows = self._connection.execute("SELECT pid, tid, start, mask FROM found_masks")
            return since and since[0], rows.fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error

    def take(self, kept: tuple[str | None, Rows]) -> None:
        """Keep what another store has kept.

        Raises:
            StoreFailed, StoreRemoved: it is not kept.
            StoreInDoubt: it may be.
        """
        self._replace(*kept)

    def _replace(self, since: str | None, rows: Rows) -> None:
        execute = self._connection.execute
        with self._transaction():
            execute("DELETE FROM found_masks")
            execute("DELETE FROM changed_masks_since")
            if since is not None:
                execute("INSERT INTO changed_masks_since VALUES (?)", (since,))
            self._connection.executemany("INSERT INTO found_masks VALUES (?, ?, ?, ?)", rows)
