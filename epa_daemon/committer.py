# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One thread that does the slow writes, one after the other, for the event loop.

A thread of our own and not an executor: handing over costs a quarter less, which every grant
pays, and a disk that hangs cannot keep the process from ending.
"""

import asyncio
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]
Done = Callable[[Exception | None], None]


class Committer:
    """Runs jobs in its thread and reports each in the loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Job, Done]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="commit", daemon=True).start()

    def submit(self, job: Job, done: Done) -> None:
        """Run a job; `done` is called in the loop afterwards, with what the job raised."""
        self._jobs.put((job, done))

    def _run(self) -> None:
        while True:
            job, done = self._jobs.get()
            failure: Exception | None = None
            try:
                job()
            except Exception as error:
                failure = error
            self._loop.call_soon_threadsafe(done, failure)
