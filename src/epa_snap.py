# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap as snapd has it, and changes to it. Knows no Juju."""

import dataclasses
import datetime
import json
import logging
import re
from typing import Any

from charmlibs import snap

import changes
import patience
import snapd

logger = logging.getLogger(__name__)

NAME = "epa-orchestrator"
SERVICE = "daemon"
SLOT = "epa-info"
PEOPLES_COMMAND = "epa-orchestrator"

_UNKNOWN = re.compile("unknown|unsup")
_LONG = datetime.timedelta(days=365)
_CHECK_SECONDS = 60.0
# Juju carries an action's results in its database.
_MOST_EVENTS = 200
# Of what the daemon's --check finds, the rest leaves it running, and is in its health report.
_REFUSES_TO_START = ("cannot-start", "settings")


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
    with changes.told("cannot ask snapd"):
        try:
            info = snap.list_one(NAME)
        except snap.NotInstalledError:
            return None
    now = datetime.datetime.now(datetime.UTC)
    held = info.hold is not None and info.hold > now + _LONG
    return Installed(info.revision, info.version, info.tracking, held)


def hold() -> bool:
    """Keep snapd from refreshing by itself; False where snapd is too old to be told."""

    def work() -> bool:
        try:
            snap.hold(NAME)
        except snap.APIError as error:
            if "hold" not in error.message or not _UNKNOWN.search(error.message):
                raise
            logger.warning("this snapd cannot hold a snap (%s); it may refresh by itself", error)
            return False
        return True

    return changes.make("cannot hold the snap", "snap hold", work)


def options() -> dict[str, Any]:
    """The snap's options as they are set, sections as dictionaries."""
    with changes.told("cannot read the snap's options"):
        return snap.get(NAME)


def set_options(values: dict[str, str | int]) -> None:
    """Set options, all or none."""
    names = ", ".join(values)
    logger.info("setting %s", values)
    changes.make(f"{names} refused", "snap set", lambda: snap.set(NAME, values))


def services() -> dict[str, bool]:
    """The snap's apps, and whether each is a running service."""
    with changes.told("cannot ask snapd"):
        apps: list[dict[str, Any]] = snapd.get("/v2/apps", names=NAME)
    return {str(app.get("name")): bool(app.get("active")) for app in apps}


def restart() -> None:
    """Restart the daemon, or start it where it is stopped or disabled."""

    def work() -> None:
        if services().get(SERVICE):
            logger.info("restarting %s.%s", NAME, SERVICE)
            snap.restart(NAME, SERVICE)
        else:
            logger.info("starting %s.%s", NAME, SERVICE)
            snap.start(NAME, SERVICE, enable=True)

    changes.make("cannot restart the daemon", "snap restart", work)


def check() -> list[str]:
    """Why the daemon would refuse to start: its own sentences; [] if it would not, or cannot say.

    An older daemon knows no --check and would run instead; it has no command for people either.
    """
    if PEOPLES_COMMAND not in services():
        return []
    try:
        text = snapd.run(
            *("run", f"{NAME}.{SERVICE}", "--check", "--format", "json"),
            seconds=patience.left(_CHECK_SECONDS),
        )
    except snapd.CommandFailed as error:
        text = error.stdout
        if not text.strip():
            logger.error("the daemon's --check did not run: %s", error)
    try:
        problems = json.loads(text)["problems"]
        return [str(p["text"]) for p in problems if p["code"] in _REFUSES_TO_START]
    except (ValueError, KeyError, TypeError):
        logger.warning("the daemon's --check said %r", text[:200])
        return []


def topology() -> str:
    """The host map as the daemon's own command prints it.

    Raises:
        snapd.CommandFailed: it printed an error.
    """
    return snapd.run(
        "run", PEOPLES_COMMAND, "topology", seconds=patience.left(_CHECK_SECONDS)
    ).rstrip()


def ovs_affinity() -> str:
    """Open vSwitch's threads and masks as the daemon's own command prints them.

    Raises:
        snapd.CommandFailed: it printed an error.
    """
    return snapd.run("run", PEOPLES_COMMAND, "ovs", seconds=patience.left(_CHECK_SECONDS)).rstrip()


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
    return snapd.run(
        "run", PEOPLES_COMMAND, *asked, seconds=patience.left(_CHECK_SECONDS)
    ).rstrip()


def remove() -> None:
    """Remove the snap; snapd keeps a snapshot of its data."""
    changes.make("cannot remove the snap", "snap remove", lambda: snap.remove(NAME))
