# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Coverage-guided fuzzing of what reads bytes: `python -m tests.faults.fuzz TARGET OPTION...`.

The options are libFuzzer's (llvm.org/docs/LibFuzzer.html). It ends with the input that broke a
target; `make trust` gives each target its time.
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

# Untyped, and only where the dependency group `fuzz` is installed.
atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["epa_daemon"]):
    from epa_daemon import cpulist, framing, protocol
    from epa_daemon.errors import Refusal
    from epa_daemon.framing import Framer
    from epa_daemon.protocol import Request
    from epa_daemon.replies import ErrorReply

# Clients of today read 4096 bytes.
LONGEST_ERROR = 4096


def _requests(pieces: list[bytes], lines_after: int) -> list[bytes | str]:
    """What a framer makes of a stream: requests, and the code of a refusal at the end."""
    framer, found = Framer(), list[bytes | str]()
    for piece in pieces:
        framer.feed(piece)
        try:
            while (request := framer.next_request()) is not None:
                found.append(request)
                if len(found) == lines_after:
                    framer.switch_to_lines()
        except Refusal as refusal:
            return [*found, refusal.code]
    return found


def read_stream(data: bytes) -> None:
    """The same bytes are the same requests, in whatever pieces they arrive."""
    provider = atheris.FuzzedDataProvider(data)
    lines_after = provider.ConsumeIntInRange(0, 3)
    size = provider.ConsumeIntInRange(1, 40)
    stream: bytes = provider.ConsumeBytes(len(data))
    whole = _requests([stream], lines_after)
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    assert _requests(pieces, lines_after) == whole
    for request in whole:
        assert isinstance(request, str) or len(request) <= framing.MAX_REQUEST


def read_request(data: bytes) -> None:
    """Bytes are a request that keeps its limits, or a refusal that every client can read."""
    try:
        request = protocol.parse_request(data)
    except Refusal as refusal:
        reply = ErrorReply.of(refusal).encode()
        assert len(reply) < LONGEST_ERROR
        assert json.loads(reply)["code"] == refusal.code
        return
    assert isinstance(request, Request)
    again = json.dumps({"action": request.action(), **request.model_dump(mode="json")})
    assert protocol.parse_request(again.encode()) == request


def read_list(data: bytes) -> None:
    """A list of CPUs is read as it is written, or refused."""
    try:
        cpus = cpulist.parse(data.decode("latin-1"))
    except ValueError:
        return
    assert cpulist.parse(cpulist.format_ranges(cpus)) == cpus


TARGETS: dict[str, Callable[[bytes], None]] = {
    "stream": read_stream,
    "request": read_request,
    "list": read_list,
}


if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
