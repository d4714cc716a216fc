# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Keeps the threads of Open vSwitch where they should be, and puts them back in the end.

All of it runs in the thread that commits: a look can then never undo what a grant has just done,
and no reply waits for it but those to grants and to whoever asks for these threads.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from epa_daemon import affinity, cpulist, mover, threads
from epa_daemon.affinity import Cpus, Key, Thread, Tracked
from epa_daemon.clearing import Clearing
from epa_daemon.cpusets import Cpusets
from epa_daemon.found_masks import FoundMasks, Seen
from epa_daemon.mask_store import MaskStore
from epa_daemon.problems import Problems
from epa_daemon.threads import Process

logger = logging.getLogger(__name__)


class Keeper:
    """Moves threads. The properties, `wanted` and `problems` may be used from any thread."""

    def __init__(self, masks: MaskStore, owned: frozenset[int]):
        self.problems = Problems()
        self._found = FoundMasks(masks, self.problems)
        self._cpusets = Cpusets()
        self._cpus = Cpus(frozenset(), frozenset(), owned)
        self._finder = threads.Finder()
        self._processes: list[Process] = []
        self._tracked: dict[Key, Tracked] = {}
        self._by_tid: dict[int, Tracked] = {}
        self._wide: set[int] = set()
        self._looked_at = 0.0
        self._moving = False
        self._found.load()

    @property
    def owned(self) -> frozenset[int]:
        """What somebody owns, as of the last commit."""
        return self._cpus.owned

    @property
    def active(self) -> bool:
        """Whether masks are changed, perhaps by an earlier process of this boot."""
        return self._found.active

    @property
    def left_alone(self) -> frozenset[Process]:
        """Processes with a cpuset that forbids free CPUs: an operator's word."""
        return self._cpusets.left_alone

    def wanted(self, tid: int) -> frozenset[int] | None:
        """The mask that a thread should have; None if it is none of ours to say."""
        tracked = self._by_tid.get(tid)
        return tracked and affinity.wanted(tracked, self._cpus)

    def look(self, cpus: Cpus) -> None:
        """Find all threads and put right what is not as it should be.

        Args:
            cpus: the host now; what is owned is known better here.
        """
        self.problems.start()
        self._processes = self._finder.find(self.problems.unreadable)
        seen = {
            process: list(threads.threads(process, self.problems.unreadable))
            for process in self._processes
        }
        polled = affinity.polled(thread for its in seen.values() for thread in its)
        self._cpus = replace(cpus, owned=self._cpus.owned, polled=polled)
        self._moving = self._found.keep(seen)
        if self._moving:
            self._cpusets.start(self._processes)
            before = self._follow(seen)
            for process, its in seen.items():
                self._place(process, its, before)
            left_alone = {p: its for p, its in seen.items() if p in self.left_alone}
            self._found.give_back(left_alone, self._cpus)
            for process, its in left_alone.items():
                self._judge(process, its)
        self.problems.finish()

    def _follow(self, seen: Seen) -> Mapping[Key, Tracked]:
        """Decide on all threads; returns what was known of them before."""
        now = threads.now()
        ticks = (now - self._looked_at) * threads.TICKS_PER_SECOND
        before, self._looked_at = self._tracked, now
        tried = [p for p in seen if self._cpusets.may_be_tried(p)]
        self._remember(
            affinity.follow(before, (t for p in tried for t in seen[p]), ticks, self._cpus)
        )
        self._check_room()
        return before

    def _remember(self, tracked: dict[Key, Tracked]) -> None:
        self._tracked = tracked
        self._by_tid = {key[0]: one for key, one in tracked.items()}
        self._wide = {
            tid
            for tid, one in self._by_tid.items()
            if one.seat is None
            and not affinity.is_pmd(one.thread.name)
            and threads.settled(one.thread, self._looked_at)
        }

    def _check_room(self) -> bool:
        """Whether there is a CPU to go to; health says so if not."""
        if not self._cpus.free:
            why = "every CPU is owned" if self._cpus.online else "the online CPUs are not known"
            self.problems.note("nowhere", f"{why}: Open vSwitch's threads stay where they are")
        return bool(self._cpus.free)

    def _place(
        self, process: Process, its: Collection[Thread], before: Mapping[Key, Tracked]
    ) -> None:
        """Put the threads of a process where they should be, if its cpuset allows that."""
        if not self._cpus.free or not self._cpusets.may_be_tried(process):
            return
        fits = True
        for thread in its:
            fits &= self._put(process, thread, before)
            if not fits and process in self.left_alone:
                break
        self._cpusets.tried(process, fits, self._cpus.online)
        if process in self.left_alone:
            own = {thread.key for thread in its}
            self._remember({k: one for k, one in self._tracked.items() if k not in own})

    def _put(self, process: Process, thread: Thread, before: Mapping[Key, Tracked]) -> bool:
        """Move a thread if it is not where it should be; whether its cpuset allows that."""
        tracked = self._tracked[thread.key]
        mask = affinity.wanted(tracked, self._cpus)
        settled = threads.settled(thread, self._looked_at)
        # A young thread may wait, unless it runs where it must not.
        if mask is None or not (settled or thread.mask & self._cpus.owned):
            return True
        stray = affinity.strays(before, tracked, self._cpus)
        if thread.mask == mask and not stray:
            return True
        away = len(mask) > 1 and (stray or len(thread.mask) == 1)
        via = self._cpus.ordinary if away else frozenset[int]()
        # What it goes back to if this is cut has no owned CPU either, if it can.
        kept = replace(thread, mask=thread.mask - self._cpus.owned or thread.mask)
        try:
            fits = mover.move(process.pid, kept, mask, via)
            if not settled:
                mover.spare_pmd(process.pid, thread.tid)
        except ProcessLookupError:
            return True
        except OSError as error:
            self.problems.refused(process, thread, error)
            return True
        return fits

    def _judge(self, process: Process, its: Collection[Thread]) -> None:
        """Say so where a process that is left alone runs on owned CPUs."""
        own = [t for t in its if not affinity.is_pmd(t.name) and t.mask & self._cpus.owned]
        masks = [threads.mask_of(t.tid, self.problems.unreadable) for t in own]
        over = self._cpus.owned & frozenset[int]().union(*filter(None, masks))
        if over:
            text = f"{process} is in a cpuset that forbids free CPUs, and may run on owned CPUs"
            shown = cpulist.format_ranges(over)
            self.problems.note(
                f"cpuset {process} {shown}", f"{text} {shown}: change the cpuset, or release them"
            )

    def committed(self, owned: frozenset[int]) -> None:
        """Clear the CPUs that have just found an owner; never raises: their grant is committed."""
        newly = owned - self._cpus.owned
        self._cpus = replace(self._cpus, owned=owned)
        if newly and self._moving:
            try:
                self._clear(newly)
            except Exception as error:
                logger.exception("Open vSwitch's threads could not be moved; please report this")
                self.problems.note("bug", f"Open vSwitch's threads were not moved: {error}")

    def _clear(self, newly: frozenset[int]) -> None:
        if not newly.isdisjoint(t.seat for t in self._tracked.values() if t.seat is not None):
            self._remember(affinity.seated(self._tracked, self._cpus))
        if self._check_room():
            self._processes = list(
                dict.fromkeys(self._processes + self._finder.started(self.problems.unreadable))
            )
            Clearing(newly, self._cpus, self._wide, self.wanted, self.problems).run(
                self._processes
            )

    def restore(self) -> None:
        """Put back the masks that were found; threads that came later get that of pid 1."""
        self.problems.start()
        self._moving = False
        if self._found.load() and self._found.active:
            processes = self._finder.find(self.problems.unreadable)
            self._found.restore(processes, self.left_alone)
        if not self.active:
            self._processes = []
            self._cpusets = Cpusets()
            self._remember({})
        self.problems.finish()
