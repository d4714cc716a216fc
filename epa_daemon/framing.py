# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From a stream of bytes to single requests: one object, or one line each. No rules."""

import re

from epa_daemon.errors import Refusal
from epa_daemon.protocol import MAX_REQUEST

_BLANKS = b" \t\r\n"
_STRUCTURE = re.compile(rb'[{}"\\]')


class Framer:
    """Collects the bytes of one connection.

    It starts in single mode, where a request is one JSON object that ends with its closing brace
    (the sender neither adds a newline nor closes); `switch_to_lines` starts the persistent mode.
    Each byte is looked at once, however small the pieces in which it arrives.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._lines = False

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished request are here."""
        return bool(self._buffer)

    def switch_to_lines(self) -> None:
        """From now on each request is one line."""
        self._lines = True

    def feed(self, data: bytes) -> None:
        """Add received bytes; blanks between requests are dropped."""
        self._buffer += data if self._buffer else data.lstrip(_BLANKS)

    def next_request(self) -> bytes | None:
        """The next complete request, or None until more bytes are there.

        Raises:
            Refusal: `invalid-json` or `request-too-long`; the stream cannot be used any more.
        """
        end = self._line_end() if self._lines else self._object_end()
        if len(self._buffer if end is None else self._buffer[:end]) > MAX_REQUEST:
            raise Refusal("request-too-long", f"The request is longer than {MAX_REQUEST} bytes")
        if end is None:
            return None
        request = bytes(self._buffer[:end])
        rest = self._buffer[end:].lstrip(_BLANKS)
        self._buffer, self._scanned = rest, 0
        return request

    def _line_end(self) -> int | None:
        newline = self._buffer.find(b"\n", self._scanned)
        self._scanned = len(self._buffer)
        return None if newline < 0 else newline + 1

    def _object_end(self) -> int | None:
        if self._buffer and self._buffer[0] != ord("{"):
            raise Refusal("invalid-json", "The request must be one JSON object, starting with {")
        position = self._scanned
        while match := _STRUCTURE.search(self._buffer, position):
            position = match.end()
            token = match[0]
            if self._in_string:
                # The byte after a backslash never ends the string; it may not be here yet.
                position += token == b"\\"
                self._in_string = token != b'"'
            elif token == b'"':
                self._in_string = True
            elif token != b"\\":
                self._depth += 1 if token == b"{" else -1
                if self._depth == 0:
                    return position
        self._scanned = max(position, len(self._buffer))
        return None
