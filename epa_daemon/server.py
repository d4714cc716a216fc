# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""All connections of the Unix socket: how many there may be, and the end of those overdue.

Sockets are driven by the event loop's readiness callbacks and not by its streams: the listener
has to stop accepting at the limit of connections, which streams cannot, and a request that is
already here is answered without another turn of the loop. No connection can delay another: every
call is non-blocking, buffers are bounded, and one sweep a second ends those that are overdue.
"""

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from epa_daemon.connection import Connection, Submit

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
# No process can take the places of all others, whatever it does.
MAX_OF_A_PROCESS = 128
_ACCEPTS_PER_TURN = 64
_MAX_UNREAD = 32 * 1024 * 1024
_WARN_SECONDS = 60.0
# At the limit, a client that keeps a place so long without a use of it loses it to one that waits.
_PATIENCE_SECONDS = 0.2
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass
class Process:
    """The connections of one process.

    Attributes:
        replaced: how many it lost to further ones of its own, up to `until`.
    """

    connections: set[Connection] = field(default_factory=set[Connection])
    replaced: int = 0
    until: float = 0.0

    def crowded(self, now: float) -> bool:
        """Whether it has all its places, and has just replaced as many."""
        if now >= self.until:
            self.replaced, self.until = 0, now + _PATIENCE_SECONDS
        full = len(self.connections) >= MAX_OF_A_PROCESS
        return full and self.replaced >= MAX_OF_A_PROCESS


class Server:
    """Accepts connections on a listening socket and hands their requests to `submit`."""

    def __init__(self, listener: socket.socket, submit: Submit):
        self.submit = submit
        self.loop = asyncio.get_running_loop()
        self._listener = listener
        self._connections: set[Connection] = set()
        self._of_process: dict[int, Process] = {}
        self._accepting = False
        self.closing = False
        self._sweeping = False
        self._warn_at = 0.0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def start(self) -> None:
        """Accept from now on."""
        if not self._accepting and not self.closing:
            self._accepting = True
            self.loop.add_reader(self._listener, self._accept)

    def pause(self) -> None:
        """Accept no more for now; clients wait in the listener's backlog."""
        if self._accepting:
            self._accepting = False
            self.loop.remove_reader(self._listener)

    def stop(self) -> None:
        """Accept no more, and end the connections that wait for nothing."""
        self.closing = True
        self.pause()
        for connection in list(self._connections):
            if connection.idle:
                connection.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
                return
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                logger.warning("cannot accept a connection: %s; trying again in 1 s", error)
                self.pause()
                self.loop.call_later(1, self.start)
                return
            self._keep(Connection(self, accepted))

    def _keep(self, connection: Connection) -> None:
        process = self._of_process.setdefault(connection.pid, Process())
        if process.crowded(self.loop.time()) and connection.silent():
            # It costs little, as it can come again as fast as it is turned away.
            connection.close()
            return
        self._connections.add(connection)
        process.connections.add(connection)
        connection.on_readable()
        if len(process.connections) > MAX_OF_A_PROCESS:
            self._replace(process)
        if not self._sweeping and self._connections:
            self._sweeping = True
            self.loop.call_later(1, self._sweep)

    def _make_room(self) -> bool:
        """At the limit: give the place of the client that uses it least to one that waits."""
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        if not poller.poll(0):
            return False
        longest = _longest_unused(self._connections)
        if longest and self.loop.time() - longest.since >= _PATIENCE_SECONDS:
            longest.close()
            return True
        self.pause()
        self.loop.call_later(_PATIENCE_SECONDS / 4, self.start)
        return False

    def _replace(self, process: Process) -> None:
        """Beyond its places, a process gives up the one that it uses least."""
        if longest := _longest_unused(process.connections):
            process.replaced += 1
            longest.close()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            if connection.deadline <= now:
                connection.overdue()
        self._drop_vanished()
        self._sweeping = bool(self._connections)
        if self._sweeping:
            self.loop.call_later(1, self._sweep)

    def _drop_vanished(self) -> None:
        """Free the places of clients that closed while their change waits for its commit.

        Nothing is read from them meanwhile, so a hang-up has to be asked for. One that has only
        finished sending (half-closed) is not hung up, and gets its reply.
        """
        waiting = {c.descriptor: c for c in self._connections if c.waiting}
        poller = select.poll()
        for descriptor in waiting:
            poller.register(descriptor, 0)
        for descriptor, events in poller.poll(0) if waiting else ():
            if events & select.POLLHUP:
                waiting[descriptor].close()

    def may_keep_unread(self) -> bool:
        """Whether replies that clients do not read stay within bounds all together."""
        if sum(connection.unread for connection in self._connections) <= _MAX_UNREAD:
            return True
        now = self.loop.time()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            logger.warning("dropping replies: clients do not read %d MiB", _MAX_UNREAD >> 20)
        return False

    def forget(self, connection: Connection) -> None:
        """A connection has closed; another one may come in."""
        self._connections.discard(connection)
        process = self._of_process.get(connection.pid)
        if process:
            process.connections.discard(connection)
            if not process.connections:
                del self._of_process[connection.pid]
        if len(self._connections) < MAX_CONNECTIONS:
            self.start()


def _longest_unused(connections: Iterable[Connection]) -> Connection | None:
    unused = (connection for connection in connections if not connection.waiting)
    return min(unused, key=lambda connection: connection.since, default=None)
