# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The few things of snapd that charmlibs-snap has not: reading connections, services, local files.

Reads go to snapd's socket, changes to /usr/bin/snap. Errors are those of charmlibs-snap where one
fits, so that callers tell them apart in one way.
"""

import http.client
import json
import logging
import socket
import subprocess
import urllib.parse
from typing import Any

from charmlibs import snap

logger = logging.getLogger(__name__)

SOCKET = "/run/snapd.socket"
_COMMAND = "/usr/bin/snap"
_READ_SECONDS = 60.0
# The command breaks its sentences, and indents what follows by the length of "error: ".
_CONTINUED = "\n" + " " * len("error: ")


class CommandFailed(Exception):
    """A snap command ended with an error, or not in time."""

    def __init__(self, text: str, stdout: str = ""):
        super().__init__(text)
        self.stdout = stdout


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
    logger.debug("snapd: GET %s %s", path, query)
    connection = _Connection("localhost")
    try:
        connection.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except FileNotFoundError as error:
        raise snap.SocketNotFoundError(f"there is no {SOCKET}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise snap.ConnectionError(f"snapd does not answer {path}: {error}") from error
    finally:
        connection.close()
    if answer.get("type") == "error":
        result: dict[str, Any] = answer.get("result") or {}
        message = str(result.get("message", "unknown error"))
        raise snap.APIError(message, kind=str(result.get("kind", "")), value=result.get("value"))
    return answer.get("result")


def run(*arguments: str, seconds: float) -> str:
    """Run the command `snap`; returns what it printed.

    Raises:
        CommandFailed: it failed; the text is what it said.
    """
    logger.debug("snap %s", " ".join(arguments))
    try:
        done = subprocess.run(  # noqa: S603 - a list, and no shell
            [_COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"snap {arguments[0]} took more than {seconds:.0f} s") from error
    except OSError as error:
        raise CommandFailed(f"cannot run {_COMMAND}: {error}") from error
    if done.returncode:
        text = said(done.stderr) or f"snap {arguments[0]} ended with {done.returncode}"
        raise CommandFailed(text, done.stdout)
    return done.stdout


def said(stderr: str) -> str:
    """What the command says went wrong, without the line breaks that it makes for terminals."""
    return stderr.strip().removeprefix("error: ").replace(_CONTINUED, " ")
