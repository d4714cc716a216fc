# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Which processes are in a cpuset that forbids CPUs that nobody owns: an operator's word.

It shows in a mask that the kernel cuts. It also cuts one for some milliseconds while a CPU comes
online, so a cut must be seen in several looks at the same CPUs; and since an operator may change
his mind, a process is tried again now and then.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace

from epa_daemon.threads import Process

logger = logging.getLogger(__name__)

_CUTS = 3
# Looks until a process that was judged is tried again, by moving one of its threads and back.
_LOOKS_TO_RETRY = 60


@dataclass(frozen=True)
class _Cut:
    """What is known of a process whose masks were cut.

    Attributes:
        online: the CPUs that were online.
        times: looks in a row in which it was seen.
        looks: looks since it was judged.
    """

    online: frozenset[int]
    times: int = 1
    looks: int = 0

    @property
    def judged(self) -> bool:
        return self.times >= _CUTS


class Cpusets:
    """What is known of the processes; `left_alone` may be read from any thread."""

    def __init__(self) -> None:
        self._cuts: dict[Process, _Cut] = {}
        self.left_alone: frozenset[Process] = frozenset()

    def start(self, processes: Collection[Process]) -> None:
        """A new look at these processes."""
        self._cuts = {
            process: replace(cut, looks=cut.looks + cut.judged)
            for process, cut in self._cuts.items()
            if process in processes
        }
        self.left_alone = frozenset(p for p, cut in self._cuts.items() if cut.judged)

    def may_be_tried(self, process: Process) -> bool:
        """Whether a process may get the masks that are wanted for it."""
        cut = self._cuts.get(process)
        return cut is None or not cut.judged or cut.looks >= _LOOKS_TO_RETRY

    def tried(self, process: Process, fits: bool, online: frozenset[int]) -> None:
        """Learn whether a process could be given what was wanted."""
        before = self._cuts.pop(process, None)
        if not fits:
            self._cuts[process] = _cut_again(before, online)
        self.left_alone = frozenset(p for p, cut in self._cuts.items() if cut.judged)
        judged = process in self.left_alone
        if judged and not (before and before.judged):
            logger.info("%s is in a cpuset that forbids free CPUs: it is left alone", process)
        elif before and before.judged and not judged:
            logger.info("%s is in no such cpuset any longer", process)


def _cut_again(before: _Cut | None, online: frozenset[int]) -> _Cut:
    if before is None:
        return _Cut(online)
    if before.judged or before.online == online:
        return replace(before, online=online, times=before.times + 1, looks=0)
    return _Cut(online)
