# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Taking Open vSwitch's threads off CPUs that have just found an owner, before it is told.

A grant waits for this, so there is nothing in it but what must be: owned CPUs are taken out of
masks. Nothing is widened; a part of a mask is never more than a cpuset allows.
"""

from collections.abc import Callable, Collection, Iterable

from epa_daemon import affinity, mover, threads
from epa_daemon.affinity import Cpus, Thread
from epa_daemon.problems import Problems
from epa_daemon.threads import Process


class Clearing:
    """One grant's.

    Args:
        newly: the CPUs of the grant.
        cpus: the host as of the last look, and who owns what now.
        wide: threads that have the wide mask, and have long had their names.
        wanted: the mask that a thread should have; None for one that is not known.
        problems: where it is said what cannot be done.
    """

    def __init__(
        self,
        newly: frozenset[int],
        cpus: Cpus,
        wide: Collection[int],
        wanted: Callable[[int], frozenset[int] | None],
        problems: Problems,
    ):
        self._newly = newly
        self._cpus = cpus
        self._wide = wide
        self._wanted = wanted
        self._problems = problems
        self._done: set[int] = set()

    def run(self, processes: Iterable[Process]) -> None:
        """Clear the CPUs; returns when no thread can be left on them.

        Except for what the main thread makes that does not sleep for a moment all the time.
        """
        mover.until_none_is_left(processes, self._moves)

    def _moves(self, process: Process) -> bool:
        """Take what is listed now off the CPUs; whether there was anything to do."""
        listed = set(threads.tids(process.pid, self._problems.unreadable)) - self._done
        self._done |= listed
        moved = False
        for tid in listed:
            # One call for most threads: grants wait for it.
            moved |= (tid in self._wide and self._takes_free(tid)) or self._leaves(process, tid)
        return moved

    def _takes_free(self, tid: int) -> bool:
        try:
            threads.set_mask(tid, self._cpus.free)
        except OSError:
            return False  # `_leaves` finds out why.
        return True

    def _leaves(self, process: Process, tid: int) -> bool:
        mask = threads.mask_of(tid, self._problems.unreadable)
        if mask is None or mask.isdisjoint(self._newly):
            return False
        thread = threads.thread(process.pid, tid, self._problems.unreadable)
        if thread is None or affinity.is_pmd(thread.name):
            return False
        try:
            mover.first_of(tid, self._places(thread, mask))
            if not threads.settled(thread, threads.now()):
                mover.spare_pmd(process.pid, tid)
        except ProcessLookupError:
            return False
        except OSError as error:
            self._problems.refused(process, thread, error)
        return True

    def _places(self, thread: Thread, mask: frozenset[int]) -> list[frozenset[int]]:
        """Where it may go: what is left of its mask, or another seat, or anywhere."""
        left = mask - self._cpus.owned
        if left:
            return [left]
        seat, free = self._wanted(thread.tid) or frozenset[int](), self._cpus.free
        # Not at once to all free CPUs: the kernel would choose any isolated one.
        return [seat if seat != free else self._cpus.ordinary, self._cpus.ordinary, free]
