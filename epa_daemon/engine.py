# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One request after the other: look at the host, decide, commit, reply.

Reads are answered at once from the committed ledger. Changes wait in a queue; those that are
waiting are decided in order and share one commit, which runs in a thread of its own so that a
slow disk delays nobody who only reads. No reply to a change leaves before its commit.
"""

import asyncio
import collections
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from epa_daemon import (
    __version__,
    access,
    allocator,
    chores,
    health,
    history,
    hugepages,
    reloading,
    reports,
)
from epa_daemon.chore_queue import ChoreQueue
from epa_daemon.chores import Chore
from epa_daemon.committer import Committer
from epa_daemon.errors import Refusal, StoreInDoubt, StoreRemoved
from epa_daemon.history import Cause, Event
from epa_daemon.host import Host
from epa_daemon.ledger import Ledger
from epa_daemon.observer import Observer
from epa_daemon.ovs import Ovs, elsewhere
from epa_daemon.peers import Peer
from epa_daemon.pools import Rules
from epa_daemon.protocol import (
    AllocateHugepages,
    CpuRequest,
    GetHealth,
    GetHistory,
    GetMemoryInfo,
    GetOvsAffinity,
    GetTopology,
    ListAllocations,
    Reload,
    Request,
)
from epa_daemon.replies import ErrorReply, HealthReply, ReloadReply, Reply, Respond
from epa_daemon.rights import Access
from epa_daemon.settings import Settings
from epa_daemon.store import Store

logger = logging.getLogger(__name__)

# A batch ends after this long, so that reads get their turn between expensive decisions.
_BATCH_SECONDS = 0.02
# A commit that takes longer is a problem that an operator should hear of.
_SLOW_COMMIT_SECONDS = 5.0

Change = CpuRequest | AllocateHugepages | Reload


@dataclass(frozen=True)
class _Waiting:
    """A change that waits for its turn."""

    request: Change
    peer: Peer
    respond: Respond


@dataclass
class _Batch:
    """Decisions that share a commit: the ledger after them, their answers and their events."""

    ledger: Ledger
    answers: list[tuple[_Waiting, Reply | None]] = field(
        default_factory=list[tuple[_Waiting, Reply | None]]
    )
    events: list[Event] = field(default_factory=list[Event])


class Engine:
    """Owns the ledger and the store; used from one event loop."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        observer: Observer,
        settings: Settings,
        committer: Committer,
        allowed: Access,
        ovs: Ovs | None = None,
    ):
        self._store = store
        self._ovs = ovs
        self._ledger = ledger
        self._observer = observer
        self._access = allowed
        self._state = settings.state
        self._options = settings.options
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._working = False
        self._commit_started: float | None = None
        self._committer = committer
        self._chores = ChoreQueue(committer)
        self._store_error: str | None = None
        self._started = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether changes wait for their commit, or something else is done in their thread."""
        return self._working or self._chores.running

    def start(self) -> None:
        """Take a first look, so that the log says at once what is wrong with this host."""
        self._observer.look(with_memory=True)
        self._work()

    def submit(self, request: Request, peer: Peer, respond: Respond) -> None:
        """Answer a request: now for a read, after its commit for a change."""
        try:
            access.check(request, peer, self._access)
        except Refusal as refusal:
            respond(ErrorReply.of(refusal))
            return
        if isinstance(request, Change):
            self._queue.append(_Waiting(request, peer, respond))
            self._work()
        elif isinstance(request, Chore | GetOvsAffinity):
            # Whoever reads page after page, or all of /proc, waits for administrators.
            urgent = not isinstance(request, GetHistory | GetOvsAffinity)
            self._chores.submit(self._chore(request), peer, respond, urgent)
        else:
            respond(_guarded(lambda: self._read(request)))

    def _chore(self, request: Chore | GetOvsAffinity) -> Callable[[], Reply]:
        if isinstance(request, GetOvsAffinity):
            ovs = self._ovs
            if not ovs:
                return elsewhere
            # The look is the loop's.
            host, _ = self._observer.look()
            return lambda: _guarded(lambda: ovs.report(host))
        return lambda: _guarded(lambda: chores.answer(request, self._store, self._state))

    def _read(self, request: Request) -> Reply:
        host, rules = self._observer.look(isinstance(request, GetMemoryInfo | GetHealth))
        match request:
            case ListAllocations():
                return reports.listing(request.pool, host, self._ledger, rules)
            case GetMemoryInfo():
                return hugepages.memory_info(request, host, self._ledger)
            case GetTopology():
                return reports.topology_map(host, self._ledger, rules)
            case GetHealth():
                return self._health(host, rules)
            case _:
                raise TypeError(f"unexpected request: {type(request).__name__}")

    def _health(self, host: Host, rules: Rules) -> HealthReply:
        problems = health.problems(host, self._ledger, rules, self._store_problem())
        problems += self._ovs.problems() if self._ovs else []
        return HealthReply(
            healthy=not problems,
            daemon_version=__version__,
            pid=os.getpid(),
            uptime_seconds=int(time.monotonic() - self._started),
            state=str(self._state),
            services=len(self._ledger.services()),
            claimed_cpus=len(self._ledger.owned),
            options=reports.options(self._observer.configured, self._access),
            problems=problems,
        )

    def _store_problem(self) -> str | None:
        if self._commit_started is not None:
            seconds = time.monotonic() - self._commit_started
            if seconds > _SLOW_COMMIT_SECONDS:
                return f"a commit has been running for {seconds:.0f} s; check the disk"
        return self._store_error and f"the last change failed: {self._store_error}"

    def _work(self) -> None:
        if not self._working:
            # Not now but when this round of the loop is done: whoever is ready in it shares the
            # commit.
            self._working = True
            asyncio.get_running_loop().call_soon(self._run_batch)

    def _run_batch(self) -> None:
        batch = _Batch(self._learned())
        if batch.ledger is not self._ledger:
            batch.events += history.events(Cause("learn-nodes"), self._ledger, batch.ledger)
        deadline = time.monotonic() + _BATCH_SECONDS
        while self._queue and time.monotonic() <= deadline:
            request = self._queue[0].request
            if not isinstance(request, Reload):
                self._decide(self._queue.popleft(), request, batch)
            elif batch.answers or batch.ledger is not self._ledger:
                break  # Options are judged by what is committed.
            else:
                self._reload(self._queue.popleft())
        if batch.ledger is self._ledger:
            self._finish(batch)
            return
        self._commit_started = time.monotonic()
        self._committer.submit(
            lambda: self._commit(batch), lambda failure: self._committed(batch, failure)
        )

    def _commit(self, batch: _Batch) -> None:
        self._store.commit(self._ledger, batch.ledger, batch.events)
        if self._ovs:
            # Before the reply: its reader may start at once on the CPUs that it names.
            self._ovs.committed(batch.ledger.owned)

    def _learned(self) -> Ledger:
        if not self._ledger.nodeless:
            return self._ledger
        host, _ = self._observer.look()
        return self._ledger.with_nodes_learned(host.topology.node_of)

    def _reload(self, waiting: _Waiting) -> None:
        def reload() -> Reply:
            rules, allowed = reloading.accept(self._options, self._observer, self._ledger)
            self._observer.configure(rules)
            self._access = allowed
            shown = reports.options(rules, allowed)
            logger.info("options reloaded for %s: %s", waiting.peer, shown)
            return ReloadReply(options=shown)

        waiting.respond(_guarded(reload))

    def _decide(
        self, waiting: _Waiting, request: CpuRequest | AllocateHugepages, batch: _Batch
    ) -> None:
        def decide() -> Reply:
            before, peer, service = batch.ledger, waiting.peer, request.service_name
            snap = peer.snap() if self._access.owners else None
            spared = access.spared(peer, snap, before, self._access)
            access.check_owner(service, spared, before, snap)
            reply, after = self._decided(request, before, spared)
            if after is not before:
                snap = snap if self._access.owners else peer.snap()
                cause = Cause(request.action(), service, peer, snap)
                found = history.events(cause, before, after)
                changed = {event.service for event in found}
                batch.ledger = access.attributed(service, changed, before, after, snap)
                batch.events += found
            return reply

        batch.answers.append((waiting, _guarded(decide)))

    def _decided(
        self, request: CpuRequest | AllocateHugepages, before: Ledger, spared: frozenset[str]
    ) -> tuple[Reply, Ledger]:
        if isinstance(request, AllocateHugepages):
            host, _ = self._observer.look(with_memory=request.hugepages_requested > 0)
            return hugepages.decide(request, host, before)
        host, rules = self._observer.look()
        return allocator.decide(request, host, before, rules, spared)

    def _committed(self, batch: _Batch, failure: Exception | None) -> None:
        self._commit_started = None
        if failure is None:
            self._store_error = None
            self._ledger = batch.ledger
            self._finish(batch)
            # After the replies: nobody has to wait for the log.
            for event in batch.events:
                logger.info("%s", event)
            return
        if isinstance(failure, StoreRemoved):
            self._removed(batch, failure)
            return
        if isinstance(failure, StoreInDoubt):
            # Neither a success nor an error may be said; the next start reads what is true.
            text = "%d requests stay without an answer: %s; check its disk"
            logger.critical(text, len(batch.answers), failure)
            raise failure
        self._store_error = str(failure)
        text = "nothing granted to %d requests: the store in %s failed: %s; check its disk"
        logger.error(text, len(batch.answers), self._state, failure)
        # Also refusals in this batch: they may rest on a grant that did not come to be.
        batch.answers = [(w, _store_failure(w, failure)) for w, _ in batch.answers]
        self._finish(batch)

    def _removed(self, batch: _Batch, failure: StoreRemoved) -> None:
        """Go on for those who read: the next start would find nothing of what is known here."""
        self._store_error = str(failure)
        text = "%d requests stay without an answer, and no change is made any more: %s"
        logger.critical(text, len(batch.answers), failure)
        batch.answers = [(waiting, None) for waiting, _ in batch.answers]
        self._finish(batch)

    def _finish(self, batch: _Batch) -> None:
        self._working = False
        for waiting, reply in batch.answers:
            waiting.respond(reply)
        if self._queue:
            self._work()


def _guarded(answer: Callable[[], Reply]) -> Reply:
    try:
        return answer()
    except Refusal as refusal:
        return ErrorReply.of(refusal)
    except Exception:
        # A bug must not take the daemon from everybody else; it is loud, and changes nothing.
        logger.exception("a request could not be answered; please report this")
        return ErrorReply.of(Refusal("internal-error", "The daemon failed; its log says why"))


def _store_failure(waiting: _Waiting, error: Exception) -> ErrorReply:
    kind = "hugepage" if isinstance(waiting.request, AllocateHugepages) else "CPU"
    return ErrorReply.of(Refusal("store-failed", f"Failed to record {kind} allocation: {error}"))
