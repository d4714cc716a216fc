# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The few things of snapd that charmlibs-snap has not.

Those are reading connections, services and changes; changes with an end to the waiting; files.
Files and the snap's own commands go through /usr/bin/snap, the rest to snapd's socket. Errors are
those of charmlibs-snap where one fits, so that callers tell them apart in one way.
"""

import http.client
import json
import logging
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from charmlibs import snap
from opentelemetry import trace

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

SOCKET = "/run/snapd.socket"
_COMMAND = "/usr/bin/snap"
# snapd asks the store for up to 38 s before it answers.
_READ_SECONDS = 60.0
_POLL_SECONDS = 0.5
# The command breaks its sentences, and indents what follows by the length of "error: ".
_CONTINUED = "\n" + " " * len("error: ")


class CommandFailed(Exception):
    """A snap command ended with an error."""

    def __init__(self, text: str, stdout: str = ""):
        super().__init__(text)
        self.stdout = stdout


class TooSlow(CommandFailed):
    """It goes on, but nobody waits for it any longer."""


class _Connection(http.client.HTTPConnection):
    """HTTP over snapd's Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_READ_SECONDS)
        self.sock.connect(SOCKET)


def get(path: str, **query: str) -> Any:
    """Read from snapd's API.

    Raises:
        snap.SocketNotFoundError: snapd is not there.
        snap.ConnectionError: snapd does not answer.
        snap.APIError: snapd refuses.
    """
    with tracer.start_as_current_span(f"snapd GET {path}"):
        return _ask("GET", f"{path}?{urllib.parse.urlencode(query)}").get("result")


def change(method: str, path: str, content: Mapping[str, Any], seconds: float) -> None:
    """Ask for a change and wait for its end.

    Raises:
        snap.ChangeError: snapd undid it.
        TooSlow: it has not ended in this time.
        snap.Error: as in `get`; nothing was begun.
    """
    number = _ask(method, path, json.dumps(content))["change"]
    deadline = time.monotonic() + seconds
    while True:
        state = _ask("GET", f"/v2/changes/{number}")["result"]
        if state["status"] in ("Done", "Wait"):
            return
        if state["status"] in ("Error", "Hold"):
            message = str(state.get("err") or f"change {number} was undone")
            raise snap.ChangeError(message, kind="", value=str(number))
        if time.monotonic() >= deadline:
            raise TooSlow(f"{state.get('summary')} takes more than {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


def _ask(method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """One request to snapd's API; its answer with the parts `type`, `result`, `change`."""
    logger.debug("snapd: %s %s %s", method, path, body or "")
    connection = _Connection("localhost")
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except FileNotFoundError as error:
        raise snap.SocketNotFoundError(f"there is no {SOCKET}") from error
    except TimeoutError as error:
        raise snap.TimeoutError(f"snapd does not answer {path} in time") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise snap.ConnectionError(f"snapd does not answer {path}: {error}") from error
    finally:
        connection.close()
    if answer.get("type") == "error":
        result: dict[str, Any] = answer.get("result") or {}
        message = str(result.get("message", "unknown error"))
        raise snap.APIError(message, kind=str(result.get("kind", "")), value=result.get("value"))
    return answer


def run(*arguments: str, seconds: float) -> str:
    """Run the command `snap`; returns what it printed.

    Raises:
        CommandFailed: it failed; the text is what it said. `TooSlow`: it did not end.
    """
    logger.debug("snap %s", " ".join(arguments))
    try:
        with tracer.start_as_current_span(f"{_COMMAND} {arguments[0]}"):
            done = subprocess.run(  # noqa: S603 - a list, and no shell
                [_COMMAND, *arguments],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
    except subprocess.TimeoutExpired as error:
        raise TooSlow(f"snap {arguments[0]} takes more than {seconds:.0f} s") from error
    except OSError as error:
        raise CommandFailed(f"cannot run {_COMMAND}: {error}") from error
    if done.returncode:
        text = said(done.stderr) or f"snap {arguments[0]} ended with {done.returncode}"
        raise CommandFailed(text, done.stdout)
    return done.stdout


def said(stderr: str) -> str:
    """What the command says went wrong, without the line breaks that it makes for terminals."""
    return stderr.strip().removeprefix("error: ").replace(_CONTINUED, " ")
