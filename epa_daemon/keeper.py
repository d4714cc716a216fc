# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Keeps the threads of Open vSwitch where they should be, and puts them back in the end.

All of it runs in the thread that commits: a look can then never undo what a grant has just done,
and the replies to those who only read wait for none of it.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from epa_daemon import affinity, cpulist, mover, threads
from epa_daemon.affinity import Cpus, Key, Thread, Tracked
from epa_daemon.errors import StoreFailed
from epa_daemon.mask_store import Masks, MaskStore
from epa_daemon.problems import Problems
from epa_daemon.threads import Process

logger = logging.getLogger(__name__)

# A PMD thread is pinned and named in its first moments, and must not be taken for another one.
_SETTLED_SECONDS = 0.1
# Each pass finds what was created during the one before it with a mask from before. A main thread
# that keeps running is not waited for any longer than all of them: the next look does the rest.
_PASSES = 20
_PASS_SECONDS = 0.001
_NOT_PERMITTED = (
    "Open vSwitch's threads cannot be moved ({reason}); connect the plug: snap connect "
    "epa-orchestrator:process-control, then: snap restart epa-orchestrator.daemon"
)


class Keeper:
    """Moves threads. `wanted`, `left_alone` and `problems` may be read from any thread.

    Attributes:
        wanted: the mask that each thread should have, as far as it may be touched.
        left_alone: processes with a cpuset that forbids free CPUs: an operator's word.
    """

    def __init__(self, masks: MaskStore, owned: frozenset[int]):
        self._masks = masks
        self._found: Masks | None = masks.load()
        self._cpus = Cpus(frozenset(), frozenset(), owned)
        self._finder = threads.Finder()
        self._processes: list[Process] = []
        self._tracked: dict[Key, Tracked] = {}
        self._by_tid: dict[int, Tracked] = {}
        self._wide: set[int] = set()
        self._looked_at = 0.0
        self.wanted: Mapping[int, frozenset[int]] = {}
        self.left_alone: frozenset[Process] = frozenset()
        self.problems = Problems()

    @property
    def owned(self) -> frozenset[int]:
        """What somebody owns, as of the last commit."""
        return self._cpus.owned

    @property
    def active(self) -> bool:
        """Whether masks are changed, perhaps by an earlier process of this boot."""
        return self._found is not None

    def look(self, cpus: Cpus) -> None:
        """Find all threads and put right what is not as it should be.

        Args:
            cpus: the host now; what is owned is known better here.
        """
        self.problems.start()
        self._cpus = replace(cpus, owned=self._cpus.owned)
        self._processes = self._finder.find(self._unreadable)
        self.left_alone &= frozenset(self._processes)
        seen = {
            process: list(threads.threads(process, self._unreadable))
            for process in self._processes
        }
        if self._kept(seen):
            before = self._follow(seen)
            for process, found in seen.items():
                if process in self.left_alone:
                    self._judge(process, found)
                else:
                    self._put(process, found, before)
        self.problems.finish()

    def _kept(self, seen: Mapping[Process, Iterable[Thread]]) -> bool:
        """Whether it is known what to put back in the end; nothing may be changed otherwise."""
        if self._found is None:
            found = {
                (process.pid, thread.key): thread.mask
                for process, its in seen.items()
                for thread in its
                if not affinity.is_pmd(thread.name)
            }
            try:
                self._masks.keep(found)
            except StoreFailed as error:
                text = f"cannot keep the masks that Open vSwitch's threads have: {error}"
                self.problems.note("store", f"{text}; they are left alone until it can")
                return False
            self._found = {key: mask for (_, key), mask in found.items()}
        return True

    def _follow(self, seen: Mapping[Process, Iterable[Thread]]) -> Mapping[Key, Tracked]:
        """Decide on all threads; returns what was known of them before."""
        # The clock in which the kernel counts when a thread started.
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = (now - self._looked_at) * threads.TICKS_PER_SECOND
        before, self._looked_at = self._tracked, now
        touchable = [t for p, its in seen.items() if p not in self.left_alone for t in its]
        self._remember(affinity.follow(before, touchable, ticks, self._cpus))
        self._check_room()
        return before

    def _remember(self, tracked: dict[Key, Tracked]) -> None:
        self._tracked = tracked
        self._by_tid = {key[0]: one for key, one in tracked.items()}
        masks = {tid: affinity.wanted(one, self._cpus) for tid, one in self._by_tid.items()}
        self.wanted = {tid: mask for tid, mask in masks.items() if mask is not None}
        free = self._cpus.free
        self._wide = {
            tid
            for tid, mask in self.wanted.items()
            if mask == free and self._settled(self._by_tid[tid].thread)
        }

    def _check_room(self) -> bool:
        if not self._cpus.free:
            text = "every CPU is owned: Open vSwitch's threads stay where they are"
            self.problems.note("nowhere", text)
        return bool(self._cpus.free)

    def _put(
        self, process: Process, found: Iterable[Thread], before: Mapping[Key, Tracked]
    ) -> None:
        for thread in found:
            mask = self.wanted.get(thread.tid)
            # A young thread may wait, unless it runs where it must not.
            young = not self._settled(thread) and thread.mask.isdisjoint(self._cpus.owned)
            if mask is None or young:
                continue
            stray = affinity.strays(before, self._tracked[thread.key], self._cpus)
            if thread.mask != mask or stray:
                self._move(process, thread, mask, away=stray or len(thread.mask) == 1)
            if process in self.left_alone:
                return

    def _settled(self, thread: Thread) -> bool:
        """Whether a thread was old enough for its name when it was looked at."""
        return self._looked_at - thread.start / threads.TICKS_PER_SECOND > _SETTLED_SECONDS

    def _move(self, process: Process, thread: Thread, mask: frozenset[int], away: bool) -> None:
        via = self._cpus.ordinary if away and len(mask) > 1 else frozenset[int]()
        try:
            if not mover.move(thread, mask, via):
                self._leave_alone(process, thread)
        except ProcessLookupError:
            return
        except OSError as error:
            self._refused(process, thread, error)

    def _leave_alone(self, process: Process, thread: Thread) -> None:
        logger.info("%s is in a cpuset that forbids free CPUs: it is left alone", process)
        self.left_alone |= {process}
        own = set(threads.tids(process.pid))
        self._remember({k: one for k, one in self._tracked.items() if k[0] not in own})
        self._judge(process, [thread])

    def _judge(self, process: Process, found: Iterable[Thread]) -> None:
        """Say so where a process that is left alone runs on owned CPUs."""
        over = self._cpus.owned.intersection(*[t.mask for t in found][:1])
        if over:
            text = f"{process} is in a cpuset that forbids free CPUs, and may run on owned CPUs"
            self.problems.note(
                f"cpuset {process}",
                f"{text} {cpulist.format_ranges(over)}: change the cpuset, or release them",
            )

    def _refused(self, process: Process, thread: Thread, error: OSError) -> None:
        if isinstance(error, PermissionError):
            self.problems.note("permission", _NOT_PERMITTED.format(reason=error.strerror))
        else:
            text = f"{process}: thread {thread.tid} ({thread.name}) keeps its mask"
            self.problems.note(f"{process} {error.errno}", f"{text}: {error.strerror}")

    def _unreadable(self, path: str, error: OSError) -> None:
        reason = error.strerror or str(error)
        self.problems.note(f"unreadable {reason}", f"cannot read {path}: {reason}")

    def committed(self, owned: frozenset[int]) -> None:
        """Clear the CPUs that have just found an owner; never raises: their grant is committed."""
        newly = owned - self._cpus.owned
        self._cpus = replace(self._cpus, owned=owned)
        if newly and self._found is not None:
            try:
                self._clear(newly)
            except Exception as error:
                logger.exception("Open vSwitch's threads could not be moved; please report this")
                self.problems.note("bug", f"Open vSwitch's threads were not moved: {error}")

    def _clear(self, newly: frozenset[int]) -> None:
        self._remember(affinity.seated(self._tracked, self._cpus))
        if not self._check_room():
            return
        free = self._cpus.free
        for process in self._processes:
            moved: set[int] = set()
            for _ in range(_PASSES):
                before = len(moved)
                for tid in threads.tids(process.pid):
                    if tid not in moved and not self._is_clear(tid, newly, free, moved):
                        moved |= self._cleared(process, tid, newly)
                if process in self.left_alone or not moved:
                    break
                if len(moved) == before:
                    if not threads.may_be_cloning(process.pid):
                        break
                    time.sleep(_PASS_SECONDS)

    def _is_clear(
        self, tid: int, newly: frozenset[int], free: frozenset[int], moved: set[int]
    ) -> bool:
        """Whether a thread is off these CPUs, if need be by one call, which is noted.

        A grant waits for this once for each thread, so there is nothing in it but what must be.
        Only what had the wide mask is moved here: no cpuset can forbid it a part of that.
        """
        try:
            mask = frozenset(os.sched_getaffinity(tid))
            if newly.isdisjoint(mask):
                return True
            if tid in self._wide and mask - newly == free:
                os.sched_setaffinity(tid, free)
                moved.add(tid)
                return True
        except OSError:
            return False  # `_cleared` finds out why.
        return False

    def _cleared(self, process: Process, tid: int, newly: frozenset[int]) -> set[int]:
        """The thread, if it had to be moved off some of these CPUs and could not be at once."""
        mask = threads.mask_of(tid)
        if mask is None or mask.isdisjoint(newly) or process in self.left_alone:
            return set()
        known = self._by_tid.get(tid)
        thread = known.thread if known else None
        if thread is None or not self._settled(thread):
            thread = threads.thread(process.pid, tid, self._unreadable)
        if thread is None or affinity.is_pmd(thread.name):
            return set()
        wanted = self.wanted.get(tid, self._cpus.free)
        self._move(process, replace(thread, mask=mask), wanted, away=len(mask) == 1)
        return {tid}

    def restore(self) -> None:
        """Put back the masks that were found; threads that came later get that of pid 1."""
        self.problems.start()
        if self._found is not None:
            for process in self._finder.find(self._unreadable):
                if process not in self.left_alone:
                    for thread in threads.threads(process, self._unreadable):
                        self._put_back(process, thread, self._found)
            self._forget()
        self.problems.finish()

    def _put_back(self, process: Process, thread: Thread, found: Masks) -> None:
        if affinity.is_pmd(thread.name):
            return
        try:
            mask = found.get(thread.key) or frozenset(os.sched_getaffinity(1))
            if mask != thread.mask:
                threads.set_mask(thread.tid, mask)
        except ProcessLookupError:
            return
        except OSError as error:
            self._refused(process, thread, error)

    def _forget(self) -> None:
        self._found = None
        self.left_alone = frozenset()
        self._processes = []
        self._remember({})
        try:
            self._masks.forget()
        except StoreFailed as error:
            text = f"it cannot be kept that Open vSwitch's threads have their masks back: {error}"
            self.problems.note("store", text)
