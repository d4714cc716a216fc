# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap as snapd has it, and changes to it. Knows no Juju."""

import contextlib
import dataclasses
import datetime
import json
import logging
import re
from collections.abc import Generator
from typing import Any

from charmlibs import snap
from opentelemetry import trace

import errors
import snapd

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

NAME = "epa-orchestrator"
SERVICE = "daemon"
SLOT = "epa-info"
PEOPLES_COMMAND = "epa-orchestrator"

_HOOK_SAID = re.compile(r"\(run hook \"[^\"]+\": (.+)\)$")
_LONG = datetime.timedelta(days=365)
_CHECK_SECONDS = 60.0
# Juju carries an action's results in its database.
_MOST_EVENTS = 200
_STORE_AWAY = ("network-timeout", "dns-failure", "store-down")
# snapd tells most of it in words only: those of Go's HTTP client, and its own.
_STORE_AWAY_WORDS = re.compile(
    r'\b(Get|Post|Head) "https?://|unable to contact snap store'
    r"|persistent network error|unexpected HTTP status code 5\d\d"
)


@dataclasses.dataclass(frozen=True)
class Installed:
    """The installed revision.

    Attributes:
        channel: the channel that it follows, also kept by a locally installed revision.
        held: never refreshed by itself.
    """

    revision: str
    version: str
    channel: str
    held: bool

    @property
    def local(self) -> bool:
        """Whether it came from a file and not from the store."""
        return self.revision.startswith("x")


def installed() -> Installed | None:
    """What is installed; None if nothing is."""
    with told("cannot ask snapd"):
        try:
            info = snap.list_one(NAME)
        except snap.NotInstalledError:
            return None
    now = datetime.datetime.now(datetime.UTC)
    held = info.hold is not None and info.hold > now + _LONG
    return Installed(info.revision, info.version, info.tracking, held)


def hold() -> bool:
    """Keep snapd from refreshing by itself; False where snapd is too old to be told."""
    with told("cannot hold the snap"), tracer.start_as_current_span("snap hold"):
        try:
            snap.hold(NAME)
        except snap.APIError as error:
            if "hold" in error.message and (
                "unknown" in error.message or "unsup" in error.message
            ):
                logger.warning(
                    "this snapd cannot hold a snap (%s); it may refresh by itself", error
                )
                return False
            raise
    return True


def options() -> dict[str, Any]:
    """The snap's options as they are set, sections as dictionaries."""
    with told("cannot read the snap's options"):
        return snap.get(NAME)


def set_options(values: dict[str, str | int]) -> None:
    """Set options, all or none."""
    names = ", ".join(values)
    logger.info("setting %s", values)
    with told(f"{names} refused"), tracer.start_as_current_span("snap set"):
        snap.set(NAME, values)


def services() -> dict[str, bool]:
    """The snap's apps, and whether each is a running service."""
    with told("cannot ask snapd"):
        apps: list[dict[str, Any]] = snapd.get("/v2/apps", names=NAME)
    return {str(app.get("name")): bool(app.get("active")) for app in apps}


def restart() -> None:
    """Restart the daemon, or start it where it is stopped or disabled."""
    with told("cannot restart the daemon"), tracer.start_as_current_span("snap restart"):
        if services().get(SERVICE):
            logger.info("restarting %s.%s", NAME, SERVICE)
            snap.restart(NAME, SERVICE)
        else:
            logger.info("starting %s.%s", NAME, SERVICE)
            snap.start(NAME, SERVICE, enable=True)


def check() -> list[str]:
    """Why the daemon would refuse to start: its own sentences; [] if it would not, or cannot say.

    An older daemon knows no --check and would run instead; it has no command for people either.
    """
    if PEOPLES_COMMAND not in services():
        return []
    try:
        text = snapd.run(
            "run", f"{NAME}.{SERVICE}", "--check", "--format", "json", seconds=_CHECK_SECONDS
        )
    except snapd.CommandFailed as error:
        text = error.stdout
        if not text.strip():
            logger.error("the daemon's --check did not run: %s", error)
    try:
        return [str(problem["text"]) for problem in json.loads(text)["problems"]]
    except (ValueError, KeyError, TypeError):
        logger.warning("the daemon's --check said %r", text[:200])
        return []


def topology() -> str:
    """The host map as the daemon's own command prints it.

    Raises:
        snapd.CommandFailed: it printed an error.
    """
    return snapd.run("run", PEOPLES_COMMAND, "topology", seconds=_CHECK_SECONDS).rstrip()


def ovs_affinity() -> str:
    """Open vSwitch's threads and masks as the daemon's own command prints them.

    Raises:
        snapd.CommandFailed: it printed an error.
    """
    return snapd.run("run", PEOPLES_COMMAND, "ovs", seconds=_CHECK_SECONDS).rstrip()


def history(service: str | None, since: str | None, style: str) -> str:
    """The newest changes as the daemon's own command prints them.

    Args:
        service: None for all.
        since: a time or an age; None for all that is kept.
        style: `table` or `json`.

    Raises:
        snapd.CommandFailed: it printed an error.
    """
    asked = ["history", "--last", str(_MOST_EVENTS), "--format", style]
    # One word each: a name may start with a dash.
    asked += [f"--service={service}"] if service is not None else []
    asked += [f"--since={since}"] if since is not None else []
    return snapd.run("run", PEOPLES_COMMAND, *asked, seconds=_CHECK_SECONDS).rstrip()


def remove() -> None:
    """Remove the snap; snapd keeps a snapshot of its data."""
    with told("cannot remove the snap"), tracer.start_as_current_span("snap remove"):
        snap.remove(NAME)


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
    except snap.APIError as error:
        kind = error._kind  # pyright: ignore[reportPrivateUsage]
        raise trouble(what, error.message, kind) from error
    except snap.Error as error:
        raise errors.NeedsOperator(f"{what}: {reason(error.message)}") from error


def trouble(what: str, message: str, kind: str = "") -> errors.Trouble:
    """Which of the two kinds snapd's message is; `kind` is snapd's own word for it, if any."""
    logger.warning("%s: %s", what, message)
    if kind in _STORE_AWAY or _STORE_AWAY_WORDS.search(message):
        return errors.HealsItself(f"the snap store cannot be reached ({what})")
    if kind == "snap-change-conflict":
        return errors.HealsItself(f"{what} yet: {reason(message)}")
    return errors.NeedsOperator(f"{what}: {reason(message)}")


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
