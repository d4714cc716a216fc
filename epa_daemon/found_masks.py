# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Giving Open vSwitch's threads the masks back that they had.

All of them in the end, and those of a process that is left alone as soon as that is known.
"""

import errno
from collections.abc import Collection, Iterable, Mapping

from epa_daemon import affinity, mover, threads
from epa_daemon.affinity import Cpus, Key, Thread
from epa_daemon.errors import StoreFailed, StoreRemoved
from epa_daemon.mask_store import Masks, MaskStore
from epa_daemon.problems import Problems
from epa_daemon.threads import Process

Seen = Mapping[Process, Collection[Thread]]

# As many CPUs as Linux can have (CONFIG_NR_CPUS); it cuts this to what a cpuset allows.
_EVERYWHERE = frozenset(range(8192))


class FoundMasks:
    """Knows what the threads had."""

    def __init__(self, store: MaskStore, problems: Problems):
        self._store = store
        self._problems = problems
        self._found: Masks | None = None
        self._loaded = False
        self._first: dict[Process, Masks] = {}
        self._given: dict[Process, dict[Key, frozenset[int]]] = {}
        # Threads that refused; None if all of them are to be put back.
        self._pending: set[Key] | None = None
        self._refused: set[Key] = set()
        self._done: set[int] = set()
        self._unread = False

    @property
    def active(self) -> bool:
        """Whether masks are changed, perhaps by an earlier process of this boot."""
        return self._found is not None or not self._loaded

    def load(self) -> bool:
        """Whether it is known what an earlier process has changed; nothing may happen before."""
        if not self._loaded:
            try:
                self._found = self._store.load()
            except StoreFailed as error:
                text = f"cannot read the masks that Open vSwitch's threads had: {error}"
                self._problems.note("store", f"{text}; they are left alone until it can")
                return False
            self._loaded = True
        return True

    def keep(self, seen: Seen) -> bool:
        """Whether it is durable what to put back; nothing may be changed before.

        Raises:
            StoreInDoubt: only the next start can tell.
        """
        if not self.load():
            return False
        self._pending = None
        # A thread in a cpuset has what it had when its process was first seen.
        self._first = {p: self._first.get(p) or _masks(its) for p, its in seen.items()}
        if self._found is not None:
            return True
        found = {
            (process.pid, thread.key): threads.allowed(process.pid, thread.tid) or thread.mask
            for process, its in seen.items()
            for thread in its
            if not affinity.is_pmd(thread.name)
        }
        try:
            self._store.keep(found)
        except (StoreFailed, StoreRemoved) as error:
            text = f"cannot keep the masks that Open vSwitch's threads have: {error}"
            self._problems.note("store", f"{text}; they are left alone until it can")
            return False
        self._found = {key: mask for (_, key), mask in found.items()}
        return True

    def give_back(self, left_alone: Seen, cpus: Cpus) -> None:
        """Give all threads of some processes what they had, but for owned CPUs.

        Once, as long as that is the same: somebody else may change it.
        """
        before, self._given = self._given, {}
        for process, its in left_alone.items():
            given = self._given[process] = {}
            for thread in its:
                if affinity.is_pmd(thread.name):
                    continue
                mask = affinity.confined(self._had(process, thread), cpus)
                given[thread.key] = mask
                is_given = mask == before.get(process, {}).get(thread.key)
                if thread.mask != mask and not (is_given and thread.mask.isdisjoint(cpus.owned)):
                    self._give(process, thread, (mask, cpus.free))

    def _give(self, process: Process, thread: Thread, masks: Iterable[frozenset[int]]) -> None:
        try:
            mover.first_of(thread.tid, masks)
        except ProcessLookupError:
            return
        except OSError as error:
            if error.errno != errno.EINVAL:  # That is the cpuset; it is said elsewhere.
                self._problems.refused(process, thread, error)

    def _had(self, process: Process, thread: Thread) -> frozenset[int]:
        """What a thread had that is in a cpuset; a later one what its main thread had."""
        main = (process.pid, process.start)
        first = self._first.get(process, {})
        for masks, key in ((self._found, thread.key), (self._found, main), (first, thread.key)):
            if masks and key in masks:
                return masks[key]
        return first.get(main, thread.mask)

    def restore(self, processes: Iterable[Process], left_alone: Collection[Process]) -> None:
        """Put back all masks; threads that came later get that of pid 1.

        Those that refuse are tried again by the next call.

        Raises:
            StoreInDoubt: only the next start can tell whether it will do so once more.
        """
        self._refused, self._done, self._unread = set[Key](), set[int](), False
        mover.until_none_is_left(processes, lambda p: self._puts_back(p, p in left_alone))
        self._pending = None if self._unread else self._refused
        if not self._refused and not self._unread:
            self._forget()

    def _puts_back(self, process: Process, left_alone: bool) -> bool:
        """Put back what is listed now; whether there was anything to do."""
        listed = set(threads.tids(process.pid, self._unreadable)) - self._done
        self._done |= listed
        moved = False
        for tid in listed:
            thread = threads.thread(process.pid, tid, self._unreadable)
            if thread and not affinity.is_pmd(thread.name):
                moved |= self._put_back(process, thread, left_alone)
        return moved

    def _put_back(self, process: Process, thread: Thread, left_alone: bool) -> bool:
        """Whether there was anything to do."""
        if self._pending is not None and thread.key not in self._pending:
            return False
        mask = (self._found or {}).get(thread.key)
        if mask is None:
            mask = self._had(process, thread) if left_alone else threads.allowed(1, 1)
        if mask is None or mask == thread.mask:
            return False
        try:
            mover.first_of(thread.tid, (mask, _EVERYWHERE))
            if not threads.settled(thread, threads.now()):
                mover.spare_pmd(process.pid, thread.tid)
        except ProcessLookupError:
            return False
        except OSError as error:
            self._problems.refused(process, thread, error)
            self._refused.add(thread.key)
        return True

    def _unreadable(self, path: str, error: OSError) -> None:
        self._unread = True
        self._problems.unreadable(path, error)

    def _forget(self) -> None:
        try:
            self._store.forget()
        except (StoreFailed, StoreRemoved) as error:
            text = f"it cannot be kept that Open vSwitch's threads have their masks back: {error}"
            self._problems.note("store", text)
            return
        self._found, self._pending = None, None
        self._first, self._given = {}, {}


def _masks(its: Iterable[Thread]) -> Masks:
    return {thread.key: thread.mask for thread in its}
