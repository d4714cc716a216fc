# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Changes that snapd makes: tried again while another is in the way; what its errors mean."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from charmlibs import snap
from opentelemetry import trace

import errors
import patience
import snapd

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

_T = TypeVar("_T")

# What stands in the way of a change mostly takes seconds: a connection, a hook of another charm's.
PATIENCE_SECONDS = 90.0
_AGAIN_SECONDS = 3.0
_HOOK_SAID = re.compile(r"\(run hook \"[^\"]+\": (.+)\)$")
_STORE_AWAY = ("network-timeout", "dns-failure", "store-down")
# snapd tells most of it in words only: those of Go's HTTP client, and its own.
_STORE_AWAY_WORDS = re.compile(
    r'\b(Get|Post|Head) "https?://|unable to contact snap store'
    r"|persistent network error|unexpected HTTP status code 5\d\d"
)
_BASE_AWAY = re.compile(r'snap base "([^"]+)"')
# The kind is lost by /usr/bin/snap, and by nothing else.
_CONFLICT = "snap-change-conflict"
_CONFLICT_WORDS = re.compile(r'has (".+" change|changes) in progress|too early for operation')


def make(what: str, span: str, work: Callable[[], _T]) -> _T:
    """Make a change; again and again while another change of snapd's stands in its way.

    Args:
        what: begins the sentence for people if it fails, such as `cannot connect a:b`.
        span: its name in traces.
        work: asks snapd for it; nothing has happened yet when it meets a conflict.

    Raises:
        errors.NeedsOperator: it will stay so.
        errors.HealsItself: snapd or the store is busy or away for now.
    """
    deadline = time.monotonic() + patience.left(PATIENCE_SECONDS)
    with told(what), tracer.start_as_current_span(span):
        while True:
            try:
                return work()
            except snap.APIError as error:
                if not _is_conflict(error.message, kind_of(error)) or _is_over(deadline):
                    raise
                logger.info("%s; trying again", error)
            except snapd.CommandFailed as error:
                if not _is_conflict(str(error)) or _is_over(deadline):
                    raise
                logger.info("%s; trying again", error)
            time.sleep(_AGAIN_SECONDS)


@contextlib.contextmanager
def told(what: str) -> Generator[None]:
    """Turn snapd's errors into the two kinds that a status knows.

    Raises:
        errors.NeedsOperator: it will stay so.
        errors.HealsItself: snapd or the store is busy or away for now.
    """
    try:
        yield
    except (snap.ConnectionError, snap.TimeoutError) as error:
        logger.warning("%s: %s", what, error)
        if isinstance(error, snap.SocketNotFoundError) or _refused(error):
            raise errors.NeedsOperator(
                "snapd is not running; start it: systemctl start snapd.socket"
            ) from error
        raise errors.HealsItself("waiting for snapd to answer") from error
    except snapd.TooSlow as error:
        logger.warning("%s: %s", what, error)
        raise errors.HealsItself(f"snapd is busy: {error}") from error
    except snap.APIError as error:
        raise trouble(what, error.message, kind_of(error)) from error
    except snapd.CommandFailed as error:
        raise trouble(what, str(error)) from error
    except snap.Error as error:
        raise errors.NeedsOperator(f"{what}: {reason(error.message)}") from error


def trouble(what: str, message: str, kind: str = "") -> errors.Trouble:
    """Which of the two kinds snapd's message is; `kind` is snapd's own word for it, if any."""
    logger.warning("%s: %s", what, message)
    if "cannot communicate with server" in message:
        return errors.HealsItself("waiting for snapd to answer")
    if kind in _STORE_AWAY or _STORE_AWAY_WORDS.search(message):
        base = _BASE_AWAY.search(message)
        needs = f": it needs the base {base[1]}" if base else ""
        return errors.HealsItself(f"the snap store cannot be reached ({what}{needs})")
    if _is_conflict(message, kind):
        return errors.HealsItself(f"snapd is busy: {reason(message)}")
    return errors.NeedsOperator(f"{what}: {reason(message)}")


def kind_of(error: snap.APIError) -> str:
    """Snapd's own word for an error, such as `snap-change-conflict`; "" if it has none."""
    return error._kind  # pyright: ignore[reportPrivateUsage]


def _is_conflict(message: str, kind: str = "") -> bool:
    return kind == _CONFLICT or bool(_CONFLICT_WORDS.search(message))


def _is_over(deadline: float) -> bool:
    return time.monotonic() + _AGAIN_SECONDS > deadline


def _refused(error: Exception) -> bool:
    """Whether nobody listens: systemd does for a snapd that merely restarts."""
    cause = error.__cause__
    return isinstance(getattr(cause, "reason", cause), ConnectionRefusedError)


def reason(message: str) -> str:
    """The sentence that matters in snapd's message.

    A change that a hook refused comes as a list of tasks, with what the hook said in brackets, or
    between dashes where that was several lines.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    dashes = [i for i, line in enumerate(lines) if "--" in line and set(line) <= {"-", ")"}]
    if len(dashes) >= 2 and dashes[1] > dashes[0] + 1:
        return lines[dashes[1] - 1]
    if len(lines) > 1 and lines[0].startswith("cannot perform the following tasks"):
        task = lines[1].removeprefix("- ")
        said = _HOOK_SAID.search(task)
        return said[1] if said else task
    return lines[0] if lines else "no reason given"
