# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One client: its bytes, its turn and its deadlines. Knows no rules."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from epa_daemon import peers, protocol
from epa_daemon.errors import Refusal
from epa_daemon.framing import Framer
from epa_daemon.peers import Peer
from epa_daemon.protocol import Request
from epa_daemon.replies import ErrorReply, Reply, Respond

SILENCE_SECONDS = 60.0
REQUEST_SECONDS = 10.0
REPLY_SECONDS = 30.0
# After an error the rest of what the client is still sending is read and dropped, for so long
# and so much, so that it gets to read the error instead of a broken pipe.
_DRAIN_SECONDS = 2.0
_DRAIN_BYTES = 4 * 1024 * 1024
_CHUNK = 64 * 1024
_NEVER = float("inf")

Submit = Callable[[Request, Peer, Respond], None]


class Keeper(Protocol):
    """What a connection needs of the server that keeps it."""

    submit: Submit
    loop: asyncio.AbstractEventLoop
    closing: bool

    def may_keep_unread(self) -> bool:
        """Whether replies that clients do not read stay within bounds all together."""
        ...

    def forget(self, connection: "Connection") -> None:
        """The connection has closed."""
        ...


class Connection:
    """One client. Its state is what it waits for: bytes, a decision, or room to write.

    Attributes:
        waiting: whether it waits for a decision.
        since: when it began to wait for the client: for a whole request, or to take the reply.
    """

    def __init__(self, server: Keeper, accepted: socket.socket):
        accepted.setblocking(False)
        self._server = server
        self._socket = accepted
        self._peer = peers.of(accepted)
        self._framer = Framer()
        self._persistent = False
        self.waiting = False
        self._draining: int | None = None
        self._output = b""
        self._open = True
        self._watching_input = False
        self._watching_output = False
        self.since = server.loop.time()
        self.deadline = self.since + SILENCE_SECONDS

    @property
    def pid(self) -> int:
        """The process that connected."""
        return self._peer.pid

    @property
    def idle(self) -> bool:
        """Whether nothing is owed to the client."""
        return not self.waiting and not self._output

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    @property
    def unread(self) -> int:
        """Bytes of a reply that the client has not taken yet."""
        return len(self._output)

    def silent(self) -> bool:
        """Whether the client has sent nothing yet, and has not closed either."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    def on_readable(self) -> None:
        """Bytes may be here."""
        try:
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            self._watch_input(True)
            return
        except OSError:
            self.close()
            return
        if self._draining is not None:
            self._drain(data)
        elif data:
            started = self._framer.pending
            self._framer.feed(data)
            if not started and self._framer.pending:
                self.deadline = self._server.loop.time() + REQUEST_SECONDS
            self._next()
        else:
            self._on_end()

    def _on_end(self) -> None:
        if self._framer.pending:
            self._refuse(Refusal("incomplete-request", "The connection ended inside a request"))
        else:
            self.close()

    def _next(self) -> None:
        """Take the next request, if it is complete; at most one is being answered at a time."""
        try:
            data = self._framer.next_request()
            if data is None:
                self._watch_input(True)
                return
            request = self._parse(data)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self.waiting = True
        self.deadline = _NEVER
        self._watch_input(False)
        if isinstance(request, Reply):
            self._reply(request)
        else:
            self._server.submit(request, self._peer, self._reply)

    def _parse(self, data: bytes) -> Request | Reply:
        """The request; on a persistent connection a bad one is answered and the next one read."""
        if self._persistent:
            try:
                return protocol.parse_request(data)
            except Refusal as refusal:
                return ErrorReply.of(refusal)
        request = protocol.parse_request(data)
        if request.keep_alive:
            self._persistent = True
            self._framer.switch_to_lines()
        elif self._framer.pending:
            raise Refusal("invalid-json", "The request is followed by other bytes")
        return request

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be a request, and end the connection."""
        self._draining = _DRAIN_BYTES
        self.waiting = True
        self._watch_input(False)
        self._reply(ErrorReply.of(refusal))

    def _reply(self, reply: Reply | None) -> None:
        self.waiting = False
        if reply is None:
            self.close()
        elif self._open:
            self._output = reply.encode() + (b"\n" if self._persistent else b"")
            self.since = self._server.loop.time()
            self.deadline = self.since + REPLY_SECONDS
            self._write()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._output)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        self._output = self._output[sent:]
        if self._output and not self._server.may_keep_unread():
            self.close()
        elif self._output:
            self._watch_output(True)
        elif self._draining is not None:
            self._start_draining()
        elif self._persistent and not self._server.closing:
            self._after_reply()
        else:
            self.close()

    def _on_writable(self) -> None:
        self._watch_output(False)
        self._write()

    def _after_reply(self) -> None:
        seconds = REQUEST_SECONDS if self._framer.pending else SILENCE_SECONDS
        self.since = self._server.loop.time()
        self.deadline = self.since + seconds
        # Not called directly: a client that sends many requests at once gets one turn of the
        # loop for each, as everybody else does.
        self._server.loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._open:
            self._next()

    def _start_draining(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.deadline = self._server.loop.time() + _DRAIN_SECONDS
        self._watch_input(True)

    def _drain(self, data: bytes) -> None:
        assert self._draining is not None
        self._draining -= len(data)
        if not data or self._draining <= 0:
            self.close()

    def overdue(self) -> None:
        """The deadline has passed: tell a client that is too slow, drop a silent one."""
        if self._framer.pending and self._draining is None and not self._output:
            self._refuse(
                Refusal(
                    "incomplete-request",
                    f"The request was not complete within {REQUEST_SECONDS:.0f} s",
                )
            )
        else:
            self.close()

    def close(self) -> None:
        """End the connection; a decision that is under way is finished, its reply dropped."""
        if self._open:
            self._open = False
            self._watch_input(False)
            self._watch_output(False)
            self._socket.close()
            self._server.forget(self)

    def _watch_input(self, wanted: bool) -> None:
        if wanted and not self._watching_input:
            self._server.loop.add_reader(self._socket, self.on_readable)
        elif not wanted and self._watching_input:
            self._server.loop.remove_reader(self._socket)
        self._watching_input = wanted

    def _watch_output(self, wanted: bool) -> None:
        if wanted and not self._watching_output:
            self._server.loop.add_writer(self._socket, self._on_writable)
        elif not wanted and self._watching_output:
            self._server.loop.remove_writer(self._socket)
        self._watching_output = wanted
