# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Open vSwitch's CPU affinity as a part of the daemon: the switch, the pace, and what is said.

While the switch is off nothing runs at all.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from epa_daemon import cpulist, threads
from epa_daemon.affinity import Cpus, is_pmd
from epa_daemon.committer import Committer
from epa_daemon.errors import StoreInDoubt
from epa_daemon.host import Host
from epa_daemon.keeper import Keeper
from epa_daemon.observer import Observer
from epa_daemon.replies import (
    OvsAffinityReply,
    OvsProcess,
    OvsSwitch,
    OvsThread,
    Problem,
)
from epa_daemon.switch import Switch

logger = logging.getLogger(__name__)

# New threads are to be found within a second.
_PACE_SECONDS = 0.8
# Only while there is something that could not be put back.
_RESTORE_SECONDS = 10.0


class Ovs:
    """Open vSwitch on this host; used from the event loop, but for `committed` and `report`."""

    def __init__(self, keeper: Keeper, committer: Committer, observer: Observer, path: Path):
        self._keeper = keeper
        self._committer = committer
        self._observer = observer
        self._switch = Switch(path, self._switched)
        self._next: asyncio.TimerHandle | None = None
        self._running = False
        self._stopping = False
        self._seen_problem: str | None = None
        # Called in the thread that commits.
        self.committed = keeper.committed

    def start(self) -> None:
        """Follow the switch; what an earlier process left changed is taken on or put back."""
        self._switch.start()
        if self._keeper.active and not self._switch.on:
            self._restore()

    async def stop(self, seconds: float) -> None:
        """Put everything back, as after switching off: the next start takes it up again."""
        self._switch.stop()
        self._running, self._stopping = False, True
        self._cancel()
        restored = asyncio.Event()
        self._submit(self._keeper.restore, restored.set)
        try:
            await asyncio.wait_for(restored.wait(), seconds)
        except TimeoutError:
            logger.error("Open vSwitch's threads keep their masks until the next start")

    def _switched(self) -> None:
        if self._switch.problem and self._switch.problem != self._seen_problem:
            logger.warning("%s", self._switch.problem)
        self._seen_problem = self._switch.problem
        if self._switch.on == self._running:
            return
        self._running = self._switch.on
        state = "on" if self._running else "off"
        logger.info("Open vSwitch's CPU affinity is switched %s by %s", state, self._switch.path)
        self._cancel()
        if self._running:
            self._look()
        else:
            self._restore()

    def _cancel(self) -> None:
        if self._next:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        host, _ = self._observer.look()
        cpus = _cpus(host)
        self._submit(lambda: self._keeper.look(cpus), self._looked)

    def _looked(self) -> None:
        if self._running:
            self._later(_PACE_SECONDS, self._look)

    def _restore(self) -> None:
        self._submit(self._keeper.restore, self._restored)

    def _restored(self) -> None:
        if self._keeper.active and not self._running and not self._stopping:
            self._later(_RESTORE_SECONDS, self._restore)

    def _later(self, seconds: float, job: Callable[[], None]) -> None:
        self._cancel()
        self._next = asyncio.get_running_loop().call_later(seconds, job)

    def _submit(self, job: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        def done(failure: Exception | None) -> None:
            if isinstance(failure, StoreInDoubt):
                # It must not go on by what may not be kept; the next start reads what is true.
                logger.critical("Open vSwitch's threads: %s; check its disk", failure)
                raise failure
            if failure:
                text = "Open vSwitch's threads could not be looked after; please report this"
                logger.error("%s", text, exc_info=failure)
            if then:
                then()

        self._committer.submit(job, done)

    def problems(self) -> list[Problem]:
        """What keeps Open vSwitch from being where it should."""
        texts = [self._switch.problem] if self._switch.problem else []
        texts += self._keeper.problems.texts
        return [Problem(code="ovs-affinity", text=text) for text in texts]

    def report(self, host: Host) -> OvsAffinityReply:
        """The switch, and every thread as it is now.

        It reads the files of every process of the host, so it is for the thread that commits.
        """
        unreadable: dict[str, str] = {}
        found = threads.Finder().find(lambda path, error: unreadable.update({path: str(error)}))
        return OvsAffinityReply(
            switch=OvsSwitch(
                path=str(self._switch.path),
                state="on" if self._switch.on else "off",
                followed=self._switch.followed,
            ),
            free_cpus=cpulist.format_ranges(host.grantable - self._keeper.owned),
            processes=[self._process(process) for process in found],
            problems=[problem.text for problem in self.problems()],
        )

    def _process(self, process: threads.Process) -> OvsProcess:
        found = list(threads.threads(process, lambda _path, _error: None))
        return OvsProcess(
            pid=process.pid,
            name=process.name,
            left_alone=process in self._keeper.left_alone,
            threads=[
                OvsThread(
                    tid=thread.tid,
                    name=thread.name,
                    wanted=self._wanted(thread.tid, thread.name),
                    actual=cpulist.format_ranges(thread.mask),
                    last_cpu=thread.cpu,
                )
                for thread in found
            ],
        )

    def _wanted(self, tid: int, name: str) -> str | None:
        wanted = self._keeper.wanted(tid)
        return None if wanted is None or is_pmd(name) else cpulist.format_ranges(wanted)


def elsewhere() -> OvsAffinityReply:
    """The report of a daemon that reads another host tree: this host is none of its business."""
    switch = OvsSwitch(path="", state="another-host", followed="nothing")
    return OvsAffinityReply(switch=switch, free_cpus="", processes=[], problems=[])


def _cpus(host: Host) -> Cpus:
    cores = tuple(core.cpus for core in host.topology.cores if len(core.cpus) > 1)
    return Cpus(host.grantable, host.isolated, frozenset(), cores)
