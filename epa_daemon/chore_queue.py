# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Chores wait here for the thread that commits: it is given one at a time, and then a rest.

So a change never waits for more than one of them, however many clients read the history, or ask
for the threads of Open vSwitch. A connection waits for one answer at a time, so there are never
more than connections; those whose client has gone make room before their turn.
"""

import asyncio
import collections
import time
from collections.abc import Callable
from dataclasses import dataclass

from epa_daemon.committer import Committer
from epa_daemon.peers import Peer
from epa_daemon.replies import Reply, Respond

# From so many on, and whenever they have doubled, those whose client has gone are dropped.
_MANY = 64
# A chore is followed by a rest as long as it took, that changes get half of the time; not longer
# than this after a long one, a backup.
_LONGEST_REST = 0.05

# Raises nothing.
Answer = Callable[[], Reply]


@dataclass(frozen=True)
class _Waiting:
    answer: Answer
    peer: Peer
    respond: Respond


class ChoreQueue:
    """Serves chores in their order, urgent ones first; used from one event loop."""

    def __init__(self, committer: Committer):
        self._committer = committer
        self._loop = asyncio.get_running_loop()
        self._urgent: collections.deque[_Waiting] = collections.deque()
        self._others: collections.deque[_Waiting] = collections.deque()
        self._many = _MANY
        self._running = False
        self._resting = False

    @property
    def running(self) -> bool:
        """Whether a chore has the thread that commits."""
        return self._running

    def submit(self, answer: Answer, peer: Peer, respond: Respond, urgent: bool = False) -> None:
        """Let a chore be answered, in the committer's thread, when its turn comes."""
        queue = self._urgent if urgent else self._others
        queue.append(_Waiting(answer, peer, respond))
        if len(self._others) >= self._many:
            self._drop_closed()
        self._next()

    def _drop_closed(self) -> None:
        for waiting in [w for w in self._others if w.peer.has_closed()]:
            self._others.remove(waiting)
            waiting.respond(None)
        self._many = max(_MANY, 2 * len(self._others))

    def _next(self) -> None:
        while not (self._running or self._resting):
            queue = self._urgent or self._others
            if not queue:
                return
            waiting = queue.popleft()
            if waiting.peer.has_closed():
                waiting.respond(None)
            else:
                self._run(waiting)

    def _run(self, waiting: _Waiting) -> None:
        self._running = True
        replies: list[Reply] = []
        took = 0.0

        def work() -> None:
            nonlocal took
            started = time.monotonic()
            replies.append(waiting.answer())
            took = time.monotonic() - started

        def done(_: Exception | None) -> None:
            self._running, self._resting = False, True
            self._loop.call_later(min(took, _LONGEST_REST), self._rested)
            waiting.respond(replies[0])

        self._committer.submit(work, done)

    def _rested(self) -> None:
        self._resting = False
        self._next()
