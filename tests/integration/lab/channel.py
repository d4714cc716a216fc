# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The host's end of the line to a guest's agent; any number of threads may call at once."""

import base64
import contextlib
import itertools
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.integration.lab.errors import LabError, MachineLost

Answer = dict[str, Any]


class AgentError(LabError):
    """The guest could not do what was asked (no such file, no such program, ...)."""


class Channel:
    """Requests out, answers in, matched by their ids."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(None)
        self._line = line
        self._ids = itertools.count(time.monotonic_ns())
        self._waiting: dict[int, queue.SimpleQueue[Answer]] = {}
        self._lock = threading.Lock()
        self._lost = False
        threading.Thread(target=self._listen, name="lab-channel", daemon=True).start()

    def call(self, op: str, timeout: float, **fields: object) -> Answer:
        """Ask, and wait for the answer.

        Raises:
            AgentError: the guest's own refusal.
            MachineLost: no answer within `timeout` seconds, or the machine ended.
        """
        with self._lock:
            number = next(self._ids)
            answers = self._waiting[number] = queue.SimpleQueue()
        try:
            self._send({"id": number, "op": op, **fields})
            return self._answer(answers, op, timeout)
        finally:
            del self._waiting[number]

    def terminal(
        self, argv: list[str], size: tuple[int, int], show: Callable[[bytes], object]
    ) -> "Terminal":
        """Start an interactive program; `show` gets what it writes, from another thread."""
        with self._lock:
            number = next(self._ids)
            answers = self._waiting[number] = queue.SimpleQueue()
        rows, columns = size
        request = {"id": number, "op": "terminal", "argv": argv, "rows": rows, "columns": columns}
        self._send(request)
        return Terminal(self, number, answers, show)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            with self._lock:
                self._line.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MachineLost(f"the machine has ended: {error}") from error

    @staticmethod
    def _answer(answers: "queue.SimpleQueue[Answer]", op: str, timeout: float) -> Answer:
        try:
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise MachineLost(f"no answer to {op} within {timeout:.0f} s") from None
        if answer.get("lost"):
            raise MachineLost("the machine has ended")
        if "error" in answer:
            raise AgentError(f"{op}: {answer['error']}")
        return answer

    def _listen(self) -> None:
        try:
            with self._line.makefile("rb") as lines:
                for line in lines:
                    self._hand_on(line)
        except (OSError, ValueError):
            pass
        self._lost = True
        for answers in list(self._waiting.values()):
            answers.put({"lost": True})

    def _hand_on(self, line: bytes) -> None:
        """Answers to callers who gave up, or to those of a machine before it was cloned, go."""
        answer: Answer = json.loads(line)
        if waiting := self._waiting.get(answer["id"]):
            waiting.put(answer)


class Terminal:
    """An interactive program in the guest."""

    def __init__(
        self,
        channel: Channel,
        number: int,
        answers: "queue.SimpleQueue[Answer]",
        show: Callable[[bytes], object],
    ) -> None:
        self._channel = channel
        self._number = number
        self._answers = answers
        self._show = show

    def type(self, data: bytes) -> None:
        encoded = base64.b64encode(data).decode()
        self._channel.call("type", 10, to=self._number, data=encoded)

    def resize(self, rows: int, columns: int) -> None:
        self._channel.call("resize", 10, to=self._number, rows=rows, columns=columns)

    def wait(self) -> int:
        """Until the program ends; its exit code."""
        while True:
            answer = self._answers.get()
            if answer.get("lost"):
                raise MachineLost("the machine has ended")
            if "error" in answer:
                raise AgentError(answer["error"])
            if "output" not in answer:
                return int(answer["returncode"])
            self._show(base64.b64decode(answer["output"]))
