# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One request after the other: look at the host, decide, commit, reply.

Reads are answered at once from the committed ledger. Changes wait in a queue; all that are
waiting are decided in order and share one commit, which runs in a thread of its own so that a
slow disk delays nobody who only reads. No reply to a change leaves before its commit.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from epa_daemon import __version__, allocator, health, history, hugepages, peers, reports
from epa_daemon.errors import Refusal, StoreFailed
from epa_daemon.history import Event
from epa_daemon.host import Host, HostReader
from epa_daemon.ledger import Ledger
from epa_daemon.peers import Peer
from epa_daemon.pools import Rules
from epa_daemon.protocol import (
    AllocateHugepages,
    CpuRequest,
    GetHealth,
    GetMemoryInfo,
    GetTopology,
    ListAllocations,
    Request,
)
from epa_daemon.replies import ErrorReply, HealthReply, Reply
from epa_daemon.store import Store
from epa_daemon.sysfs import Fault

logger = logging.getLogger(__name__)

Respond = Callable[[Reply], None]


@dataclass(frozen=True)
class _Waiting:
    """A change that waits for its commit."""

    request: CpuRequest | AllocateHugepages
    peer: Peer
    respond: Respond


class Engine:
    """Owns the ledger and the store; used from one event loop."""

    def __init__(self, store: Store, ledger: Ledger, reader: HostReader, rules: Rules, state: str):
        self._store = store
        self._ledger = ledger
        self._reader = reader
        self._rules = rules
        self._state = state
        self._queue: list[_Waiting] = []
        self._committing = False
        self._committer = ThreadPoolExecutor(1, "commit")
        self._store_error: str | None = None
        self._known_faults: set[Fault] = set()
        self._started = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether changes wait for their commit."""
        return self._committing or bool(self._queue)

    def submit(self, request: Request, peer: Peer, respond: Respond) -> None:
        """Answer a request: now for a read, after its commit for a change."""
        if not isinstance(request, CpuRequest | AllocateHugepages):
            respond(_guarded(lambda: self._read(request)))
        elif not peers.may_change(peer):
            respond(
                ErrorReply.of(
                    Refusal(
                        "not-permitted",
                        f"uid {peer.uid} may only read; changes need root or the daemon's user",
                    )
                )
            )
        else:
            self._queue.append(_Waiting(request, peer, respond))
            if not self._committing:
                # Not now but when this round of the loop is done: whoever is ready in it shares
                # the commit.
                self._committing = True
                asyncio.get_running_loop().call_soon(self._run_batch)

    def close(self) -> None:
        """Wait for a running commit."""
        self._committer.shutdown(wait=True)

    def _look(self, with_memory: bool) -> Host:
        host = self._reader.read(with_memory)
        for fault in set(host.faults) - self._known_faults:
            level = logging.INFO if fault.kind == "absent" else logging.WARNING
            logger.log(level, "%s", fault)
            self._known_faults.add(fault)
        return host

    def _read(self, request: Request) -> Reply:
        host = self._look(isinstance(request, GetMemoryInfo | GetHealth))
        match request:
            case ListAllocations():
                return reports.listing(request.pool, host, self._ledger, self._rules)
            case GetMemoryInfo():
                return hugepages.memory_info(request, host, self._ledger)
            case GetTopology():
                return reports.topology_map(host, self._ledger, self._rules)
            case GetHealth():
                return self._health(host)
            case _:
                raise TypeError(f"unexpected request: {type(request).__name__}")

    def _health(self, host: Host) -> HealthReply:
        problems = health.problems(host, self._ledger, self._rules, self._store_error)
        return HealthReply(
            healthy=not problems,
            daemon_version=__version__,
            pid=os.getpid(),
            uptime_seconds=int(time.monotonic() - self._started),
            state=self._state,
            services=len(self._ledger.services()),
            claimed_cpus=len(self._ledger.owned),
            problems=problems,
        )

    def _run_batch(self) -> None:
        batch, self._queue = self._queue, []
        ledger = self._ledger
        answers: list[tuple[_Waiting, Reply]] = []
        events: list[Event] = []
        for waiting in batch:
            before = ledger
            reply, ledger = self._decide(waiting, before)
            answers.append((waiting, reply))
            if ledger is not before:
                action = waiting.request.action()
                snap = peers.snap_of(waiting.peer)
                events += history.events(action, before, ledger, waiting.peer, snap)
        if ledger is self._ledger:
            self._finish(answers)
            return
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(
            self._committer, self._store.commit, self._ledger, ledger, events
        )
        done.add_done_callback(lambda future: self._committed(future, answers, ledger, events))

    def _decide(self, waiting: _Waiting, ledger: Ledger) -> tuple[Reply, Ledger]:
        request = waiting.request
        after = ledger

        def decide() -> Reply:
            nonlocal after
            if isinstance(request, AllocateHugepages):
                host = self._look(with_memory=request.hugepages_requested > 0)
                reply, after = hugepages.decide(request, host, ledger)
            else:
                host = self._look(with_memory=False)
                known = ledger.with_nodes_learned(host.topology.node_of)
                reply, after = allocator.decide(request, host, known, self._rules)
            return reply

        reply = _guarded(decide)
        return reply, after

    def _committed(
        self,
        future: "asyncio.Future[None]",
        answers: list[tuple[_Waiting, Reply]],
        ledger: Ledger,
        events: list[Event],
    ) -> None:
        try:
            future.result()
        except StoreFailed as error:
            self._store_error = str(error)
            logger.error(
                "nothing granted to %d requests: the store in %s failed: %s; check its disk",
                len(answers),
                self._state,
                error,
            )
            # Also refusals in this batch: they may rest on a grant that did not come to be.
            answers = [(waiting, _store_failure(waiting, error)) for waiting, _ in answers]
        else:
            self._store_error = None
            self._ledger = ledger
            for event in events:
                logger.info("%s", event)
        self._finish(answers)

    def _finish(self, answers: list[tuple[_Waiting, Reply]]) -> None:
        self._committing = False
        for waiting, reply in answers:
            waiting.respond(reply)
        if self._queue and not self._committing:
            self._committing = True
            asyncio.get_running_loop().call_soon(self._run_batch)


def _guarded(answer: Callable[[], Reply]) -> Reply:
    try:
        return answer()
    except Refusal as refusal:
        return ErrorReply.of(refusal)
    except Exception:
        # A bug must not take the daemon from everybody else; it is loud, and changes nothing.
        logger.exception("a request could not be answered; please report this")
        return ErrorReply.of(Refusal("internal-error", "The daemon failed; its log says why"))


def _store_failure(waiting: _Waiting, error: StoreFailed) -> ErrorReply:
    kind = "hugepage" if isinstance(waiting.request, AllocateHugepages) else "CPU"
    return ErrorReply.of(Refusal("store-failed", f"Failed to record {kind} allocation: {error}"))
